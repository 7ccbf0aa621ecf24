"""``featx predict``."""

from __future__ import annotations

from typing import Any

import click

from featx.cli.common import Output, device_options
from featx.cli.writing import prediction_options, write_predictions


@click.command("predict", short_help="Label new images with a model.")
@click.argument("model")
@click.argument("source")
@prediction_options(top=1)
@click.option("--weights", metavar="FILE", help="The backbone's weights, if the file has moved.")
@device_options
def command(
    model: str,
    source: str,
    weights: str | None,
    file: str | None,
    format: str | None,
    top: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Label the images of SOURCE with MODEL, a model.featx or a run folder.

    \b
    featx predict run/model.featx new_photos/
    featx predict run new_photos/ -o labels.csv --top 3
    """  # noqa: D301 - \b is click's own mark
    import featx

    output = Output(as_json)
    with output.progress() as on_progress:
        loaded = featx.Model.load(model, weights=weights)
        top = min(top, len(loaded.classes_))
        predictions = loaded.stream(source, top=top, on_progress=on_progress, **options)
        summary = write_predictions(predictions, file, format, top, to_stdout=not as_json)
    output.json({"model": model, "source": source, **summary})
