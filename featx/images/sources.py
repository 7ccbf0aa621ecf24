"""Where images come from: each source is a stream of :class:`ImageRecord` in a stable order.

A source lists names, labels and splits without reading a pixel; :meth:`Source.read` then gives the
encoded bytes (or the array) of one record. :func:`open_source` finds the right one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featx.errors import SourceError
from featx.records import ImageRecord, escape_name

RawImage: TypeAlias = "bytes | NDArray[Any] | Image.Image"
ImageLike: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | Image.Image"
SourceLike: TypeAlias = "str | os.PathLike[str] | Sequence[ImageLike] | NDArray[Any] | Source"

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names that mean a split, in lower case."""

# fmt: off
SIDECARS = frozenset({
    ".bib", ".cfg", ".csv", ".db", ".featx", ".gz", ".h5", ".htm", ".html", ".ini", ".ipynb", ".json",
    ".jsonl", ".lock", ".log", ".mat", ".md", ".npy", ".npz", ".parquet", ".part", ".pdf", ".pkl", ".pth",
    ".py", ".rst", ".safetensors", ".sh", ".tar", ".tmp", ".toml", ".tsv", ".txt", ".xls", ".xlsx",
    ".xml", ".yaml", ".yml", ".zip",
})
# fmt: on
"""Files of these endings lie beside images and are no images; everything else is tried."""

_RUN_SCHEMA = b'"featx.results/'
"""Stands at the head of a run folder's ``results.json``; other people's files of that name are no reason."""


class Source(Protocol):
    """What every source offers.

    Attributes
    ----------
    kind : str
        What was recognised, in words: ``"class folders"``, ``"split folders"``, …
    location : str
        Where it lies: the path, or ``"<memory>"``.
    """

    kind: str
    location: str

    def __iter__(self) -> Iterator[ImageRecord]:
        """List the records, in the same order every time."""
        ...

    def read(self, record: ImageRecord) -> RawImage:
        """Give the encoded bytes, the array or the PIL image of a record."""
        ...


