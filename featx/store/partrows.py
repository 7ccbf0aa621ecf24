"""Rows of a store, wherever they lie: in its one file, or in the parts of a directory."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError, NotAStoreError, StoreError
from featx.files import disk_errors
from featx.records import LayerInfo
from featx.store.checking import Region
from featx.store.directory import list_shards, part_path, shard_index
from featx.store.storefile import StoreFile
from featx.store.userblock import PART_REMEDY

__all__ = ["FileRows", "PartRows", "Rows"]

_OPEN_MAPS = 128
_LONG_RUN = 8
"""Rows that follow each other in a part, on average, from which copying run by run is faster."""


class Rows(Protocol):
    """What a reader needs of the rows of a store."""

    def all(self, layer: LayerInfo) -> NDArray[Any]:
        """All rows in order, of shape (n, dim), read-only; a memory map where they lie in one piece."""
        ...

    def take(self, layer: LayerInfo, index: NDArray[np.int64]) -> NDArray[Any]:
        """Read some rows, of shape (k, dim), into memory."""
        ...


class FileRows:
    """Rows in the store's one file."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self._regions = {region.layer.name: region for region in file.contents.regions}
        self._maps: dict[str, NDArray[Any]] = {}

    def all(self, layer: LayerInfo) -> NDArray[Any]:
        """Map the rows."""
        self._file.require_open()
        if layer.name not in self._maps:
            self._maps[layer.name] = _map(self._file, self._regions[layer.name])
        return self._maps[layer.name]

    def take(self, layer: LayerInfo, index: NDArray[np.int64]) -> NDArray[Any]:
        """Copy rows out of the map."""
        return np.take(np.asarray(self.all(layer)), index, axis=0)


