"""Predictions to a file or to the terminal, for ``predict`` and ``classify``."""

from __future__ import annotations

import itertools
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

    if file:
        _refuse_foreign(Path(file))
    labels: Counter[str] = Counter()
    errors: list[str] = []

    def count() -> Iterator[Prediction]:
        for prediction in predictions:
            if prediction.error:
                errors.append(escape_name(prediction.name))
            else:
                labels[prediction.labels[0]] += 1
            yield prediction

    stream = count()
    # The first one before anything is written: wrong weights or a wrong folder show up here.
    first = list(itertools.islice(stream, 1))
    chosen = format or (SUFFIXES.get(Path(file).suffix.lower()) if file else None) or "csv"
    lines = format_predictions(itertools.chain(first, stream), chosen, top=top)
    if file:
        path = Path(file)
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
        images = "1 image" if len(errors) == 1 else f"{len(errors)} images"
        click.echo(f"{images} could not be used, such as {errors[0]}; see the column error", err=True)
    if file:
        click.echo(f"{file}: {labels.total()} predicted", err=True)
    if not labels:
        raise FeatxError(f"None of the {len(errors)} images could be used; the column error says why")
    return {"images": labels.total(), "labels": dict(labels), "errors": len(errors), "output": file}


def _refuse_foreign(path: Path) -> None:
    """Replace earlier predictions, and nothing else."""
    if path.exists() and not path.is_file():
        raise FeatxError(f"{path} is a folder or a device; give a file for the predictions")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FeatxError(f"{path} cannot be read: {error.strerror}; choose another file with -o") from error
    if start and not start.startswith((b"name,label,", b'{"name": ')):
        raise FeatxError(f"{path} exists and holds no predictions of featx; choose another file with -o")
