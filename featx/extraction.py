"""Images × backbone → store: every image goes once through the frozen network.

Nothing here imports torch before a network is needed, so that an unchanged folder is answered at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from featx.canaries import check_drift
from featx.embedding import EmbeddedBatch, choose_preprocess, embed, parse_layer, space_of
from featx.environment import environment, peak_memory_bytes
from featx.errors import FeatxError, ImageError, TooManySkippedError, UnknownNameError
from featx.images.sources import Source, SourceLike, list_images, open_source
from featx.records import (
    ExtractionSummary,
    ImageRecord,
    LayerSpec,
    Precision,
    Preprocess,
    Progress,
    ProgressCallback,
    Resize,
    SkippedImage,
    StoreDtype,
    escape_name,
)
from featx.reuse import describe_request, existing_store, holds_all, is_unchanged, trusted_digests
from featx.store.reader import FeatureStore
from featx.store.rounding import share_lost
from featx.store.writer import IndexRow, StoreWriter

if TYPE_CHECKING:
    from featx.backbones.network import Network

DEFAULT_BACKBONE = "resnet50"
DEFAULT_MAX_SKIP = 0.1
TRIAL_IMAGES = 4
TRIAL_LOSS = 0.002
"""Relative error of a row that rounding to float16 may cost: 2⁻¹¹ for a normal number, with some room."""


def extract(
    source: SourceLike,
    store: str | os.PathLike[str],
    *,
    backbone: str = DEFAULT_BACKBONE,
    weights: str | os.PathLike[str] = "default",
    layers: Sequence[str | LayerSpec] = (),
    preprocess: str | Preprocess | None = None,
    resize: Resize | None = None,
    image_size: int | None = None,
    precision: Precision | Literal["auto"] = "auto",
    store_dtype: StoreDtype | Literal["auto"] = "auto",
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    workers: int | Literal["auto"] = "auto",
    seed: int = 0,
    strict: bool = False,
    max_skip: float = DEFAULT_MAX_SKIP,
    rehash: bool = False,
    overwrite: bool = False,
    on_progress: ProgressCallback | None = None,
) -> FeatureStore:
    """Embed every image of a source and keep the embeddings in a store.

    Run again, it computes only what the store does not hold yet; if nothing changed, it returns
    without loading torch.

    Parameters
    ----------
    source : path, sequence or ndarray
        See :func:`featx.images.sources.open_source`.
    store : path
        The HDF5 file to write, usually ``something.h5``.
    backbone : str, default="resnet50"
        One of :func:`featx.list_backbones`.
    weights : {"default", "none"} or path
        The network's own best weights, seeded random ones, or a ``.pth`` or ``.safetensors`` file.
    layers : sequence of str or LayerSpec
        Nodes as ``NODE`` or ``NODE:POOL``; empty for the penultimate one.
    preprocess : str, Preprocess or None
        The name of a backbone whose record is used, or a record; None for the weights' own.
    resize : {"crop", "squash", "pad"} or None
    image_size : int or None
        Side of the network's input in pixels.
    precision : {"auto", "fp32", "bf16", "fp16"}
        What the network computes in; ``auto`` is bf16 where the hardware has units for it, and what
        an existing store has.
    store_dtype : {"auto", "float16", "float32"}
        What the rows are stored in; ``auto`` is what an existing store has, else float16, unless a few
        of the images show that its range does not hold these embeddings.
    device : str, default="auto"
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    batch_size, workers : int or "auto"
        Images per forward pass; threads that decode.
    seed : int
        For ``weights="none"``.
    strict : bool, default=False
        Stop at the first image that cannot be used.
    max_skip : float, default=0.1
        Share of the images that may be skipped.
    rehash : bool, default=False
        Read every file again, even where size and time of change are those of the store.
    overwrite : bool, default=False
        Replace a store of another space.
    on_progress : callable, optional
        Called with a :class:`featx.records.Progress`.

    Returns
    -------
    FeatureStore
        Its ``summary`` says what was computed and what was reused.

    Raises
    ------
    SourceError, BackboneError, WeightsError, StoreError, TooManySkippedError, ImageError

    Examples
    --------
    >>> import numpy as np, featx, tempfile
    >>> images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    >>> store = featx.extract(images, tempfile.mkdtemp() + "/x.h5", backbone="pixels")
    >>> store.X("flatten").shape
    (3, 3072)
    """
    started = time.perf_counter()
    if not 0 <= max_skip <= 1:
        raise FeatxError(f"A max_skip of {max_skip:g} was given; expected a share between 0 and 1.")
    if store_dtype not in ("auto", *get_args(StoreDtype)):
        raise UnknownNameError("store dtype", store_dtype, ("auto", *get_args(StoreDtype)))
    path = Path(store)
    opened = open_source(source)
    records = list_images(opened)
    specs = [parse_layer(layer) for layer in ([layers] if isinstance(layers, str) else layers)]
    request = describe_request(
        backbone, weights, specs, preprocess, resize, image_size, precision, store_dtype, seed
    )

    before = existing_store(path) if not overwrite else None
    trusted: dict[str, tuple[int, int, bytes]] = {}
    if before is not None:
        if not rehash and is_unchanged(before, request, opened, records):
            for item in before.skipped[:1]:
                _check_skipped(len(before.skipped), len(records), max_skip, strict, item.name, item.reason)
            seconds = time.perf_counter() - started
            before.summary = ExtractionSummary(0, len(before), len(before.skipped), seconds)
            return before
        if before.meta["source"] == opened.location and not rehash:
            trusted = trusted_digests(before)
        if before.space.backbone == backbone and not holds_all(before, records):
            # New images get the layers that the others have; else those layers would be lost.
            specs = specs or [LayerSpec("penultimate")]
            specs += [LayerSpec(layer.node, layer.pool) for layer in before.layers]
        if precision == "auto":
            precision = before.space.precision
        if store_dtype == "auto":
            store_dtype = before.space.store_dtype

    # Late, because it loads torch.
    from featx.backbones.network import load_network

    network = load_network(
        backbone,
        weights=weights,
        layers=specs,
        precision=precision,
        device=device,
        seed=seed,
        preprocess=choose_preprocess(backbone, weights, preprocess, resize, image_size),
    )
    if store_dtype == "auto":
        store_dtype = _choose_store_dtype(network, opened, records)
    space = space_of(network, store_dtype)
    writer = StoreWriter(
        path,
        space,
        network.layers,
        request=request
        | {
            "weights": request["weights"] | {"digest": network.weights.digest},
            "versions": environment()["versions"],
        },
        source=opened.location,
        overwrite=overwrite,
    )
    with writer:
        job = _Job(writer, records, max_skip, strict, on_progress)
        options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "claim": job.claim}
        checked = False
        for batch in embed(network, opened, records, trusted=trusted, **options):
            if batch.indices and not checked:
                check_drift(network, opened, records, writer, trusted)
                checked = True
            job.take(batch)
        # A file that changed while it was trusted leaves its twins without a row.
        left = job.unfinished()
        for batch in embed(network, opened, [records[index] for index in left], **options):
            job.take(batch, left)
        images, skipped = job.result()
        if before is not None:
            before.close()
        seconds = time.perf_counter() - started
        writer.finish(
            images,
            skipped,
            {
                "seconds": seconds + writer.earlier_seconds,
                "peak_memory_bytes": peak_memory_bytes(),
            },
        )
    result = FeatureStore(path)
    result.summary = ExtractionSummary(
        job.computed,
        len(images) - job.computed,
        len(skipped),
        seconds,
        (*network.notes, *writer.notes),
    )
    return result


class _Job:
    """Bookkeeping of one extraction: who has a row, who was skipped, how far it is."""

    def __init__(
        self,
        writer: StoreWriter,
        records: Sequence[ImageRecord],
        max_skip: float,
        strict: bool,
        on_progress: ProgressCallback | None,
    ) -> None:
        self._writer = writer
        self._records = records
        self._max_skip = max_skip
        self._strict = strict
        self._on_progress = on_progress
        self._digests = np.zeros((len(records), 32), np.uint8)
        self._reasons: dict[int, str] = {}
        self._bad: dict[bytes, str] = {}
        self._claimed: set[bytes] = set()
        self._rows: set[bytes] = set()
        self._lock = Lock()
        self._done = 0
        self.computed = 0

    def claim(self, digest: bytes) -> bool:
        """Whether this image has to be computed: it has no row, and nobody is at it."""
        with self._lock:
            if digest in self._writer.known or digest in self._claimed:
                return False
            self._claimed.add(digest)
            return True

    def take(self, batch: EmbeddedBatch, positions: Sequence[int] | None = None) -> None:
        """Hand rows to the writer, note what has none; ``positions`` are those of the records embedded."""
        where = positions if positions is not None else range(len(self._records))
        if batch.indices:
            self._writer.add(batch.digests, batch.phashes, batch.features)
            self._digests[[where[index] for index in batch.indices]] = batch.digests
            self._rows.update(digest.tobytes() for digest in batch.digests)
            self.computed += len(batch.indices)
        for item in batch.others:
            if item.digest:
                self._digests[where[item.index]] = np.frombuffer(item.digest, np.uint8)
            if item.reason:
                self._skip(where[item.index], item.digest, item.reason)
        if positions is None:
            self._done += len(batch.indices) + len(batch.others)
        if self._on_progress is not None:
            self._on_progress(Progress("embed", self._done, len(self._records)))

    def unfinished(self) -> list[int]:
        """Find images that have neither a row nor a reason, and let them be claimed again."""
        with self._lock:
            self._claimed = set(self._rows)
        settled = self._writer.known | self._rows | self._bad.keys()
        return [
            index
            for index in range(len(self._records))
            if index not in self._reasons and self._digests[index].tobytes() not in settled
        ]

    def result(self) -> tuple[list[IndexRow], list[SkippedImage]]:
        """Rows of the index in the order of the source, and the quarantine."""
        images, skipped = [], []
        for index, record in enumerate(self._records):
            digest = self._digests[index].tobytes()
            reason = self._reasons.get(index) or self._bad.get(digest, "")
            if reason:
                skipped.append(SkippedImage(record.name, digest if any(digest) else b"", reason))
            else:
                images.append(IndexRow(record, digest))
        self._check(len(skipped))
        if not images:
            raise TooManySkippedError(
                f"None of the {len(self._records)} files could be used; the first, "
                f"{escape_name(skipped[0].name)}: {skipped[0].reason}"
            )
        return images, skipped

    def _skip(self, index: int, digest: bytes, reason: str) -> None:
        self._reasons[index] = reason
        if digest:
            self._bad[digest] = reason
        self._check(len(self._reasons))

    def _check(self, n_skipped: int) -> None:
        for index, reason in self._reasons.items():
            name = self._records[index].name
            _check_skipped(n_skipped, len(self._records), self._max_skip, self._strict, name, reason)
            break  # one is enough to be named


def _check_skipped(
    n_skipped: int, n_images: int, max_skip: float, strict: bool, name: str, reason: str
) -> None:
    if strict:
        raise ImageError(f"{escape_name(name)}: {reason} (without --strict it would be skipped)")
    if n_skipped > max_skip * n_images:
        raise TooManySkippedError(
            f"{n_skipped} of {n_images} images cannot be used, more than --max-skip {max_skip:g} allows; "
            f"the first, {escape_name(name)}: {reason}. Mend the files, or raise --max-skip; what was "
            "computed is kept."
        )


def _choose_store_dtype(network: Network, source: Source, records: Sequence[ImageRecord]) -> StoreDtype:
    """Try a few images: float16 where it holds their embeddings, float32 where it does not.

    A network with random weights easily gives values of 1e-9, which float16 would store as zeros.
    """
    trial = next(embed(network, source, records[:TRIAL_IMAGES], batch_size=TRIAL_IMAGES))
    lost = [share_lost(rows, np.float16).max(initial=0) for rows in trial.features.values()]
    return "float16" if max(lost, default=0) < TRIAL_LOSS else "float32"
