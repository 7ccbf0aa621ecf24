"""Predictions as files, and the pretrained network's own classes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from featx.embedding import choose_preprocess, embed
from featx.errors import BackboneError, FeatxError
from featx.images.decoding import POLICY
from featx.images.sources import Source, SourceLike, list_images, open_source
from featx.records import (
    ImageRecord,
    Precision,
    Prediction,
    Preprocess,
    Progress,
    ProgressCallback,
    Resize,
    escape_name,
)

if TYPE_CHECKING:
    from featx.backbones.network import Network

Judged: TypeAlias = "tuple[NDArray[np.float64] | None, str]"
"""Probabilities (n_classes,), or None and the reason why not."""

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

    Returns
    -------
    iterator of Prediction
        One per image, in the order of the source; an image that cannot be used has an ``error``. What
        is wrong with the arguments is raised now, not at the first step.

    Raises
    ------
    SourceError, WeightsError, BackboneError
        If the network has no classes of its own, or its weights are random.

    Examples
    --------
    >>> import numpy as np, featx
    >>> black = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> (prediction,) = featx.classify([black], "featx-tiny", top=3)
    >>> len(prediction.labels), prediction.probabilities[0] >= prediction.probabilities[1]
    (3, True)
    """
    if top < 1:
        raise FeatxError(f"The top {top} classes were asked for; expected at least 1.")
    if os.fspath(weights) == "none":
        raise BackboneError(
            f"Random weights of {backbone!r} know no classes; leave --weights out, or give a file."
        )
    opened = open_source(source)
    records = list_images(opened)
    from featx.backbones import load_classifier

    network = load_classifier(
        backbone,
        weights=weights,
        precision=precision,
        device=device,
        preprocess=choose_preprocess(backbone, weights, preprocess, resize, image_size),
        compile="auto",
    )
    categories = network.categories or ()
    (logits,) = (layer.name for layer in network.layers)

    def judge(features: Mapping[str, NDArray[np.float32]]) -> list[Judged]:
        return [(row, "") for row in softmax(features[logits].astype(np.float64), axis=1)]

    rows = judge_in_order(
        network,
        opened,
        records,
        judge,
        stage="classify",
        decoding=POLICY,
        batch_size=batch_size,
        workers=workers,
        on_progress=on_progress,
    )
    return (name_classes(*row, categories, top) for row in rows)


def judge_in_order(
    network: Network,
    source: Source,
    records: Sequence[ImageRecord],
    judge: Callable[[Mapping[str, NDArray[np.float32]]], Sequence[Judged]],
    *,
    stage: str,
    decoding: str,
    batch_size: int | Literal["auto"],
    workers: int | Literal["auto"],
    on_progress: ProgressCallback | None,
) -> Iterator[tuple[str, NDArray[np.float64] | None, str]]:
    """Embed images and judge them batch by batch, in the order of the source and in bounded memory.

    Parameters
    ----------
    judge : callable
        Takes the features of a batch by layer name, each (k, dim); gives k pairs of probabilities and
        error, of which one is None or empty.
    stage : str
        For the progress.
    decoding : str
        One of :data:`featx.images.decoding.POLICIES`.

    Yields
    ------
    name, probabilities or None, error
        One for every record; an image that cannot be used has its reason as the error.
    """
    waiting: dict[int, Judged] = {}
    done = 0
    stream = embed(network, source, records, batch_size=batch_size, workers=workers, decoding=decoding)
    for batch in stream:
        if batch.indices:
            waiting |= dict(zip(batch.indices, judge(batch.features), strict=True))
        waiting |= {item.index: (None, item.reason) for item in batch.others}
        while done in waiting:
            yield (records[done].name, *waiting.pop(done))
            done += 1
        if on_progress is not None:
            on_progress(Progress(stage, done, len(records)))


def name_classes(
    name: str, probabilities: NDArray[np.float64] | None, error: str, classes: Sequence[str], top: int
) -> Prediction:
    """Give the ``top`` classes of one image, the most probable first.

    Examples
    --------
    >>> import numpy as np
    >>> name_classes("a.jpg", np.array([0.25, 0.75]), "", ["ants", "bees"], 1)
    Prediction(name='a.jpg', labels=('bees',), probabilities=(0.75,), error='')
    """
    if probabilities is None:
        return Prediction(name, (), (), error)
    best = np.argsort(-probabilities, kind="stable")[:top]
    return Prediction(
        name,
        tuple(str(classes[index]) for index in best),
        tuple(float(probabilities[index]) for index in best),
    )


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
