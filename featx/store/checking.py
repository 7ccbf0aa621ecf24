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
from typing import Any, Literal, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError, StoreError
from featx.records import FORMAT_VERSION, LayerInfo, Space, StoreDtype, escape_name
from featx.store.objects import Objects
from featx.store.schema import (
    DIGEST_SIZE,
    NUMBER_ATTRIBUTES,
    NUMBER_FIELDS,
    POOLINGS,
    TEXT_ATTRIBUTES,
    TEXT_FIELDS,
    check_layers,
    parse_attributes,
)
from featx.store.shapes import SHAPE_FIELDS

__all__ = ["Contents", "Region", "inspect"]

_BLOCK = 8 << 20
_DIGEST = np.dtype(np.uint8)
_PLACE = np.dtype("<i8")
_NUMBERS = {**NUMBER_FIELDS, **SHAPE_FIELDS, "rows": np.dtype("<i8")}
Kind = Literal["store", "part", "index"]
_MEMBERS: Mapping[Kind, tuple[str, ...]] = {
    "store": ("images", "features", "skipped"),
    "part": ("rows", "features"),
    "index": ("images", "skipped", "places", "parts"),
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
    """What a file holds: its kind, number of rows, attributes (parsed), space and layers.

    The rows of an index lie in other files, so that it has layers but no ``regions``.
    """

    kind: Kind
    rows: int
    meta: Mapping[str, Any]
    space: Space
    layers: tuple[LayerInfo, ...]
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
    except (
        OSError,
        RuntimeError,
        ValueError,
        OverflowError,
        MemoryError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        # What h5py raises on broken structures differs by version.
        reason = escape_name(str(error))
        raise DamagedStoreError(
            f"{path} is damaged: HDF5 cannot read it ({reason}); extract it again"
        ) from error


class _Walk(Objects):
    def file(self, h5: h5py.File) -> Contents:
        there = set(h5)
        kind: Kind = "part" if "rows" in there else "index" if "places" in there else "store"
        # The index of one shard also says where its images stand in the listing.
        self.members(h5, (*_MEMBERS[kind], *(("order",) if kind == "index" and "order" in there else ())))
        meta = self.meta(h5)
        space = self.space(meta)
        if kind != "part":
            images = self.group(h5, "images")
            fields = ("digest", *TEXT_FIELDS, *NUMBER_FIELDS, *_shape_fields(images))
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
            fields = ("digest", "phash", *_shape_fields(group))
            self.members(group, fields)
            rows = self.table(group, fields)
        if kind == "index":
            layers = self.index(h5, rows, meta)
            self.require_own_bytes()
            return Contents(kind, rows, meta, space, layers, ())
        features = self.group(h5, "features")
        dtype = np.dtype(space.store_dtype).newbyteorder("<")
        regions = [self.region(features, name, rows, dtype) for name in self.members(features)]
        if not regions:
            raise self.refuse("/features is empty")
        self.require_own_bytes()
        regions.sort(key=lambda region: region.offset)
        layers = tuple(region.layer for region in regions)
        return Contents(kind, rows, meta, space, layers, tuple(regions))

    def index(self, h5: h5py.File, rows: int, meta: Mapping[str, Any]) -> tuple[LayerInfo, ...]:
        """Check what only an index has; gives its layers."""
        try:
            layers = tuple(LayerInfo(node, pool, dim) for node, pool, dim in meta["layers"])
            check_layers(layers)
        except (KeyError, TypeError, ValueError, StoreError) as error:
            raise self.refuse(f"its layers are not of this format ({error})") from error
        for layer in layers:
            if layer.pool not in POOLINGS or type(layer.dim) is not int:
                raise self.refuse(f"its layer {layer.name!r} has pool {layer.pool!r} and dim {layer.dim!r}")
        of_shard = ("order" in h5, "shard" in meta, "listing" in meta)
        if any(of_shard) and not all(of_shard):
            raise self.refuse("it has /order, or attributes shard and listing, without the others")
        parts = self.group(h5, "parts")
        self.members(parts, ("name", "digest", "rows", "size"))
        self.table(parts, ("name", "digest", "rows", "size"))
        places = self.group(h5, "places")
        self.members(places, tuple(layer.name for layer in layers))
        for layer in layers:
            shape = self.dataset(places, layer.name, _PLACE, 2).shape
            if shape != (rows, 2):
                raise self.refuse(f"/places/{layer.name} has shape {shape}, expected {(rows, 2)}")
        if "order" in h5:
            order = self.group(h5, "order")
            self.members(order, ("image", "skipped"))
            for name, group in (("image", "images"), ("skipped", "skipped")):
                count = self.dataset(order, name, _PLACE, 1).shape[0]
                if count != h5[f"{group}/name"].shape[0]:
                    raise self.refuse(f"/order/{name} has {count} rows, expected those of /{group}")
        return layers

    def table(self, group: h5py.Group, names: tuple[str, ...], *, text: bool = False) -> int:
        """Check the columns of a table; gives their common length."""
        lengths = set()
        for name in names:
            if name == "digest" and not text:
                dataset = self.dataset(group, name, _DIGEST, 2)
                if dataset.shape[1] != DIGEST_SIZE:
                    raise self.refuse(f"{dataset.name} is {dataset.shape}, expected (n, {DIGEST_SIZE})")
            else:
                dataset = self.dataset(group, name, None if text else _NUMBERS.get(name), 1)
            lengths.add(dataset.shape[0])
        if len(lengths) != 1:
            raise self.refuse(f"the datasets of {group.name} have {sorted(lengths)} rows")
        return int(lengths.pop())

    def region(self, features: h5py.Group, name: str, rows: int, dtype: np.dtype[Any]) -> Region:
        dataset = self.dataset(features, name, dtype, 2)
        if dataset.shape[0] != rows:
            raise self.refuse(f"/features/{name} has {dataset.shape[0]} rows, expected {rows}")
        attributes = self.attributes(dataset)
        node, pool, dim = attributes.get("node"), attributes.get("pool"), attributes.get("dim")
        matches = isinstance(node, str) and isinstance(dim, int) and f"{node}:{pool}" == name
        if not matches or dim != dataset.shape[1] or pool not in POOLINGS or not dim:
            raise self.refuse(f"/features/{name} has attributes node {node!r}, pool {pool!r} and dim {dim!r}")
        layer = LayerInfo(str(node), pool, int(dim))
        return Region(layer, int(dataset.id.get_offset() or 0), rows, dtype)

    def meta(self, h5: h5py.File) -> dict[str, Any]:
        attributes = self.attributes(h5)
        for name in (*TEXT_ATTRIBUTES, *NUMBER_ATTRIBUTES):
            if (
                isinstance(attributes.get(name), str) is not (name in TEXT_ATTRIBUTES)
                or name not in attributes
            ):
                raise self.refuse(f"attribute {name!r} is missing or of another type")
        for name in NUMBER_ATTRIBUTES:
            value = attributes[name]
            if not 0 <= float(value) < math.inf:
                raise self.refuse(f"attribute {name!r} is {value}")
        if attributes["featx_format"] != FORMAT_VERSION:
            found = attributes["featx_format"]
            raise self.refuse(f"attribute 'featx_format' is {found}, expected {FORMAT_VERSION}")
        meta = parse_attributes(attributes)
        for name in ("space", "request", "provenance"):
            if not isinstance(meta.get(name, {}), dict):
                raise self.refuse(f"attribute {name!r} is no JSON object")
        return meta

    def space(self, meta: Mapping[str, Any]) -> Space:
        try:
            space = Space.from_json(meta["space"])
        except TypeError as error:
            raise self.refuse(f"its space is not of this format ({error})") from error
        texts = (space.provider, space.backbone, space.decoding, space.precision)
        mappings = (space.weights, space.preprocess)
        if (
            not all(isinstance(value, str) for value in texts)
            or not all(isinstance(value, dict) for value in mappings)
            or space.store_dtype not in get_args(StoreDtype)
        ):
            raise self.refuse("its space is not of this format (a field is of another type)")
        if space.key != meta["space_key"]:
            raise self.refuse("its space_key is not that of its space")
        return space


def _shape_fields(group: h5py.Group) -> tuple[str, ...]:
    """Name the fields of sizes and modes that a group must have: all, or none if none is there."""
    # From its list of names: to ask whether it has one would follow a link.
    return tuple(SHAPE_FIELDS) if SHAPE_FIELDS.keys() & set(group) else ()
