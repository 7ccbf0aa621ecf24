"""The index of a directory store: of one shard, and of all shards joined.

An index holds the tables of a store, and for each layer the part and the row of every image. That
of a shard also holds where its images stand in the listing of the source, so that the joined index
has them in that order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError, NotAStoreError
from featx.files import disk_errors, remove_temporaries
from featx.records import LayerInfo, SkippedImage
from featx.sharding import Shard
from featx.store.directory import index_path, list_shards, named_parts, shard_index
from featx.store.locking import WriterLock
from featx.store.schema import IndexRow, Table, encode_text, images_table, root_attributes, skipped_table
from featx.store.shapes import Shapes
from featx.store.skeleton import write_file
from featx.store.storefile import StoreFile
from featx.store.userblock import NewerFormatError

__all__ = ["PartEntry", "join_shards", "layers_attribute", "write_shard_index"]

_MERGE_SECONDS = 120.0
"""How long a writer waits for another one that is joining the index."""


class PartEntry(NamedTuple):
    """A part as an index names it: ``checksum`` is the SHA-256 in its user block, ``size`` in bytes."""

    name: str
    checksum: bytes
    rows: int
    size: int


def layers_attribute(layers: Sequence[LayerInfo]) -> bytes:
    """Encode the layers of an index, which has no datasets that could carry them."""
    return json.dumps([[layer.node, layer.pool, layer.dim] for layer in layers]).encode()


def write_shard_index(
    path: Path,
    *,
    attributes: Mapping[str, bytes | int | float],
    images: Sequence[IndexRow],
    phashes: NDArray[np.uint64],
    shapes: Shapes,
    skipped: Sequence[SkippedImage],
    order: tuple[Sequence[int], Sequence[int]],
    layers: Sequence[LayerInfo],
    places: Mapping[str, NDArray[np.int64]],
    parts: Sequence[PartEntry],
    lock: WriterLock,
) -> None:
    """Write the index of one shard.

    Parameters
    ----------
    path : Path
        The file.
    attributes : mapping
        As :func:`~featx.store.schema.root_attributes` gives them.
    images, phashes, shapes, skipped
        What the tables hold.
    order : pair of sequences of int
        Positions of the images and of the skipped ones in the listing of the source.
    layers : sequence of LayerInfo
        Every layer of ``places``.
    places : mapping of str to ndarray of shape (n, 2), int64
        By layer name, the number of the part and the row in it.
    parts : sequence of PartEntry
        In the order of their numbers.
    lock : WriterLock
        Confirmed before the index is published.
    """
    table, columns = images_table(images, phashes, shapes)
    tables: dict[str, Table] = {
        "images": table,
        "images/columns": columns,
        "skipped": skipped_table(skipped),
        "order": {"image": np.array(order[0], "<i8"), "skipped": np.array(order[1], "<i8")},
    }
    _write(path, attributes, tables, layers, places, parts, lock)


def join_shards(root: Path, count: int, obsolete: Iterable[Path]) -> list[str]:
    """Join the indexes of ``count`` shards to that of the store, if all of them are of one listing.

    Parameters
    ----------
    root : Path
        The store.
    count : int
        Number of shards.
    obsolete : iterable of Path
        Parts that nothing refers to once the index is written.

    Returns
    -------
    list of str
        What is missing; empty if the index stands.

    Raises
    ------
    StoreError
        For every disk error, and if a shard's index is damaged.
    """
    target = index_path(root)
    lock = WriterLock(target)
    lock.acquire(wait_seconds=_MERGE_SECONDS)
    try:
        with ExitStack() as stack:
            with disk_errors(target):
                remove_temporaries(target)
            files = []
            damaged = set()
            for number in range(count):
                path = shard_index(root, Shard(number, count))
                if path.is_file():
                    try:
                        files.append(StoreFile(path, check=True))
                    except NewerFormatError:
                        raise
                    except (DamagedStoreError, NotAStoreError):
                        damaged.add(number)
                        continue
                    stack.callback(files[-1].close)
                    stack.enter_context(files[-1].h5())
            missing = _missing(files, count, damaged)
            if missing:
                return missing
            shards = [file.header.digest.hex() for file in files]
            if not _is_joined(target, shards):
                _join(target, files, shards, lock)
        for path in _outdated(root, count, obsolete, target):
            with disk_errors(path):
                path.unlink(missing_ok=True)
        return []
    finally:
        lock.release()


def _missing(files: Sequence[StoreFile], count: int, damaged: Set[int]) -> list[str]:
    """Say which shards are not there, or are of another listing, space or set of layers than the newest."""
    by_shard = {file.contents.meta.get("shard"): file for file in files if _is_of_its_folder(file)}
    newest = max(by_shard.values(), key=lambda file: os.fstat(file.raw.fileno()).st_mtime_ns, default=None)
    missing = []
    for number in range(count):
        file = by_shard.get(f"{number}/{count}")
        if file is None:
            missing.append(f"shard {number}/{count} is {'damaged' if number in damaged else 'missing'}")
        elif newest is not None:
            ours, theirs = file.contents, newest.contents
            if ours.space.key != theirs.space.key:
                missing.append(f"shard {number}/{count} holds another space")
            elif ours.meta["listing"] != theirs.meta["listing"]:
                missing.append(f"shard {number}/{count} is of another listing of the source")
            elif ours.rows and theirs.rows and set(ours.layers) != set(theirs.layers):
                missing.append(f"shard {number}/{count} holds other layers")
    return missing


def _is_of_its_folder(file: StoreFile) -> bool:
    shard = file.contents.meta.get("shard")
    return isinstance(shard, str) and file.path.parent.name == shard.replace("/", "-of-")


def _is_joined(target: Path, shards: list[str]) -> bool:
    if not target.is_file():
        return False
    try:
        file = StoreFile(target, check=True)
    except NewerFormatError:
        raise
    except DamagedStoreError:  # its shards have all that it had
        return False
    try:
        return bool(file.contents.meta.get("provenance", {}).get("shards") == shards)
    finally:
        file.close()


def _join(target: Path, files: Sequence[StoreFile], shards: list[str], lock: WriterLock) -> None:
    first = next((file for file in files if file.contents.rows), files[0])
    layers = first.contents.layers
    images = np.argsort(np.concatenate([file.read("order/image") for file in files]), kind="stable")
    skipped = np.argsort(np.concatenate([file.read("order/skipped") for file in files]), kind="stable")
    tables: dict[str, Table] = {
        "images": _reordered(files, "images", images),
        "images/columns": _reordered(files, "images/columns", images),
        "skipped": _reordered(files, "skipped", skipped),
    }
    entries: dict[PartEntry, int] = {}
    places: dict[str, list[NDArray[np.int64]]] = {layer.name: [] for layer in layers}
    for file in files:
        numbers = np.array(
            [entries.setdefault(entry, len(entries)) for entry in _entries(file)] or [0], np.int64
        )
        for name, collected in places.items():
            if file.contents.rows:
                mine = file.read(f"places/{name}")
                collected.append(np.stack([numbers[mine[:, 0]], mine[:, 1]], axis=1))
    empty = np.zeros((0, 2), np.int64)
    joined = {name: np.concatenate([empty, *collected])[images] for name, collected in places.items()}
    meta = first.contents.meta
    provenance = {
        "seconds": sum(float(file.contents.meta["seconds"]) for file in files),
        "peak_memory_bytes": max(int(file.contents.meta["peak_memory_bytes"]) for file in files),
        "shards": shards,
    }
    attributes = root_attributes(first.contents.space, meta["request"], str(meta["source"]), provenance)
    _write(target, attributes, tables, layers, joined, list(entries), lock)


def _entries(file: StoreFile) -> list[PartEntry]:
    names, digests = file.read_text("parts/name"), file.read("parts/digest")
    rows, sizes = file.read("parts/rows"), file.read("parts/size")
    return [
        PartEntry(str(name), digest.tobytes(), int(count), int(size))
        for name, digest, count, size in zip(names, digests, rows, sizes, strict=True)
    ]


def _reordered(files: Sequence[StoreFile], group: str, order: NDArray[np.int64]) -> Table:
    """Put the rows of a table of several files in order; what one lacks is empty there, or 0."""
    names = dict.fromkeys(name for file in files for name in file.names_in(group))
    table: dict[str, list[bytes] | NDArray[Any]] = {}
    for name in names:
        there = {file: file.read(f"{group}/{name}") for file in files if name in file.names_in(group)}
        dtype = next(iter(there.values())).dtype
        nothing = 0 if dtype.kind in "iu" else b""
        pieces = [there.get(file, np.full(file.contents.rows, nothing, dtype)) for file in files]
        values = np.concatenate(pieces)[order]
        table[name] = values.tolist() if values.dtype == object else values
    return table


def _outdated(root: Path, count: int, obsolete: Iterable[Path], target: Path) -> list[Path]:
    """List what nobody needs beside a new index: indexes of other counts, and obsolete parts."""
    file = StoreFile(target)
    try:
        used = named_parts(file)
    finally:
        file.close()
    others = [shard_index(root, shard) for shard in list_shards(root) if shard.count != count]
    return [*others, *(path for path in obsolete if path not in used)]


def _write(
    path: Path,
    attributes: Mapping[str, bytes | int | float],
    tables: Mapping[str, Table],
    layers: Sequence[LayerInfo],
    places: Mapping[str, NDArray[np.int64]],
    parts: Sequence[PartEntry],
    lock: WriterLock,
) -> None:
    write_file(
        path,
        attributes={**attributes, "layers": layers_attribute(layers)},
        tables={
            **tables,
            "parts": {
                "name": [encode_text(part.name, "part") for part in parts],
                "digest": np.frombuffer(b"".join(part.checksum for part in parts), np.uint8).reshape(-1, 32),
                "rows": np.array([part.rows for part in parts], "<i8"),
                "size": np.array([part.size for part in parts], "<i8"),
            },
            "places": {layer.name: np.asarray(places[layer.name], "<i8") for layer in layers},
        },
        before_publish=lock.confirm,
    )