class FolderSource:
    """Images under a folder: class folders, split folders with class folders, or a flat folder.

    Hidden files, files whose ending says that they are no images (:data:`SIDECARS`), and what featx
    itself writes (run folders, parts of a store) are not listed. A folder reached through a symbolic
    link is listed unless that leads in a circle; a link that leads nowhere is listed as a file of
    unknown size, so that its absence is heard of. A file beside the split folders has no split.

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
        folders = [entry.name for entry in _scan(self.root) if _is_listed_folder(entry)]
        splits = [name for name in folders if name.lower() in SPLIT_FOLDERS]
        if splits and len(splits) == len(folders):
            self.kind = "split folders"
            twice = {SPLIT_FOLDERS[name.lower()] for name in splits}
            if len(twice) < len(splits):
                raise SourceError(
                    f"{_shown(root)} has several folders of one split ({', '.join(splits)}); keep one"
                )
        elif len(splits) > 1 or {name.lower() for name in splits} & {"train", "test"}:
            extra = [_shown(name) for name in folders if name not in splits]
            raise SourceError(
                f"{_shown(root)} has folders of splits ({', '.join(splits)}) and others that are no splits "
                f"({', '.join(extra[:5])}); expected only train, val and test there: move the others away, "
                "or rename a class of that name"
            )
        else:
            self.kind = "class folders" if folders else "flat folder"

    def __iter__(self) -> Iterator[ImageRecord]:
        for entry in _walk(self.root, ()):
            name = os.path.relpath(entry.path, self.root).replace(os.sep, "/")
            folders = name.split("/")[:-1]
            split = None
            if self.kind == "split folders" and folders:
                split = SPLIT_FOLDERS[folders.pop(0).lower()]
            try:
                status = entry.stat()
                size, mtime_ns = status.st_size, status.st_mtime_ns
            except OSError:  # a link to nowhere; reading it gives the reason
                size, mtime_ns = -1, -1
            yield ImageRecord(
                name=name, label=folders[0] if folders else None, split=split, size=size, mtime_ns=mtime_ns
            )

    def read(self, record: ImageRecord) -> bytes:
        """Read the encoded bytes of one image."""
        return (self.root / record.name).read_bytes()


class ItemsSource:
    """Images that the caller holds: paths, arrays or PIL images, in the order given.

    Parameters
    ----------
    items : iterable of path, ndarray or PIL.Image.Image
        Arrays are (H, W) or (H, W, 3). A path is named by itself, the others by their position.
    """

    kind = "items"
    location = "<memory>"

    def __init__(self, items: Iterable[ImageLike]) -> None:
        self.items = list(items)
        for position, item in enumerate(self.items):
            if not isinstance(item, str | os.PathLike | np.ndarray | Image.Image):
                raise SourceError(
                    f"item {position} is a {type(item).__name__}; expected a path, an array or a PIL image"
                )

    def __iter__(self) -> Iterator[ImageRecord]:
        for position, item in enumerate(self.items):
            name = str(position)
            if isinstance(item, str | os.PathLike):
                name = f"{position}:{os.fspath(item)}"
            yield ImageRecord(name=name, columns={"item": str(position)})

    def read(self, record: ImageRecord) -> RawImage:
        """Give the bytes, the array or the PIL image of one record."""
        item = self.items[int(record.columns["item"])]
        return item if isinstance(item, np.ndarray | Image.Image) else Path(item).read_bytes()


class FileSource:
    """One image file."""

    kind = "one image"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.location = str(self.path.resolve())

    def __iter__(self) -> Iterator[ImageRecord]:
        status = self.path.stat()
        yield ImageRecord(name=self.path.name, size=status.st_size, mtime_ns=status.st_mtime_ns)

    def read(self, record: ImageRecord) -> bytes:  # noqa: ARG002 - there is only one record
        """Read the encoded bytes."""
        return self.path.read_bytes()


def open_source(source: SourceLike) -> Source:
    """Open whatever holds images.

    Parameters
    ----------
    source : path, sequence, ndarray or Source
        A folder of class folders; a folder with ``train`` (``training``), ``val`` (``valid``,
        ``validation``, ``dev``), ``test`` (``testing``) above the class folders; a flat folder (no
        labels); one image file; a sequence of paths, arrays and PIL images; an array (N, H, W) or
        (N, H, W, 3).

    Raises
    ------
    SourceError
        If there is nothing, or nothing that can be listed.
    """
    if isinstance(source, bytes):
        return open_source(os.fsdecode(source))
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            return FolderSource(path)
        if path.is_file():
            if path.suffix.lower() in SIDECARS:
                raise SourceError(
                    f"{_shown(path)} is a {path.suffix} file; expected a folder of images or one image file"
                )
            return FileSource(path)
        raise SourceError(f"{_shown(path)} does not exist; give a folder with a folder of images per class")
    if isinstance(source, np.ndarray):
        if source.ndim not in (3, 4):
            raise SourceError(
                f"an array of shape {source.shape} is no stack of images: (N, H, W) or (N, H, W, 3) is"
            )
        if source.ndim == 3 and source.shape[-1] in (3, 4):
            raise SourceError(
                f"an array of shape {source.shape} is one colour image, expected a stack: give image[None], "
                "or list(images) if it is grey images of that width"
            )
        return ItemsSource(list(source))
    if isinstance(source, Sequence):
        return ItemsSource(source)
    if not all(hasattr(source, name) for name in ("__iter__", "read", "kind", "location")):
        raise SourceError(
            f"a {type(source).__name__} is no source of images; give a path, a list of paths, arrays and PIL "
            "images (list(…) makes one), or an object with kind, location, __iter__ and read"
        )
    return source


def list_images(source: Source) -> list[ImageRecord]:
    """List all records of a source, and refuse an empty one.

    Raises
    ------
    SourceError
        If the source holds no images.
    """
    try:
        records = list(source)
    except OSError as error:
        raise SourceError(f"{source.location} cannot be listed: {error.strerror or error}") from error
    if not records:
        raise SourceError(
            f"{_shown(source.location)} holds no images; expected one folder of images per class, "
            "or train and test above them"
        )
    return records


def _scan(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Visible entries of a folder, in byte order of their names."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{_shown(folder)} cannot be listed: {error.strerror or error}") from error
    return sorted(visible, key=lambda entry: os.fsencode(entry.name))


def _walk(folder: str | os.PathLike[str], above: tuple[tuple[int, int], ...]) -> Iterator[os.DirEntry[str]]:
    """Files below a folder, depth first; ``above`` holds device and inode of the way down."""
    status = Path(folder).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in _scan(folder):
        if _is_folder(entry):
            if _is_listed_folder(entry):
                yield from _walk(entry.path, (*above, here))
        elif Path(entry.name).suffix.lower() not in SIDECARS and _is_file_or_lost(entry):
            yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_listed_folder(entry: os.DirEntry[str]) -> bool:
    """Whether this is a folder, and none that featx wrote: a source may hold the results of its own run."""
    if not _is_folder(entry):
        return False
    if entry.name.endswith(".parts") and ".h5" in entry.name:
        return False
    if _is_store(Path(entry.path) / "shards"):
        return False
    try:
        with (Path(entry.path) / "results.json").open("rb") as file:
            return _RUN_SCHEMA not in file.read(200)
    except OSError:
        return True


def _is_store(shards: Path) -> bool:
    """Whether a folder ``shards`` is that of a store that is a directory."""
    try:
        return any(re.fullmatch(r"\d+-of-\d+", name.name) for name in shards.iterdir())
    except OSError:
        return False


def _is_file_or_lost(entry: os.DirEntry[str]) -> bool:
    """Whether this is a file, or a link that leads nowhere; not a pipe, which would block its reader."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:  # a link to itself
        return True


def _shown(path: str | os.PathLike[str]) -> str:
    return escape_name(os.fspath(path))
