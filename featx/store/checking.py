"""Looking over an HDF5 file before anything is read from it.

A file from elsewhere can make HDF5 open other files (external links, external storage, virtual
datasets), run filters, or allocate any amount of memory (shapes). None of these has a place in a
store, so a file with one is refused. The walk opens nothing but the groups and datasets of
:mod:`featx.store.schema`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError
from featx.records import LayerInfo, Space
from featx.store.schema import (
    DIGEST_SIZE,
    NUMBER_ATTRIBUTES,
    NUMBER_FIELDS,
    POOLINGS,
    TEXT_ATTRIBUTES,
    TEXT_FIELDS,
    parse_attributes,
)

__all__ = ["Contents", "Region", "inspect"]

_BLOCK = 8 << 20
_STORED = (np.dtype("<f2"), np.dtype("<f4"))
_DIGEST = np.dtype(np.uint8)
_TEXT_ITEM = 16  # bytes: length, address of the heap, index in it (HDF5 File Format, III.D)
_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "store": ("images", "features", "skipped"),
    "part": ("rows", "features"),
}


@dataclass(frozen=True, slots=True)
class Region:
    """Where the rows of a layer lie in a file: ``rows`` × ``layer.dim`` of ``dtype`` at ``offset``."""

    layer: LayerInfo
    offset: int
    rows: int
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.layer.dim * self.dtype.itemsize

    def blocks(self, file: FileIO, path: Path, block_bytes: int = _BLOCK) -> Iterator[NDArray[Any]]:
        """Read the rows top to bottom with plain reads, a bounded block at a time.

        Raises
        ------
        DamagedStoreError
            If the file ends too early.
        """
        step = max(1, block_bytes // self.row_bytes)
        for start in range(0, self.rows, step):
            block = np.empty((min(step, self.rows - start), self.layer.dim), self.dtype)
            self.read_into(file, path, start, block)
            yield block

    def read_into(self, file: FileIO, path: Path, start: int, out: NDArray[Any]) -> None:
        """Read ``len(out)`` rows from row ``start`` on into a contiguous array."""
        view = out.reshape(-1).view(np.uint8).data
        file.seek(self.offset + start * self.row_bytes)
        while view:
            count = file.readinto(view)
            if not count:
                raise DamagedStoreError(
                    f"{path} is damaged: it ends within {self.layer.name!r}; extract it again"
                )
            view = view[count:]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds: its kind, number of rows, attributes (parsed), space and layers."""

    kind: Literal["store", "part"]
    rows: int
    meta: Mapping[str, Any]
    space: Space
    regions: tuple[Region, ...]


def inspect(h5: h5py.File, path: Path, size: int) -> Contents:
    """Walk the structure of a store or a part and refuse what does not belong there.

    Parameters
    ----------
    h5 : h5py.File
        Open for reading.
    path : Path
        Its name, for messages.
    size : int
        Its size in bytes.

    Raises
    ------
    DamagedStoreError
        Naming the object and what is wrong with it.
    """
    walk = _Walk(path, size)
    try:
        return walk.file(h5)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        # What h5py raises on broken structures differs by version.
        raise DamagedStoreError(
            f"{path} is damaged: HDF5 cannot read it ({error}); extract it again"
        ) from error


