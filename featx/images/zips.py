"""Images in a zip archive."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress

from featx.errors import ImageError, SourceError
from featx.images.layout import is_listed
from featx.images.members import (
    ArchiveSource,
    Member,
    judge_name,
    one_line,
)
from featx.images.reading import MAX_IMAGE_BYTES, too_large

__all__ = ["ZipSource"]

_UTF8, _ENCRYPTED = 0x800, 0x1 | 0x40 | 0x2000
_DOS = (0, 10, 14)
"""Systems whose programs write ``\\`` between folders: FAT, NTFS, VFAT."""
_SPECIAL = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
_LOCAL_HEADER = 30
"""Bytes before the name of a member, at least; APPNOTE.TXT of PKWARE, 4.3.7."""
_STEP = 64
"""Compressed bytes that zipfile decompresses at once where it sets no bound to what comes out: in bzip2, 45
bytes can be 45 million."""
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    struct.error,
    ValueError,
    LookupError,
    ArithmeticError,
    MemoryError,
)


class ZipSource(ArchiveSource):
    """Images of a ``.zip`` archive.

    Class, split or flat folders, as in a folder; where everything lies in one folder of folders, the
    layout begins below it. Each of these is listed and refused when it is read: names that lead out of
    the archive, links, devices, pipes, encrypted members, members whose bytes overlap others (zip bombs),
    members of more than :data:`MAX_IMAGE_BYTES`, compressions that this Python does not have, and bytes
    that are not those of the directory (number and CRC). Names without the UTF-8 flag are UTF-8 if they
    can be (macOS), else of code page 437, which any bytes survive.

    While the directory is read, :mod:`zipfile` takes about 500 bytes a member, and 800 are needed in all;
    after that, the name and about 80 bytes are kept.

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
        If it cannot be read, is no zip or a part of one, or has more than :data:`MAX_MEMBERS` members.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/photos.zip"
    >>> with zipfile.ZipFile(path, "w") as file:
    ...     file.writestr("photos/ants/1.jpg", b"one")
    ...     file.writestr("photos/bees/1.jpg", b"two")
    >>> source = ZipSource(path)
    >>> source.kind, [(record.label, source.read(record)) for record in source]
    ('class folders, in a zip archive', [('ants', b'one'), ('bees', b'two')])
    """

    def __init__(
        self, path: str | os.PathLike[str], *, location: str | None = None, mtime_ns: int | None = None
    ) -> None:
        super().__init__(path, location, mtime_ns)
        try:
            # A file of ours: zipfile closes it never, and reads it under a lock of its own.
            self._zip = zipfile.ZipFile(self._file)
            is_part = self._is_part()
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self._shown} calls a name UTF-8 that is not; pack the images again, with another program"
            ) from error
        except (*_DAMAGED, NotImplementedError) as error:
            raise SourceError(
                f"{self._shown} is no whole zip archive ({one_line(error)}); copy or download it again"
            ) from error
        except OSError as error:
            raise SourceError(f"{self._shown} cannot be read: {error.strerror or error}") from error
        infos = self._zip.infolist()
        if is_part:
            raise SourceError(
                f"{self._shown} is one part of a split zip; join the parts first: "
                "zip -s 0 parts.zip --out whole.zip"
            )
        self._stored_names: dict[str, str] = {}
        self._list("zip", 5, self._members(infos))
        # A member is found by its numbers; what zipfile keeps is ten times as large.
        infos.clear()
        self._zip.NameToInfo.clear()

    def _is_part(self) -> bool:
        """Whether members, or the end of the directory, say that there are other disks."""
        if any(0 < info.volume < 0xFFFF for info in self._zip.infolist()):
            return True
        end_record = 22 + len(self._zip.comment)
        self._file.seek(-end_record, os.SEEK_END)
        mark, disk = struct.unpack("<4sH", self._file.read(6))
        return mark == b"PK\5\6" and disk not in (0, 0xFFFF)

    def _members(self, infos: Sequence[zipfile.ZipInfo]) -> Iterator[Member]:
        overlapping = _overlapping(infos, self._zip.start_dir)
        for place, info in enumerate(infos):
            stored = _decoded(info)
            name, reason = judge_name(stored)
            if stored.endswith("/") or (not reason and not is_listed(name)):
                continue
            reason = reason or _refusal(info, place in overlapping)
            if name != info.orig_filename:
                self._stored_names[name] = info.orig_filename
            numbers = (info.header_offset, info.compress_size, info.CRC, info.flag_bits, info.compress_type)
            yield Member(name, info.file_size, reason, numbers)

    def _read(self, name: str, size: int, numbers: tuple[int, ...]) -> bytes:
        info = zipfile.ZipInfo(self._stored_names.get(name, name))
        info.header_offset, info.compress_size, info.CRC, info.flag_bits, info.compress_type = numbers
        # One byte more than it says, to hear of those that should not be there.
        left = info.file_size = size + 1
        is_bounded = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        blocks = []
        try:
            with self._zip.open(info) as file:
                if not is_bounded and isinstance(file, zipfile.ZipExtFile):
                    file.MIN_READ_SIZE = _STEP
                while left > 0 and (block := file.read(left if is_bounded else min(left, _STEP))):
                    blocks.append(block)
                    left -= len(block)
        except NotImplementedError as error:
            raise ImageError(
                "compressed in a way that this Python cannot read "
                f"(method {info.compress_type}: {one_line(error)})"
            ) from error
        except (*_DAMAGED, RuntimeError) as error:
            raise ImageError(f"damaged in the archive ({one_line(error)})") from error
        except OSError as error:
            if error.errno is not None:  # the disk's
                raise
            raise ImageError(f"damaged in the archive ({one_line(error)})") from error
        if left != 1:
            more = "more" if left < 1 else "fewer"
            raise ImageError(f"damaged in the archive: it has {more} bytes than the {size:,} that it says")
        return b"".join(blocks)


def _decoded(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if not info.flag_bits & _UTF8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if info.create_system in _DOS else name


def _refusal(info: zipfile.ZipInfo, overlaps: bool) -> str:
    """Say why a member is not read; empty if it is."""
    special = _SPECIAL.get(stat.S_IFMT(info.external_attr >> 16))
    if special:
        return f"{special}: of an archive only files are read"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted: pack the archive again without a password"
    if info.file_size > MAX_IMAGE_BYTES:
        return too_large(info.file_size)
    if overlaps:
        return "its bytes are those of other members too: a zip bomb, or a damaged archive"
    return ""


def _overlapping(infos: Sequence[zipfile.ZipInfo], directory: int) -> set[int]:
    """Find the members that reach into the next one, or into the directory at the end.

    Source: D. Fifield, "A better zip bomb", WOOT 2019.
    """
    found = set()
    following = directory
    for place in sorted(range(len(infos)), key=lambda place: infos[place].header_offset, reverse=True):
        info = infos[place]
        # At least: of the name its characters are counted, and of the extra field nothing.
        end = info.header_offset + _LOCAL_HEADER + len(info.orig_filename) + info.compress_size
        if info.header_offset < 0 or end > following:
            found.add(place)
        following = info.header_offset
    return found
