"""Images behind a URL, by any protocol that fsspec has: ``s3``, ``gs``, ``https``, ``memory`` and more.

How to name another server, or say who you are, stands in :mod:`featx.images.urls`.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from featx.errors import ImageError, SourceError
from featx.images.layout import Layout, is_listed
from featx.images.reading import MAX_IMAGE_BYTES, read_file, too_large
from featx.images.urls import file_system, is_web, protocol_of, public_url, shown_url, told
from featx.listing import Listing
from featx.records import ImageRecord

if TYPE_CHECKING:
    from featx.images.sources import Source

__all__ = ["RemoteSource", "open_url", "read_url"]

# fmt: off
_CHANGED = (
    "LastModified", "last_modified", "Last-Modified", "mtime", "modified", "updated", "modify", "created",
    "ETag", "etag", "checksum", "md5", "md5Hash", "content_md5", "Content-MD5", "sha",
)
# fmt: on
"""What file systems call the time of a change, or else a number that changes with the bytes."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 2**63 - 1
_BLOCK = 2**20
_WEB_DEPTH = 10
"""Folders below each other that are followed over HTTP, where links may lead in circles."""


class RemoteSource:
    """Images in a folder behind a URL: class folders, split folders, or a flat folder.

    All is as in a folder on a disk. Over HTTP a folder is the page that a server makes of it, as far as
    its links tell. Sizes and times are those of the listing; a file of which neither a time nor a
    checksum is told has no size either, so that it is read again rather than believed unchanged.

    Parameters
    ----------
    url : str

    Raises
    ------
    SourceError
        If the folder cannot be listed.

    Examples
    --------
    >>> import fsspec
    >>> files = {"/photos/ants/1.jpg": b"one", "/photos/bees/1.jpg": b"two"}
    >>> fsspec.filesystem("memory").pipe(files)
    >>> source = RemoteSource("memory://photos")
    >>> source.kind, [(record.label, source.read(record)) for record in source]
    ('class folders, over memory', [('ants', b'one'), ('bees', b'two')])
    """

    def __init__(self, url: str) -> None:
        self.location = public_url(url).rstrip("/")
        self._url = url
        fs, path = file_system(url)
        self._root = urlsplit(path)._replace(query="", fragment="").geturl() if is_web(url) else path
        self._root = self._root.rstrip("/")
        with told(SourceError, shown_url(url)):
            # What another call of this process has listed is no news.
            fs.invalidate_cache()
            found = fs.find(path, detail=True, maxdepth=_WEB_DEPTH if is_web(url) else None)
        files = dict(self._files(found))
        names = sorted(files, key=os.fsencode)
        folders = {name.partition("/")[0] for name in names if "/" in name}
        layout = Layout.of(sorted(folders, key=os.fsencode), self.location)
        self.kind: str = f"{layout.kind}, over {protocol_of(url)}"
        self._records = Listing(ImageRecord(name, *layout.place(name), None, *files[name]) for name in names)

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(self._records)

    def read(self, record: ImageRecord) -> bytes:
        """Read the encoded bytes of one image; may be called from several threads.

        Raises
        ------
        ImageError
            If it cannot be read, with the reason.
        """
        name = quote(record.name, errors="surrogateescape") if is_web(self._url) else record.name
        # Asked for each time: some file systems are another for each thread.
        fs, _ = file_system(self._url)
        return _read(fs, f"{self._root}/{name}", is_web(self._url), MAX_IMAGE_BYTES, record.size)

    def _files(self, found: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, tuple[int, int]]]:
        """Give name, size and time of change of what may be an image."""
        for path, info in found.items():
            name = path.removeprefix(f"{self._root}/")
            if is_web(self._url):
                if name == path or "?" in name or "#" in name:  # elsewhere, or the page sorted differently
                    continue
                name = unquote(name, errors="surrogateescape")
            if info.get("type") == "directory" or name.endswith("/") or not is_listed(name):
                continue
            changed, size = _changed_ns(info), info.get("size")
            yield name, (-1 if size is None or changed < 0 else int(size), changed)


