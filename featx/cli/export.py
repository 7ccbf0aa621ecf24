"""``featx export``."""

from __future__ import annotations

from pathlib import Path

import click

from featx.cli.common import Output, json_option


@click.command("export", short_help="Take a store elsewhere.")
@click.argument("store")
@click.option(
    "--to",
    "kind",
    type=click.Choice(["npz", "csv", "parquet", "h5"]),
    default="npz",
    show_default=True,
    help="Format.",
)
@click.option("-o", "--output", "file", metavar="FILE", help="[default: STORE with the format's ending]")
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@json_option
def command(store: str, kind: str, file: str | None, overwrite: bool, as_json: bool) -> None:
    """Write the embeddings, names and labels of STORE as npz, CSV or Parquet, or a directory as one file."""
    import featx

    target = Path(file) if file else Path(store).with_suffix(f".{kind}")
    if target.suffix != f".{kind}":
        target = target.with_name(f"{target.name}.{kind}")
    featx.FeatureStore(store).export(target, overwrite=overwrite)
    output = Output(as_json)
    output.json({"store": store, "output": str(target)})
    output.line(str(target))
