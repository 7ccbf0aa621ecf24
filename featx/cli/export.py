"""``featx export``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from featx.cli.common import Output, json_option

KINDS = ("npz", "csv", "parquet", "h5")


@click.command("export", short_help="Take a store elsewhere.")
@click.argument("store")
@click.option(
    "--to", "kind", type=click.Choice(KINDS), help="Format.  [default: by the ending of FILE, else npz]"
)
@click.option("-o", "--output", "file", metavar="FILE", help="[default: STORE with the format's ending]")
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@json_option
def command(store: str, kind: str | None, file: str | None, overwrite: bool, as_json: bool) -> None:
    """Write STORE as npz, CSV or Parquet, or a directory as one file.

    All of them hold the embeddings, names, labels, digests and further columns.
    """
    import featx

    target = _target(store, kind, file)
    with featx.FeatureStore(store) as opened:
        opened.export(target, overwrite=overwrite)
    output = Output(as_json)
    output.json({"store": store, "output": str(target)})
    output.line(str(target))


def _target(store: str, kind: str | None, file: str | None) -> Path:
    if file is None:
        named = Path(store) if Path(store).name not in ("", "..") else Path(os.path.realpath(store))
        return named.with_suffix(f".{kind or KINDS[0]}")
    target = Path(file)
    ending = target.suffix.lower().removeprefix(".")
    if kind and ending in KINDS and ending != kind:
        raise click.UsageError(f"{file} ends in .{ending}, and --to asks for {kind}; leave one of them away")
    if ending in KINDS or (ending and not kind):  # the format decides what is no ending
        return target
    return target.with_name(f"{target.name}.{kind or KINDS[0]}")