class _Walk:
    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    def refuse(self, what: str) -> DamagedStoreError:
        return DamagedStoreError(f"{self.path} is refused: {what}; it is damaged or was not written by featx")

    def file(self, h5: h5py.File) -> Contents:
        kind: Literal["store", "part"] = "part" if "rows" in set(h5) else "store"
        self.members(h5, _MEMBERS[kind])
        meta = self.meta(h5)
        try:
            space = Space.from_json(meta["space"])
        except TypeError as error:
            raise self.refuse(f"its space is not of this format ({error})") from error
        if space.key != meta["space_key"]:
            raise self.refuse("its space_key is not that of its space")
        if kind == "store":
            images = self.group(h5, "images")
            fields = ("digest", *TEXT_FIELDS, *NUMBER_FIELDS)
            self.members(images, (*fields, "columns"))
            rows = self.table(images, fields)
            columns = self.group(images, "columns")
            names = self.members(columns)
            if names and self.table(columns, names, text=True) != rows:
                raise self.refuse("/images/columns has another number of rows than /images")
            skipped = self.group(h5, "skipped")
            self.members(skipped, ("name", "digest", "reason"))
            self.table(skipped, ("name", "digest", "reason"))
        else:
            group = self.group(h5, "rows")
            self.members(group, ("digest", "phash"))
            rows = self.table(group, ("digest", "phash"))
        features = self.group(h5, "features")
        regions = [self.region(features, name, rows) for name in self.members(features)]
        if not regions:
            raise self.refuse("/features is empty")
        return Contents(kind, rows, meta, space, tuple(sorted(regions, key=lambda region: region.offset)))

    def members(self, group: h5py.Group, expected: tuple[str, ...] | None = None) -> tuple[str, ...]:
        names = tuple(group)
        for name in names:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
                raise self.refuse(f"{group.name.rstrip('/')}/{name} is {kind}")
        if expected is not None and set(names) != set(expected):
            missing, more = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
            what = f"lacks {missing}" if missing else f"has {more}, which has no place there"
            raise self.refuse(f"{group.name} {what}")
        return names

    def group(self, parent: h5py.Group, name: str) -> h5py.Group:
        if parent.get(name, getclass=True) is not h5py.Group:
            raise self.refuse(f"{parent.name.rstrip('/')}/{name} is no group")
        return parent[name]

    def table(self, group: h5py.Group, names: tuple[str, ...], *, text: bool = False) -> int:
        """Check the columns of a table; gives their common length."""
        lengths = set()
        for name in names:
            if name == "digest" and not text:
                dataset = self.dataset(group, name, _DIGEST, 2)
                if dataset.shape[1] != DIGEST_SIZE:
                    raise self.refuse(f"{dataset.name} is {dataset.shape}, expected (n, {DIGEST_SIZE})")
            else:
                dataset = self.dataset(group, name, None if text else NUMBER_FIELDS.get(name), 1)
            lengths.add(dataset.shape[0])
        if len(lengths) != 1:
            raise self.refuse(f"the datasets of {group.name} have {sorted(lengths)} rows")
        return int(lengths.pop())

    def dataset(self, group: h5py.Group, name: str, dtype: np.dtype[Any] | None, ndim: int) -> h5py.Dataset:
        """Check one dataset; a dtype of None means text."""
        where = f"{group.name}/{name}"
        if group.get(name, getclass=True) is not h5py.Dataset:
            raise self.refuse(f"{where} is no dataset")
        dataset = group[name]
        properties = dataset.id.get_create_plist()
        if properties.get_layout() == h5py.h5d.VIRTUAL:
            raise self.refuse(f"{where} is a virtual dataset")
        if properties.get_layout() != h5py.h5d.CONTIGUOUS:
            raise self.refuse(f"{where} is not stored in one piece")
        if properties.get_external_count():
            raise self.refuse(f"{where} has external storage")
        if properties.get_nfilters():
            raise self.refuse(f"{where} has filters")
        if dtype is None:
            info = h5py.check_string_dtype(dataset.dtype)
            matches, expected = info is not None and info.length is None, "text"
        else:
            matches, expected = dataset.dtype == dtype, str(dtype)
        if not matches:
            raise self.refuse(f"{where} is of type {dataset.dtype}, expected {expected}")
        if len(dataset.shape) != ndim:
            raise self.refuse(f"{where} has shape {dataset.shape}, expected {ndim} dimensions")
        self.extent(dataset, where)
        return dataset

    def extent(self, dataset: h5py.Dataset, where: str) -> None:
        item = _TEXT_ITEM if h5py.check_string_dtype(dataset.dtype) else dataset.dtype.itemsize
        needed = math.prod(dataset.shape) * item
        if needed > self.size:
            raise self.refuse(
                f"{where} has shape {dataset.shape}, more than the {self.size} bytes of the file"
            )
        offset, stored = dataset.id.get_offset(), dataset.id.get_storage_size()
        if needed and (offset is None or stored != needed or offset + stored > self.size):
            raise self.refuse(f"the bytes of {where} are not in the file")

    def region(self, features: h5py.Group, name: str, rows: int) -> Region:
        if features.get(name, getclass=True) is not h5py.Dataset:
            raise self.refuse(f"/features/{name} is no dataset")
        dtype = features[name].dtype
        if dtype not in _STORED:
            raise self.refuse(f"/features/{name} is of type {dtype}, expected float16 or float32")
        dataset = self.dataset(features, name, dtype, 2)
        if dataset.shape[0] != rows:
            raise self.refuse(f"/features/{name} has {dataset.shape[0]} rows, expected {rows}")
        attributes = self.attributes(dataset)
        node, pool, dim = attributes.get("node"), attributes.get("pool"), attributes.get("dim")
        if f"{node}:{pool}" != name or dim != dataset.shape[1] or pool not in POOLINGS or not dim:
            raise self.refuse(f"/features/{name} has attributes node {node!r}, pool {pool!r} and dim {dim!r}")
        layer = LayerInfo(str(node), pool, int(dim))
        return Region(layer, int(dataset.id.get_offset() or 0), rows, dtype)

    def attributes(self, target: h5py.HLObject) -> dict[str, str | int | float]:
        found: dict[str, str | int | float] = {}
        for name in target.attrs:
            kind = target.attrs.get_id(name)
            is_text = h5py.check_string_dtype(kind.dtype) is not None
            if kind.shape != () or not (is_text or kind.dtype in (np.dtype("<i8"), np.dtype("<f8"))):
                raise self.refuse(f"attribute {name!r} of {target.name} is {kind.dtype} {kind.shape}")
            value = target.attrs[name]
            found[name] = str(value) if is_text else value.item()
        return found

    def meta(self, h5: h5py.File) -> dict[str, Any]:
        attributes = self.attributes(h5)
        for name in (*TEXT_ATTRIBUTES, *NUMBER_ATTRIBUTES):
            if (
                isinstance(attributes.get(name), str) is not (name in TEXT_ATTRIBUTES)
                or name not in attributes
            ):
                raise self.refuse(f"attribute {name!r} is missing or of another type")
        return parse_attributes(attributes)