def open_url(url: str) -> Source:
    """Open what lies behind a URL: a folder, or one file, of which a copy is made.

    The copy lies in the temporary folder (``TMPDIR``) as long as the source is used. A ``file://`` URL is
    the path in it.

    Parameters
    ----------
    url : str
        ``PROTOCOL://…``, of a protocol that fsspec has.

    Raises
    ------
    SourceError
        If the protocol is unknown or needs a package that is not installed, if it is a chain of URLs, or
        if there is nothing, or nothing that can be read.

    Examples
    --------
    >>> import fsspec
    >>> fsspec.filesystem("memory").pipe("/alone/1.jpg", b"one")
    >>> source = open_url("memory://alone/1.jpg")
    >>> source.kind, source.location, [source.read(record) for record in source]
    ('one image', 'memory://alone/1.jpg', [b'one'])
    """
    # Late, because that module loads this one.
    from featx.images.sources import open_source

    fs, path = file_system(url)
    if protocol_of(url) in ("file", "local"):
        return open_source(path)
    with told(SourceError, shown_url(url)):
        fs.invalidate_cache()
        info = fs.info(path)
    is_page = is_web(url) and (urlsplit(path).path.endswith("/") or info.get("mimetype") == "text/html")
    if is_page or info["type"] == "directory":
        return RemoteSource(url)
    return _open_copy(fs, path, url, info)


def read_url(url: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """Read one file behind a URL; may be called from several threads.

    Parameters
    ----------
    url : str
    limit : int
        Bytes that it may have at most.

    Raises
    ------
    ImageError
        If it cannot be read or is larger, with the reason in one line.

    Examples
    --------
    >>> import fsspec
    >>> fsspec.filesystem("memory").pipe("/alone/1.jpg", b"one")
    >>> read_url("memory://alone/1.jpg")
    b'one'
    """
    try:
        fs, path = file_system(url)
    except SourceError as error:
        raise ImageError(str(error)) from error
    if protocol_of(url) in ("file", "local"):
        return read_file(path)
    return _read(fs, path, is_web(url), limit)


def _open_copy(fs: Any, path: str, url: str, info: Mapping[str, Any]) -> Source:
    from featx.images.sources import open_file

    folder = tempfile.mkdtemp(prefix="featx-")
    try:
        copy = Path(folder, _file_name(path))
        size, room = info.get("size") or 0, shutil.disk_usage(folder).free
        if size > room:
            raise SourceError(
                f"a copy of {shown_url(url)} takes {size:,} bytes, and {tempfile.gettempdir()} has {room:,}; "
                "set TMPDIR to a folder on a larger disk, or download it yourself"
            )
        with told(SourceError, shown_url(url)):
            fs.get_file(path, str(copy))
        mtime_ns = _changed_ns(info)
        if mtime_ns < 0:
            with copy.open("rb") as file:
                mtime_ns = _number(hashlib.file_digest(file, "sha256").digest())
        source = open_file(copy, location=public_url(url), mtime_ns=mtime_ns)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(source, _remove, folder, os.getpid())
    return source


def _read(fs: Any, path: str, web: bool, limit: int, size: int = -1) -> bytes:
    with told(ImageError):
        if web:
            data = _read_stream(fs, path, limit)
        else:
            if size < 0:
                info = fs.info(path)
                if info.get("type", "file") != "file":
                    raise ImageError("is no file")
                size = -1 if info.get("size") is None else int(info["size"])
            if size > limit:
                raise ImageError(too_large(size, limit))
            data = bytes(fs.cat_file(path))
    if len(data) > limit:
        raise ImageError(f"more than {limit:,} bytes, which is what an image may have at most")
    return data


def _read_stream(fs: Any, path: str, limit: int) -> bytes:
    """Read as it comes, whatever the server says of its size, and no more than a byte above the limit."""
    blocks, left = [], limit + 1
    # A size that is given is not asked for, and blocks of no size are one request for all.
    with fs.open(path, "rb", block_size=0, size=1) as stream:
        while left > 0 and (block := stream.read(min(left, _BLOCK))):
            blocks.append(block)
            left -= len(block)
    return b"".join(blocks)


def _changed_ns(info: Mapping[str, Any]) -> int:
    """Give the time of change in nanoseconds, or a number that changes when the file does; -1 for neither."""
    for key in _CHANGED:
        value = info.get(key)
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=UTC)
            return (aware - _EPOCH) // timedelta(microseconds=1) * 1000 & _LARGEST
        if isinstance(value, int | float) and math.isfinite(value):
            return int(value * 10**9) & _LARGEST
        if value and isinstance(value, str | bytes):
            text = value if isinstance(value, bytes) else value.encode()
            return _number(hashlib.sha256(text).digest())
    return -1


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big") & _LARGEST


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # after a fork the copy is the parent's
        shutil.rmtree(folder, ignore_errors=True)


def _file_name(path: str) -> str:
    """Name a copy; its ending decides how it is opened."""
    name = PurePosixPath(urlsplit(path).path if is_web(path) else path).name
    return re.sub(r"[^\w.-]", "_", unquote(name))[-100:].lstrip(".") or "download"
