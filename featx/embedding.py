"""Images × network → embeddings: the stream that ``extract``, ``predict`` and the transformer share.

Nothing here imports torch before a network is needed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from featx.errors import FeatxError, UnknownNameError
from featx.images.decoding import POLICY
from featx.images.loading import LoadedImage, default_workers, load
from featx.images.sources import Source
from featx.records import ImageRecord, LayerSpec, Preprocess, Resize, Space, StoreDtype

if TYPE_CHECKING:
    from featx.backbones.network import Network


REPORT_EVERY = 256
"""Images without pixels after which a batch is given though it is not full: they need no network."""


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """What one batch gave.

    Parameters
    ----------
    indices : list of int, k
        Positions in the records given to :func:`embed`.
    digests : ndarray of uint8, (k, 32)
    phashes : ndarray of uint64, (k,)
    features : dict of layer name to ndarray of float32, (k, dim)
    others : list of LoadedImage
        Images that came by without pixels since the last batch: not claimed, or with a reason.
    """

    indices: list[int]
    digests: NDArray[np.uint8]
    phashes: NDArray[np.uint64]
    features: dict[str, NDArray[np.float32]]
    others: list[LoadedImage]


def embed(
    network: Network,
    source: Source,
    records: Sequence[ImageRecord],
    *,
    batch_size: int | Literal["auto"] = "auto",
    workers: int | Literal["auto"] = "auto",
    claim: Callable[[bytes], bool] | None = None,
    trusted: Mapping[str, tuple[int, int, bytes]] | None = None,
) -> Iterator[EmbeddedBatch]:
    """Stream records through the network, decoding ahead of it in threads.

    Parameters
    ----------
    network : Network
    source : Source
    records : sequence of ImageRecord
    batch_size : int or "auto"
        Images per forward pass; ``auto`` is what the network finds to be fastest.
    workers : int or "auto"
        Threads that decode.
    claim, trusted
        As for :func:`featx.images.loading.load`.

    Yields
    ------
    EmbeddedBatch
        At most ``batch_size`` rows; images whose embedding is not finite come among ``others``.
    """
    fixed = _batch_size(batch_size)
    threads = default_workers() if workers == "auto" else workers
    if threads < 1:
        raise FeatxError(f"{threads} workers were asked for; expected at least 1, or auto.")
    ready: list[LoadedImage] = []
    others: list[LoadedImage] = []
    claimed = 0
    for done, item in enumerate(
        load(source, records, network.preprocess, workers=threads, claim=claim, trusted=trusted), start=1
    ):
        claimed += item.pixels is not None
        (others if item.pixels is None else ready).append(item)
        if len(ready) >= (fixed or network.engine.batch_size) or len(others) == REPORT_EVERY:
            # As many of the rest as of those seen will have to be computed.
            network.engine.remaining = (len(records) - done) * claimed // done
            yield _forward(network, ready, others)
            ready, others = [], []
    if ready or others:
        yield _forward(network, ready, others)


def parse_layer(layer: str | LayerSpec) -> LayerSpec:
    """Read ``NODE`` or ``NODE:POOL``.

    Examples
    --------
    >>> parse_layer("layer2:gem")
    LayerSpec(node='layer2', pool='gem')
    """
    if isinstance(layer, LayerSpec):
        return layer
    from featx.backbones.pooling import check_pooling

    node, colon, pool = layer.partition(":")
    return LayerSpec(node, check_pooling(pool) if colon else None)


def choose_preprocess(
    backbone: str,
    weights: str | os.PathLike[str],
    preprocess: str | Preprocess | None,
    resize: Resize | None,
    image_size: int | None,
) -> Preprocess | None:
    """Combine a record with the two overrides; None if nothing was asked for.

    ``image_size`` scales ``resize_size`` with it, so that the share that the crop keeps stays.
    """
    if preprocess is None and resize is None and image_size is None:
        return None
    if resize is not None and resize not in get_args(Resize):
        raise UnknownNameError("resize", resize, get_args(Resize))
    from featx.backbones.catalog import find_backbone
    from featx.backbones.weights import default_preprocess, find_preprocess

    if isinstance(preprocess, Preprocess):
        record = preprocess
    elif preprocess is not None:
        record = find_preprocess(preprocess, find_backbone(backbone))
    else:
        record = default_preprocess(find_backbone(backbone), weights)
    if image_size is not None:
        if image_size < 1:
            raise FeatxError(f"An image size of {image_size} was given; expected at least 1 pixel.")
        scaled = round(record.resize_size * image_size / record.image_size)
        record = dataclasses.replace(record, image_size=image_size, resize_size=scaled)
    if resize is not None:
        record = dataclasses.replace(record, resize=resize)
    return record


def space_of(network: Network, store_dtype: StoreDtype) -> Space:
    """Name the space of the embeddings that a network gives."""
    return Space(
        provider=network.backbone.provider,
        backbone=network.backbone.name,
        weights=network.weights.identity,
        preprocess=network.preprocess.to_json(),
        decoding=POLICY,
        precision=network.precision,
        store_dtype=store_dtype,
    )


def _batch_size(batch_size: int | Literal["auto"]) -> int | None:
    if batch_size == "auto":
        return None
    if batch_size < 1:
        raise FeatxError(f"A batch size of {batch_size} was given; expected at least 1, or auto.")
    return batch_size


def _forward(network: Network, ready: list[LoadedImage], others: list[LoadedImage]) -> EmbeddedBatch:
    if not ready:
        return EmbeddedBatch([], np.zeros((0, 32), np.uint8), np.zeros(0, np.uint64), {}, others)
    features = network.embed(np.stack([item.pixels for item in ready if item.pixels is not None]))
    finite = np.all([np.isfinite(rows).all(axis=1) for rows in features.values()], axis=0)
    if not finite.all():
        reason = f"the embedding is not finite (NaN or Inf, computed in {network.precision})"
        others = others + [
            dataclasses.replace(item, pixels=None, reason=reason)
            for item, good in zip(ready, finite, strict=True)
            if not good
        ]
        ready = [item for item, good in zip(ready, finite, strict=True) if good]
        features = {name: rows[finite] for name, rows in features.items()}
    return EmbeddedBatch(
        [item.index for item in ready],
        np.frombuffer(b"".join(item.digest for item in ready), np.uint8).reshape(-1, 32),
        np.array([item.phash for item in ready], np.uint64),
        features,
        others,
    )
