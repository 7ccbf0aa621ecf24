"""Images in a tar archive, compressed or not."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from typing import IO, Any

from featx.errors import ImageError, SourceError
from featx.images.layout import is_listed
from featx.images.members import (
    ArchiveSource,
    Member,
    judge_name,
    one_line,
)
from featx.images.reading import MAX_IMAGE_BYTES, SharedFile, too_large

__all__ = ["TarSource"]

MAX_HEADER_BYTES = 2**16
"""Bytes that the extended header of one member may have; 150 is usual."""

_SPARE_ROOM = 256 * 2**20
"""Bytes that a decompressed tar leaves free on the temporary disk; a tenth where there is little."""
_BLOCK = 2**20
_TYPES = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_DAMAGED = (
    tarfile.TarError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TarSource(ArchiveSource):
    """Images of a ``.tar`` archive, also compressed with gzip, bzip2 or xz (told by its first bytes).

    Class, split or flat folders, as in a folder; where everything lies in one folder of folders, the
    layout begins below it. Each of these is listed and refused when it is read: names that lead out of
    the archive, links, devices, pipes, sparse files, members of more than :data:`MAX_IMAGE_BYTES`. Where
    a tar is cut or damaged, what lies before is used, and the member in which it ends, or the place in
    the archive if that has no name, is listed and refused.

    A plain tar is passed through once for its headers, of which the name and about 50 bytes a member are
    kept. A compressed one has no places to go to: it is decompressed once into a temporary file without
    a name (in ``TMPDIR``), which goes when the source does.

    Parameters
    ----------
    path : path
    location : str, optional
        What to call it, if this is a copy of something elsewhere.
    mtime_ns : int, optional
        Time of change of every image; that of the archive if left out: while the archive does not
        change, nothing in it does.

    Raises
    ------
    SourceError
        If it cannot be read or is no tar, if its compressed bytes are not those that were written, if
        the temporary disk has not the room, or if it has more than :data:`MAX_MEMBERS` members.

    Examples
    --------
    >>> import io, tempfile
    >>> path = tempfile.mkdtemp() + "/photos.tar.gz"
    >>> with tarfile.open(path, "w:gz") as file:
    ...     for name in ("photos/ants/1.jpg", "photos/bees/1.jpg"):
    ...         member = tarfile.TarInfo(name)
    ...         member.size = 3
    ...         file.addfile(member, io.BytesIO(b"one"))
    >>> source = TarSource(path)
    >>> source.kind, [(record.label, source.read(record)) for record in source]
    ('class folders, in a tar archive', [('ants', b'one'), ('bees', b'one')])
    """

    def __init__(
        self, path: str | os.PathLike[str], *, location: str | None = None, mtime_ns: int | None = None
    ) -> None:
        super().__init__(path, location, mtime_ns)
        try:
            if (stream := _decompressor(self._file)) is not None:
                self._file = self._decompressed(stream)
            self._shared = SharedFile(self._file)
            self._list("tar", 1, self._members())
        except OSError as error:
            raise SourceError(f"{self._shown} cannot be read: {error.strerror or error}") from error

    def _members(self) -> Iterator[Member]:
        end = os.fstat(self._file.fileno()).st_size
        headers: Any = _Headers(self._file)
        tar: Any  # what it has seen, members, is not among what it declares
        try:
            tar = tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape")
        except _DAMAGED as error:
            raise SourceError(
                f"{self._shown} is no tar archive ({one_line(error)}); expected a .tar, plain or compressed "
                "with gzip, bzip2 or xz: copy or download it again"
            ) from error
        while True:
            try:
                info = tar.next()
            except _DAMAGED as error:
                yield self._break(tar.offset, one_line(error))
                return
            tar.members.clear()
            if info is None:
                break
            if info.size < 0 or tar.offset <= info.offset:  # Python 3.11.13 and older would go in circles
                yield self._break(info.offset, "a negative size")
                return
            name, reason = judge_name(info.name)
            if info.isdir() or (not reason and not is_listed(name)):
                name = ""
            reason = reason or _refusal(info)
            if info.isreg() and not info.issparse() and info.offset_data + info.size > end:
                cut = "the archive ends in the middle of it: copy or download the archive again"
                yield Member(name, info.size, cut, ()) if name else self._break(info.offset, "it ends here")
                return
            if name:
                yield Member(name, info.size, reason, (info.offset_data,))
        block = self._shared.read_at(tar.offset, tarfile.BLOCKSIZE)
        if block != bytes(tarfile.BLOCKSIZE):
            # tarfile takes whatever is no header for the end; the end is a block of zeros.
            yield self._break(tar.offset, "a bad header" if block else "the mark of its end is missing")

    def _break(self, offset: int, what: str) -> Member:
        """Stand for what a cut or damaged archive has lost."""
        reason = (
            f"the archive is cut or damaged at byte {offset:,} ({what}), and what follows cannot be found: "
            "copy or download it again"
        )
        return Member(f"({self.path.name}, byte {offset})", 0, reason, ())

    def _read(self, name: str, size: int, numbers: tuple[int, ...]) -> bytes:  # noqa: ARG002 - has no need of it
        data = self._shared.read_at(numbers[0], size)
        if len(data) != size:
            raise ImageError("the archive has become shorter since it was listed")
        return data

    def _decompressed(self, stream: gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile) -> IO[bytes]:
        """Copy all of it into a temporary file; where the archive is cut, the copy ends too."""
        folder = tempfile.gettempdir()
        no_room = (
            f"{self._shown} has to be decompressed, for which {folder} has not the room; set TMPDIR to a "
            "folder on a larger disk, or decompress it yourself and give the .tar"
        )
        free = shutil.disk_usage(folder).free
        room = free - min(_SPARE_ROOM, free // 10)
        plain = tempfile.TemporaryFile(prefix="featx-")  # noqa: SIM115 - as long as the source
        weakref.finalize(self, plain.close)
        try:
            while block := stream.read1(_BLOCK):
                room -= len(block)
                if room < 0:
                    raise SourceError(no_room)
                plain.write(block)
        except EOFError:  # cut: the end of the tar is missing then, which the listing tells
            pass
        except (OSError, zlib.error, lzma.LZMAError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                if error.errno in _NO_ROOM:
                    raise SourceError(no_room) from error
                raise
            raise SourceError(
                f"the compressed bytes of {self._shown} are damaged ({one_line(error)}), and which of its "
                "images are cannot be told; copy or download it again"
            ) from error
        finally:
            stream.close()
        plain.flush()
        plain.seek(0)
        return plain


class _Headers:
    """A file of which nobody reads much at once: headers lie about their length too."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes, more than {MAX_HEADER_BYTES:,}")
        return self._file.read(size)


def _decompressor(file: IO[bytes]) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile | None:
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    return None


def _refusal(info: tarfile.TarInfo) -> str:
    """Say why a member is not read; empty if it is."""
    if not info.isreg():
        what = _TYPES.get(info.type, f"an entry of type {info.type!r}")
        return f"{what}: of an archive only files are read"
    if info.issparse():
        return "a sparse file, which is not read: pack the archive again without --sparse"
    if info.size > MAX_IMAGE_BYTES:
        return too_large(info.size)
    return ""
