"""``featx verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from featx.cli.common import Output, json_option

if TYPE_CHECKING:
    from featx.store.reader import FeatureStore


@click.command("verify", short_help="Check every byte of a store.")
@click.argument("store")
@json_option
def command(store: str, as_json: bool) -> None:
    """Check every byte of STORE against its checksum, then its structure, its digests and its rows.

    Of a directory, every part. All that is wrong is named, a line each, and the exit code is 1. An HDF5
    file that featx did not write is looked at in a child process, and what it holds is said.
    """
    from featx.errors import DamagedStoreError, FeatxError, NotAStoreError
    from featx.store.foreign import describe_foreign, is_hdf5

    output = Output(as_json)
    problems: tuple[str, ...]
    try:
        opened = _verify(store, output)
    except NotAStoreError as error:
        path = Path(store)
        problems = (str(error),)
        if path.is_file() and is_hdf5(path):
            try:
                problems = (describe_foreign(path).describe(),)
            except FeatxError as worse:
                problems = (str(worse),)
    except DamagedStoreError as error:
        problems = error.problems
    except FeatxError as error:
        problems = (str(error),)
    else:
        output.json({"store": store, "ok": True, "images": len(opened), "problems": []})
        parts = f", {opened.n_parts} parts" if opened.n_parts else ""
        output.line(f"{store}: whole, {len(opened)} images, {_count(len(opened.layers))}{parts}")
        return
    output.json({"store": store, "ok": False, "problems": list(problems)})
    for line in problems[:-1]:
        click.echo(f"Error: {line}", err=True)
    raise FeatxError(problems[-1])


def _verify(store: str, output: Output) -> FeatureStore:
    import featx

    with output.progress() as on_progress:
        opened = featx.FeatureStore(store, check=True, on_progress=on_progress)
        opened.verify(on_progress)
    return opened


def _count(layers: int) -> str:
    return f"{layers} layer{'s' * (layers > 1)}"
