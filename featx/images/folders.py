"""Images in a folder, or one image file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featx.errors import SourceError
from featx.images.layout import OF_MACOS, Layout, is_sidecar
from featx.images.reading import read_file
from featx.records import ImageRecord, escape_name

__all__ = ["FileSource", "FolderSource"]

_RUN_SCHEMA = b'"featx.results/'
"""Stands at the head of a run folder's ``results.json``; other people's files of that name are no reason."""


class FolderSource:
    """Images under a folder: class folders, split folders with class folders, or a flat folder.

    Hidden files, files whose ending says that they are no images (:func:`featx.images.layout.is_sidecar`),
    and what featx itself writes (run folders, parts of a store) are not listed. A symbolic link to a
    folder is followed once, and only where it leads out of the root, whose own folders are listed anyway;
    a link that leads nowhere is listed as a file of unknown size, so that its absence is heard of. A file
    beside the split folders has no split.

    Parameters
    ----------
    root : path

    Raises
    ------
    SourceError
        If the folder does not exist or cannot be listed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("ants/1.jpg", "bees/1.jpg"):
    ...     (root / name).parent.mkdir()
    ...     _ = (root / name).write_bytes(b"")
    >>> [(record.name, record.label) for record in FolderSource(root)]
    [('ants/1.jpg', 'ants'), ('bees/1.jpg', 'bees')]
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.location = str(self.root.resolve())
        if not self.root.is_dir():
            raise SourceError(f"{_shown(root)} is no folder; give one with a folder of images per class")
        self._layout = Layout.of(_top_folders(self.root), os.fspath(root))
        self.kind: str = self._layout.kind

    def __iter__(self) -> Iterator[ImageRecord]:
        root = os.fsencode(self.root)
        for path in _walk(root):
            name = os.fsdecode(os.path.relpath(path, root)).replace(os.sep, "/")
            label, split = self._layout.place(name)
            try:
                status = os.stat(path)  # noqa: PTH116 - bytes, and a million of them
                size, mtime_ns = status.st_size, status.st_mtime_ns
            except OSError:  # a link to nowhere; reading it gives the reason
                size, mtime_ns = -1, -1
            yield ImageRecord(name, label, split, size=size, mtime_ns=mtime_ns)

    def read(self, record: ImageRecord) -> bytes:
        """Read the encoded bytes of one image."""
        return read_file(f"{self.root}/{record.name}")


class FileSource:
    """One image file.

    Parameters
    ----------
    path : path
    location : str, optional
        What to call it, if this is a copy of something elsewhere.
    mtime_ns : int, optional
        A number that changes when that does; the time of change of ``path`` if left out.
    """

    kind = "one image"

    def __init__(
        self, path: str | os.PathLike[str], *, location: str | None = None, mtime_ns: int | None = None
    ) -> None:
        self.path = Path(path)
        self.location = location or str(self.path.resolve())
        self._name = location.rpartition("/")[2] if location else self.path.name
        self._mtime_ns = mtime_ns

    def __iter__(self) -> Iterator[ImageRecord]:
        status = self.path.stat()
        mtime_ns = status.st_mtime_ns if self._mtime_ns is None else self._mtime_ns
        yield ImageRecord(name=self._name, size=status.st_size, mtime_ns=mtime_ns)

    def read(self, record: ImageRecord) -> bytes:  # noqa: ARG002 - there is only one record
        """Read the encoded bytes."""
        return read_file(self.path)


def _top_folders(root: Path) -> list[str]:
    with _scanned(os.fsencode(root)) as entries:
        return sorted(
            (os.fsdecode(entry.name) for entry in entries if _is_listed_folder(entry)), key=os.fsencode
        )


@contextmanager
def _scanned(folder: bytes) -> Iterator[Iterator[os.DirEntry[bytes]]]:
    """Visible entries of a folder."""
    try:
        with os.scandir(folder) as entries:
            yield (entry for entry in entries if not entry.name.startswith(b"."))
    except OSError as error:
        raise SourceError(f"{_shown(folder)} cannot be listed: {error.strerror or error}") from error


def _walk(root: bytes) -> Iterator[bytes]:
    """Files below a folder, depth first, in byte order; of a folder with a million only names are held.

    A link to a folder is followed once, and only out of the root: what lies below that is listed anyway.
    """
    inside = os.path.realpath(root)
    entered = set()
    waiting = [(root, *_names_in(root))]
    while waiting:
        folder, names, folders = waiting[-1]
        if not names:
            waiting.pop()
            continue
        name = names.pop()
        path = os.path.join(folder, name)  # noqa: PTH118 - bytes
        if name not in folders:
            yield path
            continue
        if os.path.islink(path):  # noqa: PTH114 - bytes
            target = os.path.realpath(path)
            if target in entered or os.path.commonpath([target, inside]) in (target, inside):
                continue
            entered.add(target)
        waiting.append((path, *_names_in(path)))


def _names_in(folder: bytes) -> tuple[list[bytes], set[bytes]]:
    """Names of what is listed of a folder, the last one first, and which of them are folders."""
    names, folders = [], set()
    with _scanned(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                if _is_listed_folder(entry):
                    names.append(entry.name)
                    folders.add(entry.name)
            elif not is_sidecar(os.fsdecode(entry.name)) and _is_file_or_lost(entry):
                names.append(entry.name)
    names.sort(reverse=True)
    return names, folders


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_listed_folder(entry: os.DirEntry[bytes]) -> bool:
    """Whether this is a folder, and none that featx wrote: a source may hold the results of its own run."""
    if not _is_folder(entry) or entry.name == os.fsencode(OF_MACOS):
        return False
    path = Path(os.fsdecode(entry.path))
    if path.name.endswith(".parts") and ".h5" in path.name:
        return False
    if _is_store(path / "shards"):
        return False
    try:
        with (path / "results.json").open("rb") as file:
            return _RUN_SCHEMA not in file.read(200)
    except OSError:
        return True


def _is_store(shards: Path) -> bool:
    """Whether a folder ``shards`` is that of a store that is a directory."""
    try:
        return any(re.fullmatch(r"\d+-of-\d+", name.name) for name in shards.iterdir())
    except OSError:
        return False


def _is_file_or_lost(entry: os.DirEntry[bytes]) -> bool:
    """Whether this is a file, or a link that leads nowhere; not a pipe, which would block its reader."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110 - bytes
    except OSError:  # a link to itself
        return True


def _shown(path: str | bytes | os.PathLike[str]) -> str:
    return escape_name(os.fsdecode(path))
