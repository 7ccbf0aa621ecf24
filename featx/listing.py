"""What a source lists, in little memory: a million images take about a hundred megabytes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from featx.records import ImageRecord

__all__ = ["Listing"]


class _Texts:
    """A column of texts of which many are alike; a text or None each."""

    def __init__(self) -> None:
        self._codes = array("I")
        self._code_of: dict[str | None, int] = {}
        self._texts: list[str | None] = []

    def append(self, text: str | None) -> None:
        code = self._code_of.get(text)
        if code is None:
            code = self._code_of[text] = len(self._texts)
            self._texts.append(text)
        self._codes.append(code)

    def seal(self) -> None:
        """Give up what only finds texts that came before: of texts that all differ it is the larger part."""
        self._code_of.clear()

    def __getitem__(self, index: int) -> str | None:
        return self._texts[self._codes[index]]


class Listing(Sequence[ImageRecord]):
    """Records in the order of their source; each is made when it is asked for.

    A record by itself takes 300 bytes and more; here it is its name and 36 bytes, and what a text of a
    column takes that no other record has.

    Parameters
    ----------
    records : iterable of ImageRecord

    Examples
    --------
    >>> listing = Listing(ImageRecord(f"ants/{number}.jpg", "ants") for number in range(1000))
    >>> len(listing), listing[-1].name, listing[-1].label
    (1000, 'ants/999.jpg', 'ants')
    >>> len(listing.where(lambda name: name.endswith("9.jpg")))
    100
    """

    def __init__(self, records: Iterable[ImageRecord] = ()) -> None:
        self._names = bytearray()
        self._ends = array("Q")
        self._sizes, self._mtimes = array("q"), array("q")
        self._labels, self._splits, self._groups = _Texts(), _Texts(), _Texts()
        self._columns: dict[str, _Texts] = {}
        for record in records:
            self._append(record)
        for column in (self._labels, self._splits, self._groups, *self._columns.values()):
            column.seal()

    def _append(self, record: ImageRecord) -> None:
        # Any text at all: what is no file name is refused by whoever needs one.
        self._names += record.name.encode("utf-8", "surrogatepass")
        self._labels.append(record.label)
        self._splits.append(record.split)
        self._groups.append(record.group)
        for name in record.columns:
            if name not in self._columns:
                column = self._columns[name] = _Texts()
                for _ in range(len(self)):
                    column.append(None)
        for name, column in self._columns.items():
            column.append(record.columns.get(name))
        self._sizes.append(record.size)
        self._mtimes.append(record.mtime_ns)
        self._ends.append(len(self._names))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice) -> Listing: ...

    def __getitem__(self, index: int | slice) -> ImageRecord | Listing:
        if isinstance(index, slice):
            return Listing(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]
        columns = {name: column[place] for name, column in self._columns.items()}
        return ImageRecord(
            self.name(place),
            self._labels[place],
            self._splits[place],
            self._groups[place],
            self._sizes[place],
            self._mtimes[place],
            {name: text for name, text in columns.items() if text is not None},
        )

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self[place] for place in range(len(self)))

    def name(self, place: int) -> str:
        """Give the name at a place counted from 0."""
        start = self._ends[place - 1] if place else 0
        return self._names[start : self._ends[place]].decode("utf-8", "surrogatepass")

    def where(self, holds: Callable[[str], bool]) -> Listing:
        """Give the records whose name is one for which ``holds`` is true."""
        return Listing(self[place] for place in range(len(self)) if holds(self.name(place)))
