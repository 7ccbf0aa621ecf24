"""Predictions to a file or to the terminal, for ``predict`` and ``classify``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from featx.cli.common import Command, json_option
from featx.errors import FeatxError
from featx.records import Prediction, escape_name

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def prediction_options(top: int) -> Callable[[Command], Command]:
    """Add ``-o``, ``--format``, ``--top`` and ``--json``."""

    def decorate(command: Command) -> Command:
        command = json_option(command)
        command = click.option(
            "--top",
            type=click.IntRange(min=1),
            default=top,
            show_default=True,
            metavar="K",
            help="Classes to give, the most probable first.",
        )(command)
        command = click.option(
            "--format", type=click.Choice(["csv", "jsonl"]), help="[default: by the ending of FILE, else csv]"
        )(command)
        return click.option("-o", "--output", "file", metavar="FILE", help="Write there, not to stdout.")(
            command
        )

    return decorate


def write_predictions(
    predictions: Iterable[Prediction], file: str | None, format: str | None, top: int, *, to_stdout: bool
) -> dict[str, Any]:
    """Write a stream of predictions, and count what went by."""
    from featx.files import publish
    from featx.prediction import format_predictions

    labels: Counter[str] = Counter()
    errors: list[str] = []

    def count() -> Iterator[Prediction]:
        for prediction in predictions:
            if prediction.error:
                errors.append(escape_name(prediction.name))
            else:
                labels[prediction.labels[0]] += 1
            yield prediction

    chosen = format or (SUFFIXES.get(Path(file).suffix.lower()) if file else None) or "csv"
    lines = format_predictions(count(), chosen, top=top)
    if file:
        path = Path(file)
        if path.is_dir():
            raise FeatxError(f"{file} is a folder; give a file for the predictions")
        with publish(path) as out:
            for line in lines:
                out.write(line.encode("utf-8", "surrogateescape"))
    elif to_stdout:
        for line in lines:
            sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    else:
        for _ in lines:
            pass
    if errors:
        click.echo(
            f"{len(errors)} images could not be used, such as {errors[0]}; see the column error", err=True
        )
    return {"images": labels.total(), "labels": dict(labels), "errors": len(errors), "output": file}
