"""Checking every byte of a store: what is wrong, all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featx.errors import FeatxError
from featx.records import ProgressCallback
from featx.store.checking import Region
from featx.store.partrows import PartRows, Rows
from featx.store.rounding import finite_rows
from featx.store.storefile import StoreFile, count_bytes
from featx.store.userblock import REMEDY

if TYPE_CHECKING:
    from featx.store.reader import FeatureStore

__all__ = ["find_problems", "require_bytes"]

_THREADS = 2
"""Hashing gives up the interpreter's lock; more would wait for the disk."""


def require_bytes(file: StoreFile, rows: Rows, on_progress: ProgressCallback | None) -> None:
    """Hash the files of an open store with plain reads.

    Parameters
    ----------
    file : StoreFile
        Its one file, or its index.
    rows : Rows
        Where its rows lie.
    on_progress : callable or None
        Called with a :class:`featx.records.Progress` in bytes.

    Raises
    ------
    DamagedStoreError
        Naming the first damaged file.
    StoreError
        If a part is missing.
    """
    advance = count_bytes(_size(file, rows), on_progress)
    file.hash(advance)
    if not isinstance(rows, PartRows):
        return

    def check(number: int) -> int:
        rows.open_part(number, check=True).close()
        return int(rows.sizes[number])

    with ThreadPoolExecutor(_THREADS) as pool:
        for size in pool.map(check, range(len(rows.names))):
            advance(size)


def find_problems(
    store: FeatureStore, file: StoreFile, rows: Rows, on_progress: ProgressCallback | None
) -> list[str]:
    """Look for everything that is wrong with an open store.

    Parameters
    ----------
    store : FeatureStore
        To be checked.
    file : StoreFile
        Its one file, or its index.
    rows : Rows
        Where its rows lie.
    on_progress : callable or None
        Called with a :class:`featx.records.Progress` in bytes.

    Returns
    -------
    list of str
        A line each, naming the file; empty if the store is whole.
    """
    advance = count_bytes(_size(file, rows), on_progress)
    problems = _attempt(partial(_check_file, file, advance))
    if problems:  # nothing that the file says can be believed
        return problems
    problems = _attempt(partial(_check_index, store))
    for region in file.contents.regions:
        problems += _attempt(partial(_not_finite, file, region))
    if isinstance(rows, PartRows):
        problems += _attempt(partial(_check_parts, store, rows, advance))
    return problems


def _size(file: StoreFile, rows: Rows) -> int:
    return file.size + (int(rows.sizes.sum()) if isinstance(rows, PartRows) else 0)


def _attempt(check: Callable[[], list[str]]) -> list[str]:
    try:
        return check()
    except FeatxError as error:
        return [str(error)]


def _check_file(file: StoreFile, advance: Callable[[int], None]) -> list[str]:
    file.hash(advance)
    return []


def _check_index(store: FeatureStore) -> list[str]:
    if len(set(store.names)) != len(store):
        return [f"{store.path} is damaged: a name stands twice; {REMEDY}"]
    columns = (store.y, store.splits, store.groups, store.sizes, store.mtimes_ns, *store.columns.values())
    arrays = (*columns, *store.shapes, store.modes, store.phashes, store.digests)
    if any(len(values) != len(store) for values in arrays):
        return [f"{store.path} is damaged: its index is incomplete; {REMEDY}"]
    if not all(item.reason for item in store.skipped):
        return [f"{store.path} is damaged: an image is skipped without a reason; {REMEDY}"]
    return []


def _not_finite(file: StoreFile, region: Region) -> list[str]:
    start = 0
    for block in file.blocks(region):
        bad = np.flatnonzero(~finite_rows(block))
        if len(bad):
            return [
                f"{file.path} is damaged: row {start + int(bad[0])} of {region.layer.name!r} is not finite; "
                f"{file.remedy}"
            ]
        start += len(block)
    return []


def _check_parts(store: FeatureStore, rows: PartRows, finished: Callable[[int], None]) -> list[str]:
    problems = [
        problem for path in rows.shard_indexes() for problem in _attempt(partial(_check_index_file, path))
    ]
    places = {layer.name: rows.places(layer) for layer in store.layers}
    for number in range(len(rows.names)):
        problems += _attempt(partial(_check_part, store, rows, number, places))
        finished(int(rows.sizes[number]))
    return problems


def _check_index_file(path: Path) -> list[str]:
    StoreFile(path, check=True).close()
    return []


def _check_part(
    store: FeatureStore, rows: PartRows, number: int, places: Mapping[str, NDArray[np.int64]]
) -> list[str]:
    file = rows.open_part(number, check=True)
    try:
        problems: list[str] = []
        digests = file.read("rows/digest")
        for layer in store.layers:
            mine = np.flatnonzero(places[layer.name][:, 0] == number)
            if not len(mine):
                continue
            region = rows.region(file, layer)
            if (digests[places[layer.name][mine, 1]] != store.digests[mine]).any():
                problems.append(
                    f"{store.path} is damaged: its index gives an image a row of another one in {file.path}; "
                    "extract it again"
                )
            problems += _not_finite(file, region)
        return problems
    finally:
        file.close()
