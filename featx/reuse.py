"""What an earlier extraction left, and whether it still holds; answered without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featx.environment import environment
from featx.errors import DamagedStoreError, ImageError, StoreError
from featx.images.loading import digest_of
from featx.images.sources import Source
from featx.records import PENULTIMATE, ImageRecord, LayerSpec, Preprocess, Resize, Space
from featx.sharding import Shard
from featx.store.directory import fingerprint, list_parts, shard_index, unfinished
from featx.store.indexing import join_shards
from featx.store.leftovers import clear_leftovers
from featx.store.reader import FeatureStore
from featx.store.recovery import list_file_parts
from featx.store.rowindex import RowSource


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier run left: a store, and whether it ``answers`` the request as it is.

    ``is_complete`` says that its parts are all there, ``notes`` what its user should hear of, such as
    shards that are missing.
    """

    store: FeatureStore
    answers: bool = False
    is_complete: bool = True
    notes: tuple[str, ...] = ()


def earlier_store(
    path: Path,
    shard: Shard | None,
    request: dict[str, Any],
    source: Source,
    records: Sequence[ImageRecord],
    mine: Sequence[ImageRecord],
    rehash: bool,
) -> Earlier | None:
    """Find what an earlier run left at ``path``; what else lies there is the writer's concern.

    Parameters
    ----------
    path : Path
        The store.
    shard : Shard or None
        Which shard of it is asked for.
    request : dict
        Of :func:`describe_request`.
    source, records : Source, sequence of ImageRecord
        What is to be embedded.
    mine : sequence of ImageRecord
        Those of the shard.
    rehash : bool
        Believe no size and time.
    """
    whole = _open_store(path, check=shard is not None)
    intact = whole is not None and whole.is_complete and not rehash
    try:
        if whole is not None and intact and is_unchanged(whole.store, request, source, records):
            return replace(whole, answers=True, notes=clear_leftovers(path, shard))
    except DamagedStoreError:  # the writer says so, and what to do
        whole = None
    if shard is None:
        return whole
    own = _open_store(shard_index(path, shard), check=True)
    if own is None or "shard" not in own.store.meta:
        return whole
    same_listing = own.store.meta["listing"] == fingerprint(records)
    if rehash or not own.is_complete or not same_listing:
        return own
    if not is_unchanged(own.store, request, source, mine):
        return own
    missing = join_shards(path, shard.count, ())
    notes = clear_leftovers(path, shard)
    if missing:
        return replace(own, answers=True, notes=(str(unfinished(path, missing)), *notes))
    joined = FeatureStore(path)
    lost = _missing_parts(joined)
    return Earlier(joined, answers=True, notes=(*lost, *notes))


def _open_store(path: Path, *, check: bool) -> Earlier | None:
    if not path.exists():
        return None
    try:
        store = FeatureStore(path, check=check)
    except StoreError:
        return None
    return Earlier(store, is_complete=not _missing_parts(store))


def _missing_parts(store: FeatureStore) -> tuple[str, ...]:
    try:
        store.require_parts()
    except StoreError as error:
        return (str(error),)
    return ()


def describe_request(
    backbone: str,
    weights: str | os.PathLike[str],
    layers: Sequence[LayerSpec],
    preprocess: str | Preprocess | None,
    resize: Resize | None,
    image_size: int | None,
    decoding: str,
    precision: str,
    store_dtype: str,
    seed: int,
) -> dict[str, Any]:
    """Describe what was asked for, in plain types: equal requests give equal spaces."""
    asked: dict[str, Any] = {"spec": os.fspath(weights)}
    if asked["spec"] not in ("default", "none"):
        path = Path(weights)
        if path.is_file():
            status = path.stat()
            asked = {
                "spec": str(path.resolve()),
                "size": status.st_size,
                "mtime_ns": status.st_mtime_ns,
            }
    return {
        "backbone": backbone,
        "weights": asked,
        "layers": [f"{layer.node}:{layer.pool}" if layer.pool else layer.node for layer in layers],
        "preprocess": preprocess.to_json() if isinstance(preprocess, Preprocess) else preprocess,
        "resize": resize,
        "image_size": image_size,
        "decoding": decoding,
        "precision": precision,
        "store_dtype": store_dtype,
        "seed": seed,
    }


def resolved_layers(store: FeatureStore | None) -> dict[str, str]:
    """Give the layers that were asked for, by what was asked: ``penultimate``, or a node without pooling."""
    resolved = store.meta["request"].get("resolved") if store is not None else None
    return {str(asked): str(name) for asked, name in resolved.items()} if isinstance(resolved, dict) else {}


def settings_left(path: Path, shard: Shard | None, backbone: str) -> Space | None:
    """Find the space in which an unfinished run, or another shard, embeds with this backbone."""
    for part in list_file_parts(path) if shard is None else list_parts(path):
        try:
            space = RowSource.open(part, check=False).space
        except StoreError:  # the writer sees to it
            continue
        if space.backbone == backbone:
            return space
    return None


def is_unchanged(
    store: FeatureStore, request: dict[str, Any], source: Source, records: Sequence[ImageRecord]
) -> bool:
    """Whether the store already is the answer, as far as names, sizes and times can tell."""
    stored = dict(store.meta["request"])
    asked = dict(request)
    resolved = resolved_layers(store)
    if store.space.decoding != asked.pop("decoding") or store.meta["source"] != source.location:
        return False
    layers_now = {resolved.get(name, name) for name in asked.pop("layers") or [PENULTIMATE]}
    if not layers_now <= {layer.name for layer in store.layers}:
        return False
    if not isinstance(stored.get("weights"), dict):  # imported
        return False
    # A digest is what the file held; size and time tell whether it does still, as for images.
    stored["weights"] = {key: value for key, value in stored["weights"].items() if key != "digest"}
    if any(stored.get(field) != value for field, value in asked.items()):
        return False
    if stored.get("versions") != environment()["versions"] or asked["backbone"].startswith("custom:"):
        return False  # "default" may mean other weights now; loading them tells
    skipped = {item.name: item for item in store.skipped}
    if len(records) != len(store) + len(skipped):
        return False
    there = iter(store.records)
    for record in records:
        if record.name in skipped:
            if not _same_bytes(source, record, skipped[record.name].digest):
                return False
        elif record.size < 0 or not _is_same(record, next(there, None)):
            return False  # images in memory have no time of change
    return True


def _is_same(record: ImageRecord, stored: ImageRecord | None) -> bool:
    """Whether a record is what the store has; a cell that is empty there may be missing here."""
    if stored is None:
        return False
    return (
        record == stored
        or replace(record, columns={**dict.fromkeys(stored.columns, ""), **record.columns}) == stored
    )


def holds_all(store: FeatureStore, records: Sequence[ImageRecord]) -> bool:
    """Whether the store seems to hold all these images, by name, size and time."""
    skipped = {item.name for item in store.skipped}
    known = {(record.name, record.size, record.mtime_ns) for record in store.records}
    return all(
        record.name in skipped or (record.name, record.size, record.mtime_ns) in known for record in records
    )


def _same_bytes(source: Source, record: ImageRecord, digest: bytes) -> bool:
    try:
        return digest_of(source.read(record)) == digest
    except (OSError, ImageError):  # not there, or refused
        return digest == b""


def trusted_digests(store: FeatureStore) -> dict[str, tuple[int, int, bytes]]:
    """Give size, time of change and digest by name: a hint that saves reading the file again."""
    return {
        record.name: (record.size, record.mtime_ns, digest.tobytes())
        for record, digest in zip(store.records, store.digests, strict=True)
        if record.size >= 0
    }
