"""``featx verify``."""

from __future__ import annotations

import click

from featx.cli.common import Output, json_option


@click.command("verify", short_help="Check every byte of a store.")
@click.argument("store")
@json_option
def command(store: str, as_json: bool) -> None:
    """Check every byte of STORE against its checksum, then its structure and its rows."""
    import featx

    opened = featx.FeatureStore(store)
    opened.verify()
    output = Output(as_json)
    output.json({"store": store, "ok": True, "images": len(opened)})
    output.line(f"{store}: whole, {len(opened)} images, {len(opened.layers)} layers")
