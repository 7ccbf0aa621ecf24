"""A model of a disk: what is recorded of a run, and what a crash may leave of it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Node:
    """A file or a directory, as it is and as it was when it was last synced.

    ``pending`` are the changes of names since then, each {name: number of a node, or None}.
    """

    content: bytearray | dict[str, int]
    durable: bytes | dict[str, int]
    pending: list[dict[str, int | None]] = field(default_factory=list)

    @property
    def is_directory(self):
        return isinstance(self.content, dict)


class Disk:
    """A model of a directory tree; node 0 is its root. What it begins with is durable."""

    def __init__(self, root):
        self.nodes = {}
        self._load(root)

    def _load(self, path):
        number = len(self.nodes)
        self.nodes[number] = node = Node(bytearray(), b"")
        if path.is_dir():
            node.content = {entry.name: self._load(entry) for entry in sorted(path.iterdir())}
            node.durable = dict(node.content)
        else:
            node.content = bytearray(path.read_bytes())
            node.durable = bytes(node.content)
        return number

    def find(self, parts):
        number = 0
        for part in parts:
            number = self.nodes[number].content[part]
        return number

    def apply(self, operation):
        getattr(self, f"_{operation[0]}")(*operation[1:])

    def _names(self, directory, changes):
        node = self.nodes[directory]
        node.pending.append(changes)
        node.content = _changed(node.content, changes)

    def _create(self, directory, name, number):
        self.nodes[number] = Node(bytearray(), b"")
        self._names(directory, {name: number})

    def _mkdir(self, directory, name, number):
        self.nodes[number] = Node({}, {})
        self._names(directory, {name: number})

    def _remove(self, directory, name):
        self._names(directory, {name: None})

    def _rename(self, directory, old, new):
        self._names(directory, {old: None, new: self.nodes[directory].content[old]})

    def _link(self, directory, old, new):
        self._names(directory, {new: self.nodes[directory].content[old]})

    def _size(self, number, size):
        content = self.nodes[number].content
        content[:] = content[:size].ljust(size, b"\0")

    def _write(self, number, offset, data):
        content = self.nodes[number].content
        if len(content) < offset:
            self._size(number, offset)
        content[offset : offset + len(data)] = data

    def _fsync(self, number):
        node = self.nodes[number]
        node.durable = copy.copy(node.content) if node.is_directory else bytes(node.content)
        node.pending = []

    def tree(self, names="now", contents="now", extra=None):
        """What is found after a crash: path to bytes, None for a directory.

        ``names`` and ``contents`` are those of ``now`` or the ``durable`` ones; contents of
        ``zeros`` have their length of now, and zeros where nothing was synced. ``extra`` is a
        directory and a change of its names that reached the disk though it was not synced.
        """
        found = {}

        def walk(number, path):
            node = self.nodes[number]
            if node.is_directory:
                entries = node.content if names == "now" else node.durable
                if extra is not None and extra[0] == number:
                    entries = _changed(entries, extra[1])
                if path:
                    found[path] = None
                for name, child in entries.items():
                    walk(child, f"{path}/{name}" if path else name)
            elif contents == "now":
                found[path] = bytes(node.content)
            elif contents == "zeros":
                found[path] = node.durable[: len(node.content)].ljust(len(node.content), b"\0")
            else:
                found[path] = node.durable

        walk(0, "")
        return found

    def stores(self, durable):
        """Name by node of the finished files: all of them now, or those that no crash can undo."""
        found = {}
        for folder in [node for node in self.nodes.values() if node.is_directory]:
            for name, number in (folder.durable if durable else folder.content).items():
                node = self.nodes[number]
                if name.endswith(".h5") and not (durable and node.durable != node.content):
                    found[number] = name
        return found


def _changed(entries, changes):
    kept = {name: number for name, number in entries.items() if name not in changes}
    return kept | {name: number for name, number in changes.items() if number is not None}


def crash_states(before, operations) -> Iterator[tuple[int, str, dict[str, bytes | None], Disk]]:
    """Give (number of operations, model, tree, disk) of every crash that the models allow."""
    disk = copy.deepcopy(before)
    for count in range(len(operations) + 1):
        if count:
            last = operations[count - 1]
            if last[0] == "write":
                _, number, offset, data = last
                whole, half = disk.nodes[number].content, data[: len(data) // 2]
                for part in (half, half.ljust(len(data), b"\0")):
                    disk.nodes[number].content = bytearray(whole)
                    disk.apply(("write", number, offset, part))
                    yield count, "torn write", disk.tree(), disk
                disk.nodes[number].content = whole
            disk.apply(last)
        yield count, "kill", disk.tree(), disk
        yield count, "only what was synced", disk.tree("durable", "durable"), disk
        yield count, "names without contents", disk.tree("now", "durable"), disk
        yield count, "names with zeros", disk.tree("now", "zeros"), disk
        yield count, "contents without names", disk.tree("durable", "now"), disk
        for number, node in list(disk.nodes.items()):
            for changes in node.pending:
                yield (
                    count,
                    "one name before the others",
                    disk.tree("durable", "durable", (number, changes)),
                    disk,
                )


def rebuild(tree, root):
    root.mkdir()
    for path, data in tree.items():
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)


class Recorder:
    """Records the calls of os that change what lies below a root; a context manager.

    pathlib calls these functions too. After every call the model is compared with the disk, so that
    a change made by another way cannot go unnoticed.
    """

    def __init__(self, root):
        self.root = root
        self.before = Disk(root)
        self.operations = []
        self._disk = copy.deepcopy(self.before)
        self._files = {}  # descriptor: [node, position], position None for a directory
        self._real = {}

    def __enter__(self):
        for name in ("open", "close", "write", "lseek", "ftruncate", "posix_fallocate", "fsync"):
            self._patch(name)
        for name in ("link", "replace", "rename", "unlink", "remove", "mkdir", "rmdir"):
            self._patch(name)
        return self

    def __exit__(self, kind, *_):
        for name, real in self._real.items():
            setattr(os, name, real)
        if kind is None:
            self._compare(contents=True)

    def _patch(self, name):
        real = self._real[name] = getattr(os, name)
        handler = getattr(self, f"_on_{name}")

        def call(*args, **kwargs):
            before = len(self.operations)
            result = handler(real, *args, **kwargs)
            if len(self.operations) > before:
                self._compare()
            return result

        setattr(os, name, call)

    def _compare(self, contents=False):
        found = {}
        for path in self.root.rglob("*"):
            key = path.relative_to(self.root).as_posix()
            size_only = None if path.is_dir() else path.stat().st_size
            found[key] = path.read_bytes() if contents and size_only is not None else size_only
        model = self._disk.tree()
        expected = {key: data if contents or data is None else len(data) for key, data in model.items()}
        assert found == expected, f"a change was not recorded: {found} is not {expected}"

    def _log(self, *operation):
        self.operations.append(operation)
        self._disk.apply(operation)

    def _place(self, path):
        """The directory's node and the name, None for what lies elsewhere."""
        path = Path(os.path.abspath(os.fsdecode(path)))
        if self.root not in path.parents:
            return None
        *folders, name = path.relative_to(self.root).parts
        return self._disk.find(folders), name

    def _places(self, old, new):
        before, after = self._place(old), self._place(new)
        if before is None and after is None:
            return None
        assert before is not None
        assert after is not None
        assert before[0] == after[0], "the recorder knows names of one directory"
        return *before, after[1]

    def _node(self, place):
        return 0 if place is None else self._disk.nodes[place[0]].content[place[1]]

    def _on_open(self, real, path, flags, *args, **kwargs):
        place = self._place(path)
        is_new = place is not None and flags & os.O_CREAT and not os.path.lexists(path)
        descriptor = real(path, flags, *args, **kwargs)
        if place is None and Path(path) != self.root:
            return descriptor
        if is_new:
            self._log("create", *place, len(self._disk.nodes))
        elif flags & os.O_TRUNC:
            self._log("size", self._node(place), 0)
        assert not flags & os.O_APPEND, "the recorder knows no appending"
        self._files[descriptor] = [self._node(place), 0]
        return descriptor

    def _on_close(self, real, descriptor):
        self._files.pop(descriptor, None)
        return real(descriptor)

    def _on_write(self, real, descriptor, data):
        count = real(descriptor, data)
        if descriptor in self._files:
            number, position = self._files[descriptor]
            self._files[descriptor][1] += count
            self._log("write", number, position, bytes(data[:count]))
        return count

    def _on_lseek(self, real, descriptor, *args):
        position = real(descriptor, *args)
        if descriptor in self._files:
            self._files[descriptor][1] = position
        return position

    def _on_ftruncate(self, real, descriptor, size):
        real(descriptor, size)
        if descriptor in self._files:
            self._log("size", self._files[descriptor][0], size)

    def _on_posix_fallocate(self, real, descriptor, offset, size):
        real(descriptor, offset, size)
        if descriptor in self._files:
            number = self._files[descriptor][0]
            self._log("size", number, max(offset + size, len(self._disk.nodes[number].content)))

    def _on_fsync(self, real, descriptor):
        real(descriptor)
        if descriptor in self._files:
            self._log("fsync", self._files[descriptor][0])

    def _on_link(self, real, old, new):
        real(old, new)
        if places := self._places(old, new):
            self._log("link", *places)

    def _on_replace(self, real, old, new):
        real(old, new)
        if places := self._places(old, new):
            self._log("rename", *places)

    _on_rename = _on_replace

    def _on_unlink(self, real, path):
        real(path)
        if place := self._place(path):
            self._log("remove", *place)

    _on_remove = _on_rmdir = _on_unlink

    def _on_mkdir(self, real, path, *args, **kwargs):
        real(path, *args, **kwargs)
        if place := self._place(path):
            self._log("mkdir", *place, len(self._disk.nodes))
