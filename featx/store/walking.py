"""The structure of an HDF5 file that somebody else wrote, read in a process of its own.

What HDF5 does with a file that was made to harm it is not known, so :mod:`featx.store.foreign` runs
:func:`main` in a child. No link but hard ones is followed, no content of a dataset and no value of
an attribute is read.
"""

from __future__ import annotations

import io
import json
import math
import sys
from contextlib import suppress
from typing import Any

import h5py
from h5py import h5a, h5d, h5l, h5o

from featx.records import escape_name
from featx.store.describing import link_kinds, object_kind, storage_problem, type_name, type_problem
from featx.store.heap import GuardedFile

__all__ = ["main", "walk"]

_MOST_OBJECTS = 10_000
_MOST_ATTRIBUTES = 256
_LONGEST_PATH = 1024
_MEMORY = 4 << 30  # bytes of address space; a walk needs a twentieth of it


def main(path: str, size: int, seconds: int) -> None:
    """Write what :func:`walk` finds as one JSON object to standard output.

    Parameters
    ----------
    path : str
        The file.
    size : int
        Its size in bytes.
    seconds : int
        CPU time after which the process is to be killed.
    """
    _limit(seconds)
    try:
        with io.FileIO(path) as raw, h5py.File(GuardedFile(raw), "r") as h5:
            found = walk(h5, size)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        found = {"error": str(error)}
    sys.stdout.write(json.dumps(found))


def _limit(seconds: int) -> None:
    try:
        import resource
    except ImportError:  # not POSIX
        return
    limits = ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CORE, 0))
    for which, limit in limits:
        hard = resource.getrlimit(which)[1]
        # Where a system has no such limit, the parent's clock is what is left.
        with suppress(OSError, ValueError):
            resource.setrlimit(which, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def walk(h5: h5py.File, size: int, most: int = _MOST_OBJECTS) -> dict[str, Any]:
    """List datasets, and what a plain file of arrays does not have.

    Parameters
    ----------
    h5 : h5py.File
        Open for reading.
    size : int
        Its size in bytes.
    most : int
        Objects to look at, at most.

    Returns
    -------
    dict
        ``datasets``, a list of [name, shape, dtype, bytes]; ``problems``, a list of [name, what];
        ``attributes``, the names of the attributes of ``/``.
    """
    return _Walk(size, most).file(h5)


class _Walk:
    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self.most = most
        self.datasets: list[tuple[str, list[int] | None, str, int]] = []
        self.problems: list[tuple[str, str]] = []
        self.seen: dict[tuple[int, int], str] = {}
        self.groups: list[tuple[h5py.Group, str]] = []

    def file(self, h5: h5py.File) -> dict[str, Any]:
        self.is_new(h5o.get_info(h5.id), "")
        self.attributes(h5.id, "/")
        self.groups.append((h5, ""))
        while self.groups and len(self.seen) < self.most:
            group, path = self.groups.pop()
            try:
                self.group(group, path)
            except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
                self.problem(path or "/", f"cannot be read ({error})")
        if len(self.seen) >= self.most:
            self.problem("/", f"holds more than {self.most} objects, the others were not looked at")
        names = [_text(h5a.open(h5.id, index=i).name) for i in range(self.count(h5.id))]
        return {"datasets": self.datasets, "problems": self.problems, "attributes": names}

    def problem(self, path: str, what: str) -> None:
        self.problems.append((path[:_LONGEST_PATH], what))

    def is_new(self, info: Any, path: str) -> bool:
        """Remember an object by its address; one that is known has several names."""
        first = self.seen.setdefault((info.fileno, info.addr), path)
        if first != path:
            within = path.startswith(f"{first}/")
            self.problem(path, f"leads back to {first or '/'}" if within else f"is another name of {first}")
        return first == path

    def group(self, group: h5py.Group, path: str) -> None:
        for name, link in link_kinds(group):
            there = f"{path}/{_text(name)}"
            if len(self.seen) >= self.most:
                return
            if len(there) > _LONGEST_PATH:
                self.problem(there, "lies too deep, what is in it was not looked at")
            elif link:
                self.problem(there, f"is {link}{_target(group, name)}")
            else:
                try:
                    self.object(group, name, there)
                except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
                    self.problem(there, f"cannot be read ({error})")

    def object(self, group: h5py.Group, name: bytes, path: str) -> None:
        if not self.is_new(h5o.get_info(group.id, name), path):
            return
        kind = object_kind(group, name)
        if kind not in ("group", "dataset"):
            self.problem(path, f"is a {kind}")
            return
        there = h5o.open(group.id, name)
        self.attributes(there, path)
        if kind == "dataset":
            self.dataset(there, path)
        else:
            self.groups.append((h5py.Group(there), path))

    def dataset(self, dataset: h5d.DatasetID, path: str) -> None:
        kind = dataset.get_type()
        for what in (storage_problem(dataset), type_problem(kind)):
            if what:
                self.problem(path, what)
        properties = dataset.get_create_plist()
        if properties.get_layout() == h5d.VIRTUAL or properties.get_external_count():
            # To know its shape, HDF5 may open the other files.
            self.datasets.append((path, None, type_name(kind), 0))
            return
        shape = dataset.shape
        needed = math.prod(shape) * kind.get_size() if shape is not None else 0
        if needed > self.size:
            self.problem(path, f"has shape {shape}, {needed} bytes, more than the {self.size} of the file")
        listed = None if shape is None else list(shape)
        self.datasets.append((path, listed, type_name(kind), dataset.get_storage_size()))

    def count(self, there: Any) -> int:
        return min(int(h5a.get_num_attrs(there)), _MOST_ATTRIBUTES)

    def attributes(self, there: Any, path: str) -> None:
        for number in range(self.count(there)):
            attribute = h5a.open(there, index=number)
            what = type_problem(attribute.get_type())
            if what:
                self.problem(path, f"has an attribute {_text(attribute.name)!r} that {what}")
        total = h5a.get_num_attrs(there)
        if total > _MOST_ATTRIBUTES:
            self.problem(path, f"has {total} attributes, {_MOST_ATTRIBUTES} were looked at")


def _target(group: h5py.Group, name: bytes) -> str:
    kind = group.id.links.get_info(name).type
    if kind == h5l.TYPE_SOFT:
        return f" to {_text(group.id.links.get_val(name))}"
    if kind == h5l.TYPE_EXTERNAL:
        file, there = group.id.links.get_val(name)
        return f" to {_text(there)} of {_text(file)}"
    return ""


def _text(name: bytes) -> str:
    return escape_name(name.decode("utf-8", "surrogateescape"))
