"""Checking every byte of a store: what is wrong, all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError, FeatxError
from featx.files import disk_errors
from featx.records import Progress, ProgressCallback
from featx.store.checking import Region
from featx.store.partrows import PartRows, Rows
from featx.store.rounding import finite_rows
from featx.store.storefile import StoreFile
from featx.store.userblock import check_bytes

if TYPE_CHECKING:
    from featx.store.reader import FeatureStore

__all__ = ["find_problems"]


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
    total = file.size + (int(rows.sizes.sum()) if isinstance(rows, PartRows) else 0)
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if on_progress is not None:
            on_progress(Progress("verify", done, total, "bytes"))

    problems: list[str] = []
    if file.is_hashed:
        file.is_hashed = False  # it may have changed when this is asked again
        advance(file.size)
    else:
        problems = _attempt(partial(_check_file, file, advance))
    if problems:  # nothing that the file says can be believed
        return problems
    problems = _attempt(partial(_check_index, store))
    for region in file.contents.regions:
        problems += _attempt(partial(_not_finite, file, region))
    if isinstance(rows, PartRows):
        problems += _attempt(partial(_check_parts, store, rows, advance))
    return problems


def _attempt(check: Callable[[], list[str]]) -> list[str]:
    try:
        return check()
    except FeatxError as error:
        return [str(error)]


def _check_file(file: StoreFile, advance: Callable[[int], None]) -> list[str]:
    with disk_errors(file.path, "read"):
        check_bytes(file.raw, file.path, advance)
    return []


def _check_index(store: FeatureStore) -> list[str]:
    if len(set(store.names)) != len(store):
        return [f"{store.path} is damaged: a name stands twice; extract it again"]
    columns = (store.y, store.splits, store.groups, store.sizes, store.mtimes_ns, *store.columns.values())
    if any(len(values) != len(store) for values in (*columns, store.phashes, store.digests)):
        return [f"{store.path} is damaged: its index is incomplete; extract it again"]
    if not all(item.reason for item in store.skipped):
        return [f"{store.path} is damaged: an image is skipped without a reason; extract it again"]
    return []


def _not_finite(file: StoreFile, region: Region) -> list[str]:
    start = 0
    for block in file.blocks(region):
        bad = np.flatnonzero(~finite_rows(block))
        if len(bad):
            return [
                f"{file.path} is damaged: row {start + int(bad[0])} of {region.layer.name!r} is not finite; "
                "extract it again"
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
    try:
        file = rows.open_part(number, check=True)
    except DamagedStoreError as error:
        return [f"{error}; of a part: remove it, or extract with --rehash, and its rows are computed again"]
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
