"""``featx classify``."""

from __future__ import annotations

from typing import Any

import click

from featx.cli.common import Output, backbone_options, device_options
from featx.cli.writing import prediction_options, write_predictions


@click.command("classify", short_help="The pretrained network's own classes.")
@click.argument("source")
@click.option(
    "--backbone", default="resnet50", show_default=True, metavar="NAME", help="See `featx backbones`."
)
@prediction_options(top=5)
@backbone_options
@device_options
def command(
    source: str,
    backbone: str,
    file: str | None,
    format: str | None,
    top: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Name what the pretrained network itself sees in the images of SOURCE, before any transfer.

    \b
    featx classify photos/ --backbone mobilenet_v2 --weights mobilenet_v2.pth
    """  # noqa: D301 - \b is click's own mark
    import featx

    output = Output(as_json)
    with output.progress() as on_progress:
        predictions = featx.classify(source, backbone, top=top, on_progress=on_progress, **options)
        summary = write_predictions(predictions, file, format, top, to_stdout=not as_json)
    output.json({"backbone": backbone, "source": source, **summary})
