r"""The 512 bytes before the HDF5 of every featx file: what it is, how long, and its checksum.

HDF5 lets a file begin with a *user block* that the library skips, so every HDF5 tool still opens
the file. Ours is read with plain reads before HDF5 sees a byte (all numbers little-endian)::

    offset  size  type    what
         0     8  bytes   magic, b"featx\r\n\x1a" (a transfer in text mode breaks it)
         8     4  uint32  version of the format
        12     4  uint32  size of the user block, 512
        16     8  uint64  length of the rest of the file in bytes
        24    32  bytes   SHA-256 of the rest of the file
        56   456  bytes   a sentence for people who open the file in an editor, padded with zeros

Source: HDF5 File Format Specification, section II.A, "a superblock may begin at byte 0, 512, 1024".
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from featx.errors import DamagedStoreError, NotAStoreError
from featx.records import FORMAT_VERSION

__all__ = [
    "HDF5_SIGNATURE",
    "MAGIC",
    "PART_REMEDY",
    "REMEDY",
    "SIZE",
    "Header",
    "NewerFormatError",
    "check_bytes",
    "pack_header",
    "read_header",
]

SIZE = 512
"""Bytes of the user block."""

MAGIC = b"featx\r\n\x1a"
"""The first bytes of every featx file."""

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""The first bytes of HDF5, after its user block."""

REMEDY = "extract it again, or fetch the file again"
"""What to do about a damaged store."""

PART_REMEDY = "remove it, or run the extraction with --rehash, and its rows are computed again"
"""What to do about a damaged part, whose store can do without it."""

_LAYOUT = struct.Struct("<8sIIQ32s")
_TEXT = b"\nThis is an HDF5 file with a user block of 512 bytes; any HDF5 tool opens it.\n"
_CHUNK = 1 << 22


class NewerFormatError(DamagedStoreError):
    """The file is of a newer format: nothing is wrong with it, and it must not be put aside."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a user block says: format ``version``, ``length`` and SHA-256 ``digest`` of the rest."""

    version: int
    length: int
    digest: bytes


def pack_header(header: Header) -> bytes:
    """Turn a header into the 512 bytes of a user block.

    Examples
    --------
    >>> block = pack_header(Header(version=1, length=0, digest=bytes(32)))
    >>> len(block), block[:5]
    (512, b'featx')
    """
    packed = _LAYOUT.pack(MAGIC, header.version, SIZE, header.length, header.digest)
    return (packed + _TEXT).ljust(SIZE, b"\0")


def read_header(file: FileIO, path: Path, *, remedy: str = REMEDY) -> Header:
    """Read and check the user block of an open file: magic, version and length, not the checksum.

    Parameters
    ----------
    file : FileIO
        Open for reading.
    path : Path
        Its name, for messages.
    remedy : str
        What messages of damage say is to be done.

    Raises
    ------
    NotAStoreError
        If the file does not begin with our magic.
    NewerFormatError
        If it is of a newer version of the format.
    DamagedStoreError
        If it is shorter or longer than it was, or its user block makes no sense.
    """
    file.seek(0)
    block = file.read(SIZE) or b""
    if block[: len(MAGIC)] != MAGIC:
        what = "an HDF5 file that featx did not write" if block[:8] == HDF5_SIGNATURE else "no featx store"
        raise NotAStoreError(
            f"{path} exists and is {what}; choose another path, or bring embeddings with "
            "`featx import FILE.npz -o STORE`"
        )
    if len(block) < SIZE:
        raise DamagedStoreError(f"{path} is damaged: it ends after {len(block)} bytes; {remedy}")
    _, version, size, length, digest = _LAYOUT.unpack_from(block)
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} is of store format {version}, newer than {FORMAT_VERSION}, the newest that this featx "
            "reads; update featx"
        )
    if version < 1 or size != SIZE:
        raise DamagedStoreError(f"{path} is damaged: its user block is not as written; {remedy}")
    there = os.fstat(file.fileno()).st_size - SIZE
    if there != length:
        kind = "truncated" if there < length else "longer than it was"
        raise DamagedStoreError(
            f"{path} is damaged: {kind}, {there + SIZE} bytes instead of {length + SIZE}; {remedy}"
        )
    return Header(version, length, digest)


def check_bytes(
    file: FileIO, path: Path, on_bytes: Callable[[int], None] | None = None, *, remedy: str = REMEDY
) -> None:
    """Hash the whole file with plain reads and compare it with its user block.

    Parameters
    ----------
    file : FileIO
        Open for reading.
    path : Path
        Its name, for messages.
    on_bytes : callable, optional
        Called with the number of bytes that were read since the last call.
    remedy : str
        What messages of damage say is to be done.

    Raises
    ------
    NotAStoreError, DamagedStoreError
        As :func:`read_header`, and if any byte is not the one that was written.
    """
    header = read_header(file, path, remedy=remedy)
    file.seek(0)
    if file.read(SIZE) != pack_header(header):
        raise DamagedStoreError(f"{path} is damaged: its user block is not as written; {remedy}")
    if on_bytes is not None:
        on_bytes(SIZE)
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    while count := file.readinto(buffer):
        digest.update(memoryview(buffer)[:count])
        if on_bytes is not None:
            on_bytes(count)
    if digest.digest() != header.digest:
        raise DamagedStoreError(
            f"{path} is damaged: the SHA-256 of its bytes is {digest.hexdigest()[:16]}… instead of "
            f"{header.digest.hex()[:16]}…; {remedy}"
        )
