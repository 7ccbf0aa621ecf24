"""Images × network → embeddings: the stream that ``extract``, ``predict`` and the transformer share.

Nothing here imports torch before a network is needed.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from featx.errors import FeatxError, UnknownNameError
from featx.images.decoding import POLICY
from featx.images.loading import Loader, default_workers
from featx.images.sources import Source
from featx.records import ImageRecord, LayerSpec, Preprocess, Resize, Space, StoreDtype
from featx.spent import Spent
from featx.streams import EmbeddedBatch, beside_device, on_cores

if TYPE_CHECKING:
    from featx.backbones.network import Network

__all__ = ["EmbeddedBatch", "choose_preprocess", "embed", "parse_layer", "space_of"]


def embed(
    network: Network,
    source: Source,
    records: Sequence[ImageRecord],
    *,
    batch_size: int | Literal["auto"] = "auto",
    workers: int | Literal["auto"] = "auto",
    decoding: str = POLICY,
    claim: Callable[[bytes], bool] | None = None,
    trusted: Mapping[str, tuple[int, int, bytes]] | None = None,
    spent: Spent | None = None,
) -> Iterator[EmbeddedBatch]:
    """Stream records through the network.

    Parameters
    ----------
    network : Network
    source : Source
    records : sequence of ImageRecord
    batch_size : int or "auto"
        Images per forward pass; ``auto`` is what the network finds to be fastest.
    workers : int or "auto"
        Threads that decode and, on a CPU, compute; ``auto`` is one for each core.
    decoding, claim, trusted
        As for :class:`featx.images.loading.Loader`.
    spent : Spent, optional
        To which is added where the time goes.

    Yields
    ------
    EmbeddedBatch
        At most ``batch_size`` rows; images whose embedding is not finite come among ``others``. Each
        record comes once; the order is not that of ``records``.
    """
    threads = default_workers() if workers == "auto" else workers
    if threads < 1:
        raise FeatxError(f"{threads} workers were asked for; expected at least 1, or auto.")
    fixed = _batch_size(batch_size)
    if fixed is not None:
        network.engine.use_batch_size(fixed)
    loader = Loader(source, network.preprocess, decoding=decoding, claim=claim, trusted=trusted)
    spent = spent or Spent()
    if not records:
        return
    threads = min(threads, len(records))
    # More threads than cores take more of each other's time, and no less of the machine's.
    spent.threads = max(spent.threads, min(threads, default_workers()))
    spent.shares_cores = network.device == "cpu"
    stream = on_cores if spent.shares_cores else beside_device
    started = time.perf_counter()
    yield from stream(network, loader, records, threads=threads, batch_size=fixed, spent=spent)
    spent.wall += time.perf_counter() - started


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


def space_of(network: Network, store_dtype: StoreDtype, decoding: str = POLICY) -> Space:
    """Name the space of the embeddings that a network gives of images decoded by a policy."""
    return Space(
        provider=network.backbone.provider,
        backbone=network.backbone.name,
        weights=network.weights.identity,
        preprocess=network.preprocess.to_json(),
        decoding=decoding,
        precision=network.precision,
        store_dtype=store_dtype,
    )


def _batch_size(batch_size: int | Literal["auto"]) -> int | None:
    if batch_size == "auto":
        return None
    if batch_size < 1:
        raise FeatxError(f"A batch size of {batch_size} was given; expected at least 1, or auto.")
    return batch_size
