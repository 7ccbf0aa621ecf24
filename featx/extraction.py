"""Images × backbone → store: every image goes once through the frozen network.

Nothing here imports torch before a network is needed, so that an unchanged folder is answered at once.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from featx.bookkeeping import Bookkeeping, check_skipped
from featx.canaries import check_drift
from featx.embedding import choose_preprocess, embed, parse_layer, space_of
from featx.environment import environment, peak_memory_bytes
from featx.errors import DriftError, FeatxError, SpaceMismatchError, UnknownNameError
from featx.images.decoding import choose_policy
from featx.images.sources import Source, SourceLike, list_images, open_source
from featx.records import (
    PENULTIMATE,
    ExtractionSummary,
    ImageRecord,
    LayerSpec,
    Precision,
    Preprocess,
    ProgressCallback,
    Resize,
    Space,
    StoreDtype,
)
from featx.reuse import (
    Earlier,
    describe_request,
    earlier_store,
    holds_all,
    resolved_layers,
    settings_left,
    trusted_digests,
)
from featx.sharding import Shard, parse_shard
from featx.spent import Spent
from featx.store.directory import require_directory, shard_index, unfinished
from featx.store.directorywriter import DirectoryWriter
from featx.store.locking import require_free
from featx.store.partswriter import PartsWriter
from featx.store.reader import FeatureStore
from featx.store.recovery import refuse_other_space
from featx.store.writer import StoreWriter
from featx.trial import Trial

if TYPE_CHECKING:
    from featx.backbones.network import Network

DEFAULT_BACKBONE = "resnet50"
DEFAULT_MAX_SKIP = 0.1


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
    compile: Literal["auto", "on", "off"] = "auto",
    fast_decode: bool = False,
    seed: int = 0,
    strict: bool = False,
    max_skip: float = DEFAULT_MAX_SKIP,
    rehash: bool = False,
    overwrite: bool = False,
    shard: str | tuple[int, int] | Shard | None = None,
    on_progress: ProgressCallback | None = None,
) -> FeatureStore:
    """Embed every image of a source and keep the embeddings in a store.

    Run again, it computes only what the store does not hold yet; if nothing changed, it returns
    without loading torch. Before rows are added to others, a few images are embedded again and must
    give the rows that they have.

    Parameters
    ----------
    source : path, sequence or ndarray
        See :func:`featx.images.sources.open_source`.
    store : path
        The HDF5 file to write, usually ``something.h5``; or a directory, of many parts and an index: one
        that is such a store or empty, a path that ends in ``/``, or any with ``shard``.
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
        What the network computes in; ``auto`` is what an existing store has, else bf16 where the hardware
        has units for it and a few of the images show that the network bears it.
    store_dtype : {"auto", "float16", "float32"}
        What the rows are stored in; ``auto`` is what an existing store has, else float16, unless a few
        of the images show that its range does not hold these embeddings.
    device : str, default="auto"
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    batch_size : int or "auto"
        Images per forward pass; ``auto`` is found out on the way, and remembered.
    workers : int or "auto"
        Threads that decode and, on a CPU, compute, each on one core.
    compile : {"auto", "on", "off"}
        Whether the network is compiled; ``auto`` if the images to come repay it, which is measured.
    fast_decode : bool, default=False
        Let the decoder scale JPEGs that are much larger than the network's input: faster, and nearly the
        same rows, but a space of its own.
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
    shard : str, (int, int), Shard or None
        Compute only this share of the images, ``I/N`` with I from 0 to N - 1, while others compute the
        rest; ``auto`` takes it from torchrun or Slurm.
    on_progress : callable, optional
        Called with a :class:`featx.records.Progress`.

    Returns
    -------
    FeatureStore
        Its ``summary`` says what was computed and what was reused. While other shards are missing, it
        holds the images of this one only, and a note says so.

    Raises
    ------
    SourceError, BackboneError, WeightsError, StoreError, TooManySkippedError, ImageError
    DriftError
        If this machine does not compute the rows that the store holds.

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
    if compile not in ("auto", "on", "off"):
        raise UnknownNameError("compile mode", compile, ("auto", "on", "off"))
    if store_dtype not in ("auto", *get_args(StoreDtype)):
        raise UnknownNameError("store dtype", store_dtype, ("auto", *get_args(StoreDtype)))
    path, part = Path(store), _shard_of(store, shard)
    decoding = choose_policy(fast_decode)
    opened = open_source(source)
    records = list_images(opened)
    mine = records if part is None else records.where(part.holds)
    specs = [parse_layer(layer) for layer in ([layers] if isinstance(layers, str) else layers)]
    request = describe_request(
        backbone, weights, specs, preprocess, resize, image_size, decoding, precision, store_dtype, seed
    )

    before = earlier_store(path, part, request, opened, records, mine, rehash) if not overwrite else None
    if before is not None and before.answers:
        _check_all(before.store, len(records), max_skip, strict)
        before.store.summary = ExtractionSummary(
            0, len(before.store), len(before.store.skipped), time.perf_counter() - started, before.notes
        )
        return before.store

    # Before anything is loaded, or downloaded: whether this can be written at all.
    require_free(path if part is None else shard_index(path, part))
    is_checked = precision == "auto" and before is None
    settings: Space | None = None
    trusted: dict[str, tuple[int, int, bytes]] = {}
    if before is not None:
        settings = before.store.space
        if settings.provider == "import":
            raise SpaceMismatchError(
                f"{path} holds embeddings that were imported, to which no network can add; choose another "
                "output, or replace it with --overwrite"
            )
        refuse_other_space(
            path, settings, dataclasses.replace(settings, backbone=backbone, decoding=decoding)
        )
        if before.store.meta["source"] == opened.location and not rehash:
            trusted = trusted_digests(before.store)
        if not before.is_complete or not holds_all(before.store, mine):
            # New images get the layers that the others have; else those layers would be lost.
            specs = specs or [LayerSpec(PENULTIMATE)]
            specs += [LayerSpec(layer.node, layer.pool) for layer in before.store.layers]
    elif not overwrite and "auto" in (precision, store_dtype):
        settings = settings_left(path, part, backbone)
    if settings is not None:
        precision = settings.precision if precision == "auto" else precision
        store_dtype = settings.store_dtype if store_dtype == "auto" else store_dtype

    # Late, because it loads torch.
    from featx.backbones import load_network

    load = partial(
        load_network,
        backbone,
        weights=weights,
        device=device,
        seed=seed,
        preprocess=choose_preprocess(backbone, weights, preprocess, resize, image_size),
    )
    network = load(layers=specs, precision=precision, compile=compile, keep_exact=is_checked)
    canaries = [network]
    earlier = before.store.layers if before is not None else ()
    if earlier and not set(earlier) & set(network.layers):
        # Only layers are added: what is there is compared all the same.
        old = LayerSpec(earlier[0].node, earlier[0].pool)
        canaries.append(load(layers=[old], precision=network.precision))
    trial = Trial(network, opened, mine, decoding)
    # What was left of an earlier run had its check then, of which nothing is left.
    if is_checked and (check := trial.check_precision(may_change=precision == "auto")):
        request["precision_check"] = dataclasses.asdict(check)
    if store_dtype == "auto":
        store_dtype = trial.choose_store_dtype()
    options: dict[str, Any] = {
        "request": _provenance(request, network, before),
        "source": opened.location,
        "overwrite": overwrite,
    }
    space = space_of(network, store_dtype, decoding)
    writer: PartsWriter
    if part is None:
        writer = StoreWriter(path, space, network.layers, **options)
    else:
        shared: dict[str, Any] = {"shard": part, "listing": records, "check": rehash}
        writer = DirectoryWriter(path, space, network.layers, **shared, **options)
    spent = Spent()
    with writer:

        def fill() -> Bookkeeping:
            job = Bookkeeping(writer, mine, len(records), max_skip, strict, on_progress)
            stream: dict[str, Any] = {
                "batch_size": batch_size,
                "workers": workers,
                "decoding": decoding,
                "spent": spent,
            }
            _embed_all(network, canaries, opened, mine, trusted, writer, job, stream)
            return job

        try:
            job = fill()
        except DriftError:
            if not overwrite:
                raise
            writer.forget()
            job = fill()
        images, skipped = job.result()
        if before is not None:
            before.store.close()
        seconds = time.perf_counter() - started
        # What computes nothing makes no embedding more expensive.
        measured = {"seconds": seconds if job.computed else 0.0, "peak_memory_bytes": peak_memory_bytes()}
        finished = writer.finish(images, skipped, measured)
        result = FeatureStore(path if finished == writer.path else finished)
        notes = [*network.notes, *writer.notes]
        if isinstance(writer, DirectoryWriter) and writer.missing:
            notes.append(str(unfinished(path, writer.missing)))
    _check_all(result, len(records), max_skip, strict)  # shards may have too many only together
    result.summary = ExtractionSummary(
        job.computed,
        len(images) - job.computed,
        len(skipped),
        seconds,
        tuple(notes),
        writer.removed,
        spent.speed(),
    )
    return result


