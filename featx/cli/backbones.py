"""``featx backbones``."""

from __future__ import annotations

import click

from featx.cli.common import Output, json_option

_UNLISTED = "timm:NAME (with `pip install timm`) and custom:package.module:function"


@click.command("backbones", short_help="The networks there are.")
@click.argument("search", required=False)
@json_option
def command(search: str | None, as_json: bool) -> None:
    """List the backbones, or those whose name holds SEARCH.

    Not listed: timm:NAME, any network of timm, and custom:package.module:function, a function of yours
    that returns one.
    """
    import featx

    names = [name for name in featx.list_backbones() if search is None or search.lower() in name.lower()]
    output = Output(as_json)
    output.json({"backbones": names})
    if not names:
        raise featx.FeatxError(
            f"No backbone's name holds {search!r}; `featx backbones` lists all of them but {_UNLISTED}."
        )
    if not as_json:
        for name in names:
            click.echo(name)
        click.echo(f"Besides: {_UNLISTED}.", err=True)
