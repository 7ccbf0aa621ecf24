"""Where images come from: each source is a stream of :class:`ImageRecord` in a stable order.

A source lists names, labels and splits without reading a pixel; :meth:`Source.read` then gives the
encoded bytes (or the array) of one record. :func:`open_source` finds the right one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featx.errors import SourceError
from featx.images.folders import FileSource, FolderSource
from featx.images.items import ImageLike, ItemsSource, RawImage
from featx.images.layout import is_sidecar
from featx.listing import Listing
from featx.records import ImageRecord, escape_name

__all__ = ["RawImage", "Source", "SourceLike", "list_images", "open_file", "open_source"]

MANIFESTS = (".csv", ".tsv", ".parquet")
ARRAYS = (".npy", ".npz")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

SourceLike: TypeAlias = "str | os.PathLike[str] | Sequence[ImageLike] | NDArray[Any] | Source"


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


def open_source(source: SourceLike) -> Source:
    """Open whatever holds images.

    Parameters
    ----------
    source : path, sequence, ndarray or Source
        A folder of class folders; a folder with ``train`` (``training``), ``val`` (``valid``,
        ``validation``, ``dev``), ``test`` (``testing``) above the class folders; a flat folder (no
        labels); a manifest, CSV or Parquet; ``.npy`` or ``.npz`` arrays; a ``.zip`` or ``.tar`` archive;
        one image file; a URL of any of these; a sequence of paths, arrays and PIL images; an array
        (N, H, W) or (N, H, W, 3).

    Raises
    ------
    SourceError
        If there is nothing, or nothing that can be listed.
    """
    if isinstance(source, bytes):
        return open_source(os.fsdecode(source))
    if isinstance(source, str | os.PathLike):
        if isinstance(source, str) and "://" in source:
            from featx.images.remote import open_url

            return open_url(source)
        path = Path(source)
        if path.is_dir():
            return FolderSource(path)
        if path.is_file():
            return open_file(path)
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


def open_file(path: Path, *, location: str | None = None, mtime_ns: int | None = None) -> Source:
    """Open one file that holds images, by its ending; what is no list and no archive is one image.

    Parameters
    ----------
    path : Path
        On this machine.
    location : str, optional
        What to call it, if this is a copy of something elsewhere.
    mtime_ns : int, optional
        A number that changes when that does; the time of change of ``path`` if left out.

    Raises
    ------
    SourceError
        If it cannot be read, or its ending says that it holds no images.
    """
    name = path.name.lower()
    of: dict[str, Any] = {"location": location, "mtime_ns": mtime_ns}
    if name.endswith(MANIFESTS):
        from featx.images.manifests import ManifestSource

        return ManifestSource(path, **of)
    if name.endswith(ARRAYS):
        from featx.images.arrays import ArraySource

        return ArraySource(path, **of)
    if name.endswith(".zip"):
        from featx.images.zips import ZipSource

        return ZipSource(path, **of)
    if name.endswith(TARS):
        from featx.images.tars import TarSource

        return TarSource(path, **of)
    if is_sidecar(path.name):
        raise SourceError(
            f"{_shown(path)} is a {path.suffix} file; expected a folder of images, a manifest "
            f"({', '.join(MANIFESTS)}), arrays ({', '.join(ARRAYS)}), an archive (.zip, .tar), or one image"
        )
    return FileSource(path, **of)


def list_images(source: Source) -> Listing:
    """List all records of a source, and refuse an empty one.

    Raises
    ------
    SourceError
        If the source holds no images.
    """
    try:
        records = Listing(source)
    except OSError as error:
        raise SourceError(f"{source.location} cannot be listed: {error.strerror or error}") from error
    if not records:
        raise SourceError(
            f"{_shown(source.location)} holds no images; expected one folder of images per class, "
            "or train and test above them"
        )
    return records


def _shown(path: str | os.PathLike[str]) -> str:
    return escape_name(os.fspath(path))
