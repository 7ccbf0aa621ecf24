"""What there is of a store that is not finished: its parts, its shards, and who writes it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from featx.errors import StoreError
from featx.files import disk_errors
from featx.records import LayerInfo, Space
from featx.sharding import Shard
from featx.store.directory import (
    index_path,
    is_directory_store,
    list_parts,
    list_shards,
    shard_index,
    tell_shards,
)
from featx.store.lockfile import CLOSED_ON_EXEC, Holder
from featx.store.recovery import list_file_parts, parts_directory
from featx.store.rowindex import RowSource
from featx.store.storefile import StoreFile

__all__ = ["Lock", "Unfinished", "describe_unfinished", "is_unfinished"]


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file: its holder, None if it names none, and the seconds since that gave a sign of life.

    A writer that was killed leaves the file; one that lives renews it every 30 s.
    """

    path: Path
    holder: Holder | None
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What there is of a store that is not finished.

    Parameters
    ----------
    path : Path
        The store that is to be.
    parts : tuple of Path
        Its finished parts, without those of ``problems``.
    rows : int
        Images that have a row in one of them, each counted once.
    layers : tuple of LayerInfo
        Of all parts.
    spaces : tuple of Space
        Of all parts; more than one where a store of another space is being overwritten.
    seconds : float
        Wall time that the parts took.
    nbytes : int
        Bytes of the parts.
    done, begun, missing : tuple of Shard
        Shards of a directory with an index, with parts only, and those without either.
    locks : tuple of Lock
        Lock files.
    problems : tuple of str
        A line for each file that cannot be read, or is damaged.
    """

    path: Path
    parts: tuple[Path, ...]
    rows: int
    layers: tuple[LayerInfo, ...]
    spaces: tuple[Space, ...]
    seconds: float
    nbytes: int
    done: tuple[Shard, ...]
    begun: tuple[Shard, ...]
    missing: tuple[Shard, ...]
    locks: tuple[Lock, ...]
    problems: tuple[str, ...]


def is_unfinished(path: Path) -> bool:
    """Whether there is no store at ``path`` yet, but what a writer of it left, or leaves just now."""
    if path.is_dir():
        if index_path(path).is_file() or not list_shards(path):
            return False
        return is_directory_store(path)
    return not os.path.lexists(path) and (parts_directory(path).is_dir() or _lock_path(path).is_file())


def describe_unfinished(path: Path, *, check: bool = False) -> Unfinished:
    """Look at what there is of an unfinished store; takes no lock and changes nothing.

    Parameters
    ----------
    path : Path
        For which :func:`is_unfinished` holds.
    check : bool, default=False
        Hash every byte of the parts and of the indexes of shards.

    Raises
    ------
    StoreError
        If there is nothing of the kind, or a directory cannot be listed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from featx.store.parts import write_part
    >>> path = Path(tempfile.mkdtemp()) / "photos.h5"
    >>> parts = path.with_name("photos.h5.parts")
    >>> parts.mkdir()
    >>> space = Space("custom", "mine", {"digest": "0"}, {}, "1", "fp32", "float16")
    >>> rows = {"fc:flatten": np.ones((1, 2), np.float16)}
    >>> layers = [LayerInfo("fc", "flatten", 2)]
    >>> _ = write_part(parts, np.ones((1, 32), np.uint8), np.zeros(1, np.uint64), rows, space, layers)
    >>> found = describe_unfinished(path)
    >>> found.rows, [layer.name for layer in found.layers], found.locks
    (1, ['fc:flatten'], ())
    """
    if not is_unfinished(path):
        raise StoreError(f"{path} is no unfinished store; open it with FeatureStore")
    problems: list[str] = []
    done: tuple[Shard, ...] = ()
    begun: tuple[Shard, ...] = ()
    missing: tuple[Shard, ...] = ()
    locks = [_lock_path(path)]
    if path.is_dir():
        done, begun, missing = tell_shards(path)
        targets = [index_path(path), *(shard_index(path, shard) for shard in (*done, *begun))]
        locks = [_lock_path(target) for target in targets]
        if check:
            problems += _broken_indexes(path, done)
        entries = list_parts(path)
    else:
        entries = list_file_parts(path)
    parts, seconds, nbytes = [], 0.0, 0
    digests: set[bytes] = set()
    layers: dict[LayerInfo, None] = {}
    spaces: dict[str, Space] = {}
    for entry in entries:
        try:
            source = RowSource.open(entry, check=check)
            with disk_errors(entry, "read"):
                nbytes += entry.stat().st_size
        except StoreError as error:
            if os.path.lexists(entry):  # a writer that finishes removes them
                problems.append(str(error))
            continue
        parts.append(entry)
        digests.update(row.tobytes() for row in source.digests)
        layers |= dict.fromkeys(region.layer for region in source.regions.values())
        spaces[source.space.key] = source.space
        seconds += source.seconds
    return Unfinished(
        path,
        tuple(parts),
        len(digests),
        tuple(layers),
        tuple(spaces.values()),
        seconds,
        nbytes,
        done,
        begun,
        missing,
        tuple(lock for lock in map(_read_lock, locks) if lock is not None),
        tuple(problems),
    )


def _lock_path(store: Path) -> Path:
    return store.with_name(f"{store.name}.lock")


def _broken_indexes(root: Path, shards: Iterable[Shard]) -> list[str]:
    problems = []
    for shard in shards:
        try:
            StoreFile(shard_index(root, shard), check=True).close()
        except StoreError as error:
            problems.append(str(error))
    return problems


def _read_lock(path: Path) -> Lock | None:
    with disk_errors(path, "read"):
        try:
            descriptor = os.open(path, os.O_RDONLY | CLOSED_ON_EXEC)
        except FileNotFoundError:
            return None
        try:
            silent = max(0.0, time.time() - os.fstat(descriptor).st_mtime)
            return Lock(path, Holder.read(descriptor), silent)
        finally:
            os.close(descriptor)
