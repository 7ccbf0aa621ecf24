"""What zip and tar archives have in common: names, what is refused, and how a member is found again."""

from __future__ import annotations

import os
import re
import weakref
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple

from featx.errors import ImageError, SourceError
from featx.images.layout import SPLIT_FOLDERS, Layout
from featx.images.reading import changed_ns
from featx.listing import Listing
from featx.records import ImageRecord, escape_name

__all__ = [
    "MAX_MEMBERS",
    "ArchiveSource",
    "Member",
    "judge_name",
    "nested_layout",
    "one_line",
]

MAX_MEMBERS = 10_000_000
"""Members that an archive may have."""

_LARGEST = 2**63 - 1
_DRIVE = re.compile(r"[A-Za-z]:")


class Member(NamedTuple):
    """What an archive says of one of its files.

    Parameters
    ----------
    name : str
        Of :func:`judge_name`.
    size : int
        In bytes, as declared.
    reason : str
        Why it is not read; empty if it is.
    numbers : tuple of int
        What it takes to read it, none negative.
    """

    name: str
    size: int
    reason: str
    numbers: tuple[int, ...]


class ArchiveSource(ABC):
    """Images of an archive that is read where it lies: nothing of it is ever extracted.

    What is refused is listed, and reading it gives the reason. Of a name that stands twice the later
    member counts, as where an archive is unpacked.

    Parameters
    ----------
    path : path
    location : str or None
        What to call it, if this is a copy of something elsewhere.
    mtime_ns : int or None
        The time of change of every image; that of the archive if None.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """

    kind: str

    def __init__(self, path: str | os.PathLike[str], location: str | None, mtime_ns: int | None) -> None:
        self.path = Path(path)
        self.location = location or str(self.path.resolve())
        try:
            self._file: IO[bytes] = self.path.open("rb")
        except OSError as error:
            raise SourceError(f"{self._shown} cannot be read: {error.strerror or error}") from error
        weakref.finalize(self, self._file.close)
        self._mtime_ns = changed_ns(os.fstat(self._file.fileno())) if mtime_ns is None else mtime_ns

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(self._records)

    def read(self, record: ImageRecord) -> bytes:
        """Read the encoded bytes of one image; may be called from several threads.

        Raises
        ------
        ImageError
            If it is refused or damaged, with the reason.
        """
        name = os.fsencode(record.name)
        places = range(len(self._records))
        place = bisect_left(places, name, key=lambda place: os.fsencode(self._records.name(place)))
        if place == len(places) or self._records.name(place) != record.name:
            raise ImageError("it is not in the archive")
        if place in self._reasons:
            raise ImageError(self._reasons[place])
        numbers = self._numbers[place * self._width : (place + 1) * self._width]
        return self._read(record.name, self._records[place].size, tuple(numbers))

    @abstractmethod
    def _read(self, name: str, size: int, numbers: tuple[int, ...]) -> bytes:
        """Read a member that is not refused, from what is known of it."""

    @property
    def _shown(self) -> str:
        return escape_name(self.location)

    def _list(self, archive: str, width: int, members: Iterable[Member]) -> None:
        """Keep what the members say in little memory: their names, and 44 bytes and more each."""
        names: list[str] = []
        sizes, numbers, reasons = array("q"), array("Q"), dict[int, str]()
        for member in members:
            if len(names) == MAX_MEMBERS:
                raise SourceError(
                    f"{self._shown} has more than {MAX_MEMBERS:,} members; split it into several archives"
                )
            if member.reason:
                reasons[len(names)] = member.reason
            names.append(member.name)
            sizes.append(min(max(member.size, 0), _LARGEST))
            numbers.extend(member.numbers if not member.reason else [0] * width)
        order = _in_byte_order(names)
        usable = [names[place] for place in order if place not in reasons]
        layout = nested_layout(usable, self.location)
        self.kind = f"{layout.kind}, in a {archive} archive"
        self._records = Listing(self._records_of(names, sizes, order, reasons, layout))
        self._width = width
        self._numbers = array("Q")
        for place in order:
            self._numbers.extend(numbers[place * width : (place + 1) * width])
        self._reasons = {new: reasons[place] for new, place in enumerate(order) if place in reasons}

    def _records_of(
        self,
        names: Sequence[str],
        sizes: Sequence[int],
        order: Sequence[int],
        refused: Container[int],
        layout: Layout,
    ) -> Iterator[ImageRecord]:
        for place in order:
            name = names[place]
            # What is refused may lie anywhere, also where a layout has no place.
            label, split = (None, None) if place in refused else layout.place(name)
            yield ImageRecord(name, label, split, size=sizes[place], mtime_ns=self._mtime_ns)


def judge_name(name: str) -> tuple[str, str]:
    r"""Give the name under which a member is listed, and why it is refused if it is.

    Examples
    --------
    >>> judge_name("./ants//1.jpg")
    ('ants/1.jpg', '')
    >>> judge_name("ants/../../1.jpg")[1]
    'its name leads out of the archive'
    """
    slashed = name.replace("\\", "/")
    if slashed.startswith("/") or ".." in slashed.split("/") or _DRIVE.match(slashed):
        return name.replace("\0", "\\0"), "its name leads out of the archive"
    if "\0" in name:
        return name.replace("\0", "\\0"), "its name holds a zero byte"
    plain = "/".join(part for part in name.split("/") if part not in ("", "."))
    return (plain, "") if plain else ("(no name)", "it has no name")


def nested_layout(names: Sequence[str], source: str) -> Layout:
    """Recognise a layout that may lie below folders which hold nothing else, as in the zip of a folder.

    Parameters
    ----------
    names : sequence of str
        Of all images, ``/``-separated.
    source : str
        What an error calls the source.

    Raises
    ------
    SourceError
        As :meth:`featx.images.layout.Layout.of`.

    Examples
    --------
    >>> nested_layout(["photos/ants/1.jpg", "photos/bees/1.jpg"], "photos.zip")
    Layout(kind='class folders', depth=1)
    >>> nested_layout(["ants/1.jpg", "ants/2.jpg"], "ants.zip")
    Layout(kind='class folders', depth=0)
    """
    depth = 0
    while True:
        folders: dict[str, bool] = {}
        holds_files = False
        for name in names:
            parts = name.split("/", depth + 2)
            if len(parts) == depth + 1:
                holds_files = True
            else:
                above = parts[depth]
                folders[above] = folders.get(above, False) or len(parts) == depth + 2
        (only,) = folders if len(folders) == 1 else ("",)
        if holds_files or not only or folders[only] or only.lower() in SPLIT_FOLDERS:
            return Layout.of(sorted(folders, key=os.fsencode), source, depth)
        depth += 1


def one_line(error: BaseException) -> str:
    """Give the text of an error in one line of bounded length, or its name if it has none.

    Examples
    --------
    >>> one_line(EOFError())
    'EOFError'
    """
    text = " ".join(str(error).split())
    return escape_name(text[:300]) or type(error).__name__


def _in_byte_order(names: Sequence[str]) -> list[int]:
    """Give the places of the names in byte order; of equal ones the last."""
    order = sorted(range(len(names)), key=lambda place: os.fsencode(names[place]))
    kept = [place for place, after in pairwise(order) if names[place] != names[after]]
    return kept + order[-1:]
