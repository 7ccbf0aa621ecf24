"""``featx report``."""

from __future__ import annotations

import click

from featx.cli.common import Output, json_option


@click.command("report", short_help="Build the report again.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", "folder", metavar="FOLDER", help="Where to write; needed for several runs.")
@click.option("--source", metavar="DIR", help="Where the images lie now, for thumbnails, if they moved.")
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@json_option
def command(runs: tuple[str, ...], folder: str | None, source: str | None, show: bool, as_json: bool) -> None:
    """Build the report of a RUN again, or one report over several.

    Mistakes, suspected labels and examples are shown as thumbnails where the images are still in their
    place, or in that of --source.
    """
    import featx

    page = featx.write_report(runs, folder, source=source)
    output = Output(as_json)
    output.json({"report": str(page)})
    output.line(str(page))
    if show:
        click.launch(page.absolute().as_uri())
