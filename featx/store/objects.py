"""Which groups, datasets and attributes of HDF5 have a place in a featx file: the plain ones.

All questions are put to the metadata; nothing is opened before it is known to be a group or a dataset
of this file, and no content of a dataset is read.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5t

from featx.errors import DamagedStoreError
from featx.records import escape_name
from featx.store.describing import link_kinds, object_kind, storage_problem, type_name
from featx.store.heap import REFERENCE
from featx.store.userblock import SIZE

__all__ = ["Objects"]

_HEAD = SIZE + 48  # bytes: user block and the shortest superblock (HDF5 File Format, II.C)
_MOST_ROW = 1 << 31  # bytes: a store without images can claim rows of any width
_MOST_ATTRIBUTES = 64


class Objects:
    """Gives groups, datasets and attributes of one file, or refuses them by name.

    Parameters
    ----------
    path : Path
        Its name, for messages.
    size : int
        Its size in bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._taken: list[tuple[int, int, str]] = []

    def refuse(self, what: str) -> DamagedStoreError:
        """Make the error that names the file and what has no place in it."""
        return DamagedStoreError(
            f"{self.path} is refused: {escape_name(what)}; it is damaged or was not written by featx"
        )

    def members(self, group: h5py.Group, expected: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Give the names in a group, all of which are hard links (and the ``expected`` ones)."""
        names = []
        for raw, kind in link_kinds(group):
            name = raw.decode("utf-8", "surrogateescape")
            if kind:
                raise self.refuse(f"{group.name.rstrip('/')}/{name} is {kind}")
            names.append(name)
        if expected is not None and set(names) != set(expected):
            missing, more = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
            what = f"lacks {missing}" if missing else f"has {more}, which has no place there"
            raise self.refuse(f"{group.name} {what}")
        return tuple(names)

    def group(self, parent: h5py.Group, name: str) -> h5py.Group:
        """Give a group in a group."""
        if object_kind(parent, _encode(name)) != "group":
            raise self.refuse(f"{parent.name.rstrip('/')}/{name} is no group")
        return parent[name]

    def dataset(self, group: h5py.Group, name: str, dtype: np.dtype[Any] | None, ndim: int) -> h5py.Dataset:
        """Give a dataset whose bytes lie in one piece in this file; a dtype of None means text."""
        where = f"{group.name}/{name}"
        if object_kind(group, _encode(name)) != "dataset":
            raise self.refuse(f"{where} is no dataset")
        dataset = group[name]
        problem = storage_problem(dataset.id)
        if not problem and dataset.id.get_create_plist().get_layout() != h5d.CONTIGUOUS:
            problem = "is not stored in one piece"
        kind = dataset.id.get_type()
        if not problem and (kind.committed() or not _is(kind, dtype)):
            named = " that has a name of its own" if kind.committed() else ""
            problem = f"is of type {type_name(kind)}{named}, expected {'text' if dtype is None else dtype}"
        if not problem and len(dataset.shape or ()) != ndim:
            problem = f"has shape {dataset.shape}, expected {ndim} dimensions"
        if problem:
            raise self.refuse(f"{where} {problem}")
        self._extent(dataset, where, REFERENCE if dtype is None else dtype)
        return dataset

    def _extent(self, dataset: h5py.Dataset, where: str, dtype: np.dtype[Any]) -> None:
        needed = math.prod(dataset.shape) * dtype.itemsize
        if needed > self.size or math.prod(dataset.shape[1:]) * dtype.itemsize > _MOST_ROW:
            raise self.refuse(
                f"{where} has shape {dataset.shape}, more than the {self.size} bytes of the file"
            )
        if not needed:
            return
        offset, stored = dataset.id.get_offset(), dataset.id.get_storage_size()
        if offset is None or stored != needed or offset + stored > self.size:
            raise self.refuse(f"the bytes of {where} are not in the file")
        self._taken.append((offset, offset + stored, where))

    def require_own_bytes(self) -> None:
        """Refuse datasets seen so far that share bytes with each other or with the head of the file.

        This also finds one dataset under two names.
        """
        taken = [(0, _HEAD, "the head of the file"), *sorted(self._taken)]
        for (_, end, one), (start, _, other) in pairwise(taken):
            if start < end:
                raise self.refuse(f"{other} shares its bytes with {one}")

    def attributes(self, target: h5py.HLObject) -> dict[str, str | int | float]:
        """Read the attributes of a group or a dataset: single texts, int64 and float64."""
        if len(target.attrs) > _MOST_ATTRIBUTES:
            raise self.refuse(f"{target.name} has {len(target.attrs)} attributes")
        found: dict[str, str | int | float] = {}
        total = 0
        for name in target.attrs:
            attribute = target.attrs.get_id(name)
            kind = attribute.get_type()
            is_text = _is(kind, None)
            if (
                attribute.shape != ()
                or kind.committed()
                or not (is_text or kind.equal(h5t.STD_I64LE) or kind.equal(h5t.IEEE_F64LE))
            ):
                what = f"{type_name(kind)} {attribute.shape}"
                raise self.refuse(f"attribute {name!r} of {target.name} is {what}")
            value = target.attrs[name]
            found[name] = str(value) if is_text else value.item()
            total += len(value) if is_text else 0
            if total > self.size:
                raise self.refuse(f"attribute {name!r} of {target.name} is longer than the file")
        return found


def _is(kind: h5t.TypeID, dtype: np.dtype[Any] | None) -> bool:
    # NumPy's own == takes an enum for an integer, and an opaque type with the right tag for anything.
    if dtype is None:
        is_text = kind.get_class() == h5t.STRING and kind.is_variable_str()
        return bool(is_text and kind.get_cset() in (h5t.CSET_ASCII, h5t.CSET_UTF8))
    return bool(kind.equal(h5t.py_create(dtype)))


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