def _check_all(store: FeatureStore, n_images: int, max_skip: float, strict: bool) -> None:
    if store.skipped:
        first = store.skipped[0]
        check_skipped(len(store.skipped), n_images, max_skip, strict, first.name, first.reason)


def _provenance(request: dict[str, Any], network: Network, before: Earlier | None) -> dict[str, Any]:
    """Add to a request what it came to."""
    resolved = resolved_layers(before.store if before else None)
    asked = request["layers"] or [PENULTIMATE]
    if asked[0] == PENULTIMATE:
        resolved[PENULTIMATE] = network.layers[0].name
    for node in asked:
        pooled = [layer.name for layer in network.layers if layer.node == node]
        if len(pooled) == 1:
            resolved[node] = pooled[0]
    earlier = before.store.meta["request"] if before else {}
    kept = {name: earlier[name] for name in ("precision_check",) if name in earlier}
    return (
        kept
        | request
        | {
            "weights": request["weights"] | {"digest": network.weights.digest},
            "versions": environment()["versions"],
            "resolved": resolved,
        }
    )


def _shard_of(store: str | os.PathLike[str], shard: str | tuple[int, int] | Shard | None) -> Shard | None:
    """Give the shard to write; a store that is a directory has at least one, a file has none."""
    asked = parse_shard(shard)
    if asked is not None:
        require_directory(Path(store))
    is_directory = os.fspath(store).endswith(("/", os.sep)) or Path(store).is_dir()
    return Shard(0, 1) if asked is None and is_directory else asked


def _embed_all(
    network: Network,
    canaries: Sequence[Network],
    source: Source,
    records: Sequence[ImageRecord],
    trusted: Mapping[str, tuple[int, int, bytes]],
    writer: PartsWriter,
    job: Bookkeeping,
    options: Mapping[str, Any],
) -> None:
    """Send through the network what has no row yet."""
    checked = False
    for batch in embed(network, source, records, trusted=trusted, claim=job.claim, **options):
        if batch.indices and not checked:
            for canary in canaries:
                check_drift(canary, source, records, writer, trusted)
            checked = True
        job.take(batch)
    # A file that changed while it was trusted leaves its twins without a row.
    left = job.unfinished()
    for batch in embed(network, source, [records[index] for index in left], claim=job.claim, **options):
        job.take(batch, left)