class PartRows:
    """Rows in parts, found by the index of a directory store.

    Parameters
    ----------
    path : Path
        The store, for messages.
    shards : Path
        Its directory of that name.
    index : StoreFile
        The open index.
    """

    def __init__(self, path: Path, shards: Path, index: StoreFile) -> None:
        self.path = path
        self._shards = shards
        self._index = index
        with index.h5():
            self.names = [str(name) for name in index.read_text("parts/name")]
            self.checksums = [row.tobytes() for row in index.read("parts/digest")]
            self.sizes: NDArray[np.int64] = index.read("parts/size")
            self._rows: NDArray[np.int64] = index.read("parts/rows")
        self._places: dict[str, NDArray[np.int64]] = {}
        self._maps: OrderedDict[tuple[int, str], NDArray[Any]] = OrderedDict()
        self._gathered: WeakValueDictionary[str, NDArray[Any]] = WeakValueDictionary()
        self._dtype = np.dtype(index.contents.space.store_dtype).newbyteorder("<")

    def all(self, layer: LayerInfo) -> NDArray[Any]:
        """Map the rows where one part holds them in order, else read them into memory.

        Into the same memory as long as somebody has it.
        """
        self._index.require_open()
        values = self._gathered.get(layer.name)
        if values is not None:
            return values
        places = self.places(layer)
        if len(places):
            part, first = int(places[0, 0]), int(places[0, 1])
            if (places[:, 0] == part).all() and (np.diff(places[:, 1]) == 1).all():
                return self._map(part, layer)[first : first + len(places)]
        values = self._gather(layer, places)
        values.flags.writeable = False
        self._gathered[layer.name] = values
        return values

    def take(self, layer: LayerInfo, index: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows part by part."""
        return self._gather(layer, self.places(layer)[index])

    def places(self, layer: LayerInfo) -> NDArray[np.int64]:
        """Give the number of the part and the row in it of each image; shape (n, 2).

        Raises
        ------
        DamagedStoreError
            If one leads outside the parts.
        """
        if layer.name not in self._places:
            places: NDArray[np.int64] = self._index.read(f"places/{layer.name}")
            part, row = places[:, 0], places[:, 1]
            inside = (part >= 0) & (part < len(self.names)) & (row >= 0)
            if not inside.all() or (row >= self._rows[part]).any():
                raise DamagedStoreError(
                    f"{self.path} is damaged: its index points outside its parts in {layer.name!r}; "
                    "extract it again"
                )
            self._places[layer.name] = places
        return self._places[layer.name]

    def shard_indexes(self) -> list[Path]:
        """List the indexes of the shards that this index was joined from; none for that of one shard."""
        if "shard" in self._index.contents.meta:
            return []
        root = self._shards.parent
        paths = (shard_index(root, shard) for shard in list_shards(root))
        return [path for path in paths if path.is_file()]

    def missing(self) -> list[str]:
        """Say which parts are not there, or not of their length; looks at no byte of them."""
        problems = []
        for name, size in zip(self.names, self.sizes.tolist(), strict=True):
            path = part_path(self._shards, name)
            with disk_errors(path, "read"):
                try:
                    there = path.stat().st_size
                except FileNotFoundError:
                    problems.append(f"{path} is missing")
                    continue
            if there != size:
                problems.append(f"{path} has {there} bytes instead of {size}")
        return problems

    def open_part(self, number: int, *, check: bool = False) -> StoreFile:
        """Open a part and make sure that it is the one that the index means.

        Raises
        ------
        StoreError
            If it is missing.
        DamagedStoreError
            If it is another file, or damaged.
        """
        path = part_path(self._shards, self.names[number])
        if not path.exists():
            raise StoreError(
                f"{path} is missing, a part of {self.path}; put it back, or run the extraction again, which "
                "computes its rows"
            )
        try:
            file = StoreFile(path, check=check, remedy=PART_REMEDY)
        except NotAStoreError as error:
            raise DamagedStoreError(f"{path} is damaged: it is no file of featx; {PART_REMEDY}") from error
        if file.header.digest != self.checksums[number] or file.contents.rows != self._rows[number]:
            file.close()
            raise DamagedStoreError(
                f"{path} is not the part that {self.path} was made with; put that one back, or remove this "
                "one and run the extraction again"
            )
        return file

    def region(self, file: StoreFile, layer: LayerInfo) -> Region:
        """Find a layer in an open part.

        Raises
        ------
        DamagedStoreError
            If it holds no such layer, or another space.
        """
        for region in file.contents.regions:
            if region.layer == layer and file.contents.space.key == self._index.contents.space.key:
                return region
        raise DamagedStoreError(
            f"{file.path} does not hold the layer {layer.name!r} of {self.path}; remove it and run the "
            "extraction again"
        )

    def _gather(self, layer: LayerInfo, places: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(places), layer.dim), self._dtype)
        if not len(places):
            return out
        part, row = places[:, 0], places[:, 1]
        breaks = np.flatnonzero((np.diff(part) != 0) | (np.diff(row) != 1)) + 1
        if len(breaks) <= len(places) // _LONG_RUN:
            for first, last in pairwise([0, *breaks.tolist(), len(places)]):
                start = int(row[first])
                out[first:last] = self._map(int(part[first]), layer)[start : start + last - first]
            return out
        order = np.argsort(part, kind="stable")
        edges = np.flatnonzero(np.diff(part[order])) + 1
        for mine in np.split(order, edges):
            out[mine] = self._map(int(part[mine[0]]), layer)[row[mine]]
        return out

    def _map(self, part: int, layer: LayerInfo) -> NDArray[Any]:
        self._index.require_open()
        key = (part, layer.name)
        if key in self._maps:
            self._maps.move_to_end(key)
            return self._maps[key]
        file = self.open_part(part)
        try:
            mapped = _map(file, self.region(file, layer))
        finally:
            file.close()
        if len(self._maps) >= _OPEN_MAPS:
            self._maps.popitem(last=False)
        self._maps[key] = mapped
        return mapped


def _map(file: StoreFile, region: Region) -> NDArray[Any]:
    shape = (region.rows, region.layer.dim)
    if not region.rows:
        empty = np.empty(shape, region.dtype)
        empty.flags.writeable = False
        return empty
    with disk_errors(file.path, "read"):
        return np.memmap(file.raw, region.dtype, "r", region.offset, shape)
