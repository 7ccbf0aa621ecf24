"""Predictions as files, and the pretrained network's own classes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from featx.embedding import choose_preprocess, embed
from featx.errors import BackboneError, FeatxError
from featx.images.sources import SourceLike, list_images, open_source
from featx.records import (
    Precision,
    Prediction,
    Preprocess,
    Progress,
    ProgressCallback,
    Resize,
    escape_name,
)

FORMATS = ("csv", "jsonl")


def classify(
    source: SourceLike,
    backbone: str = "resnet50",
    *,
    weights: str | os.PathLike[str] = "default",
    top: int = 5,
    preprocess: str | Preprocess | None = None,
    resize: Resize | None = None,
    image_size: int | None = None,
    precision: Precision | Literal["auto"] = "auto",
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    workers: int | Literal["auto"] = "auto",
    on_progress: ProgressCallback | None = None,
) -> Iterator[Prediction]:
    """Give the pretrained network's own classes, before any transfer.

    Parameters
    ----------
    source : path, sequence or ndarray
        Any source of images.
    backbone : str
        A network with a classifier, such as ``"mobilenet_v2"``.
    weights : "default" or path
        Pretrained ones: random weights know no classes.
    top : int, default=5
        How many classes to give, the most probable first.
    preprocess, resize, image_size, precision, device, batch_size, workers, on_progress
        As for :func:`featx.extract`.

    Yields
    ------
    Prediction
        One per image, in the order of the source; an image that cannot be used has an ``error``.

    Raises
    ------
    BackboneError
        If the network has no classes of its own, or its weights are random.
    """
    if top < 1:
        raise FeatxError(f"The top {top} classes were asked for; expected at least 1.")
    if os.fspath(weights) == "none":
        raise BackboneError(
            f"Random weights of {backbone!r} know no classes; leave --weights out, or give a file."
        )
    opened = open_source(source)
    records = list_images(opened)
    from featx.backbones.network import load_classifier

    network = load_classifier(
        backbone,
        weights=weights,
        precision=precision,
        device=device,
        preprocess=choose_preprocess(backbone, weights, preprocess, resize, image_size),
    )
    categories = network.categories or ()
    (logits_name,) = (layer.name for layer in network.layers)
    done = 0
    waiting: dict[int, Prediction] = {}
    for batch in embed(
        network,
        opened,
        records,
        batch_size=batch_size,
        workers=workers,
    ):
        if batch.indices:
            logits = batch.features[logits_name].astype(np.float64)
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
            for index, row in zip(batch.indices, probabilities, strict=True):
                best = np.argsort(-row, kind="stable")[:top]
                waiting[index] = Prediction(
                    records[index].name,
                    tuple(categories[k] for k in best),
                    tuple(float(row[k]) for k in best),
                )
        for item in batch.others:
            waiting[item.index] = Prediction(records[item.index].name, (), (), item.reason)
        while done in waiting:
            yield waiting.pop(done)
            done += 1
        if on_progress is not None:
            on_progress(Progress("classify", done, len(records)))


def format_predictions(
    predictions: Iterable[Prediction], format: str = "csv", *, top: int = 1
) -> Iterator[str]:
    r"""Write predictions as text, piece by piece.

    Parameters
    ----------
    predictions : iterable of Prediction
    format : {"csv", "jsonl"}
        CSV has the columns ``name``, ``label``, ``probability``, then ``label_2``,
        ``probability_2``, … up to ``top``, and ``error``; JSON lines have the same keys. In JSON, bytes
        of a name, a label or an error that are no text are escaped.
    top : int, default=1

    Yields
    ------
    str
        One line each, the line end included.

    Raises
    ------
    FeatxError
        For another format.

    Examples
    --------
    >>> from featx.records import Prediction
    >>> print("".join(format_predictions([Prediction("a.jpg", ("ants",), (0.875,))])), end="")
    name,label,probability,error
    a.jpg,ants,0.875000,
    """
    if format not in FORMATS:
        raise FeatxError(f"Unknown format {format!r}; expected {' or '.join(FORMATS)}.")
    columns = ["name", "label", "probability"]
    for rank in range(2, top + 1):
        columns += [f"label_{rank}", f"probability_{rank}"]
    columns.append("error")
    if format == "csv":
        yield _csv_line(columns)
    for prediction in predictions:
        pairs = list(zip(prediction.labels, prediction.probabilities, strict=True))
        if format == "csv":
            cells = [cell for label, p in pairs for cell in (label, f"{p:.6f}")]
            cells += [""] * (len(columns) - 2 - len(cells))
            yield _csv_line([prediction.name, *cells, prediction.error])
        else:
            row: dict[str, str | float | None] = {"name": escape_name(prediction.name)}
            for rank in range(top):
                suffix = f"_{rank + 1}" if rank else ""
                label, p = pairs[rank] if rank < len(pairs) else (None, None)
                row[f"label{suffix}"] = None if label is None else escape_name(label)
                row[f"probability{suffix}"] = p
            row["error"] = escape_name(prediction.error) or None
            yield json.dumps(row, ensure_ascii=False) + "\n"


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
