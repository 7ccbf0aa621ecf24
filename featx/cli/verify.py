"""``featx verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from featx.cli.common import Output, json_option
from featx.cli.info import count, what_it_is
from featx.errors import DamagedStoreError, FeatxError, NotAStoreError
from featx.records import escape_name

if TYPE_CHECKING:
    from featx.store.reader import FeatureStore


@click.command("verify", short_help="Check every byte of a store.")
@click.argument("store")
@json_option
def command(store: str, as_json: bool) -> None:
    """Check every byte of STORE against its checksum, then its structure, its digests and its rows.

    Of a directory, every part; of a store that is not finished, the parts that there are. All that is
    wrong is named, a line each, and the exit code is 1. An HDF5 file that featx did not write is looked
    at in a child process, and what it holds is said.
    """
    from featx.store.unfinished import describe_unfinished, is_unfinished

    output, path = Output(as_json), Path(store)
    problems: tuple[str, ...]
    try:
        opened = _verify(store, output)
    except NotAStoreError as error:
        problems = (what_it_is(path, error),)
    except DamagedStoreError as error:
        problems = error.problems
    except FeatxError as error:
        problems = (str(error),)
        if is_unfinished(path):
            problems = (*describe_unfinished(path, check=True).problems, str(error))
    else:
        output.json({"store": store, "ok": True, "images": len(opened), "problems": []})
        parts = f", {count(opened.n_parts, 'part')}" if opened.n_parts else ""
        images, layers = count(len(opened), "image"), count(len(opened.layers), "layer")
        output.line(f"{store}: whole, {images}, {layers}{parts}")
        return
    output.json({"store": store, "ok": False, "problems": list(problems)})
    for line in problems[:-1]:
        click.echo(escape_name(f"Error: {line}"), err=True)
    raise FeatxError(problems[-1])


def _verify(store: str, output: Output) -> FeatureStore:
    import featx

    with output.progress() as on_progress:
        opened = featx.FeatureStore(store, check=True, on_progress=on_progress)
        opened.verify(on_progress)
    return opened
