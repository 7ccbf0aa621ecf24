"""Images that a table lists: a CSV, TSV or Parquet file with a column of paths."""

# ruff: noqa: PTH110, PTH116, PTH118 - an object of pathlib for each of a million rows takes long

from __future__ import annotations

import os
import posixpath
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from featx.errors import SourceError
from featx.images.layout import SPLIT_FOLDERS
from featx.images.reading import read_file
from featx.images.tables import Table, open_table
from featx.records import ImageRecord, escape_name

__all__ = ["PATH_COLUMNS", "ManifestSource"]

PATH_COLUMNS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img",
)  # fmt: skip
"""Names of the column of paths, in any case: the first of them, or else the only one that is there."""

_FIELDS = ("label", "split", "group")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where in a row of a table each thing stands; -1 for what is not there."""

    path: int
    label: int
    split: int
    group: int
    others: Mapping[str, int]

    @classmethod
    def of(cls, table: Table, where: str) -> _Columns:
        lowered = [name.lower() for name in table.header]
        path = _find_path(table, where)
        for name in (lowered[path], *_FIELDS):
            if lowered.count(name) > 1:
                raise SourceError(f"{where} has two columns named {name}; rename one")
        others = {}
        for place, name in enumerate(table.header):
            if not name or place == path or lowered[place] in _FIELDS:
                continue
            if name in others:
                raise SourceError(f"{where} has two columns named {escape_name(name)}; rename one")
            others[name] = place
        for name, kind in table.left_out.items():
            if name.strip().lower() in _FIELDS:
                raise SourceError(
                    f"{where} has a column {escape_name(name)} of the type {kind}; expected text or numbers: "
                    "save it as that, or rename it"
                )
        found = {name: lowered.index(name) if name in lowered else -1 for name in (*_FIELDS, "class")}
        label = found["label"] if found["label"] >= 0 else found["class"]
        # HDF5 has names in UTF-8 only.
        shown = {_as_unicode(name): place for name, place in others.items()}
        return cls(path, label, found["split"], found["group"], shown)


class ManifestSource:
    r"""Images that the rows of a table name.

    The column ``path`` (or the only one of :data:`PATH_COLUMNS`) holds paths, absolute or relative to
    the folder of the table, or URLs; it gives the images their names. ``label``, or else ``class``,
    ``split`` and ``group`` are what they say. Every other column is kept as text, ``class`` among them.
    Case and space around names do not matter, nor does space around values. Columns without a name, and
    columns of a Parquet file that are nested or binary, are left out. Paths of Windows are understood:
    what is not there with ``\`` may be there with ``/``.

    Parameters
    ----------
    path : path
        ``.csv`` or ``.tsv`` (UTF-8; stray bytes survive), or ``.parquet``.
    location : str, optional
        What to call it, if this is a copy of something elsewhere; if that is a URL, relative paths lie
        beside it.
    mtime_ns : int, optional
        A number that changes when that does; the images have times of change of their own.

    Raises
    ------
    SourceError
        If it is no table, or no column holds the paths.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "photos.csv")
    >>> _ = path.write_text("Path,Label,split,site\na.jpg,ants,valid,north\nb.jpg,,,\n")
    >>> for record in ManifestSource(path):
    ...     print(record.name, record.label, record.split, record.size, dict(record.columns))
    a.jpg ants val -1 {'site': 'north'}
    b.jpg None None -1 {}
    """

    kind = "manifest"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        location: str | None = None,
        mtime_ns: int | None = None,  # noqa: ARG002 - the images have times of their own
    ) -> None:
        self.path = Path(path)
        self._folder = os.fspath(self.path.parent)
        self.location = location or str(self.path.resolve())
        self._where = escape_name(location or os.fspath(path))
        self._beside = location if location and "://" in location else None
        self._table = open_table(self.path, self._where, _has_path)
        self._columns = _Columns.of(self._table, self._where)

    def __iter__(self) -> Iterator[ImageRecord]:
        hashes = array("q")
        for row, cells in self._table.rows():
            record = self._record(row, cells)
            hashes.append(hash(record.name))
            yield record
        if not hashes:
            raise SourceError(f"{self._where} has no rows; expected a header and one row per image")
        self._refuse_twice(hashes)

    def read(self, record: ImageRecord) -> bytes:
        """Read the encoded bytes of one image.

        Raises
        ------
        OSError
            If there is no such file.
        ImageError
            If it is a folder, a device or a pipe.
        """
        if self._is_local(record.name):
            return read_file(self._find(record.name))
        from featx.images.remote import read_url

        return read_url(self._url(record.name))

    def _record(self, row: int, cells: Sequence[str]) -> ImageRecord:
        columns = self._columns
        name = cells[columns.path].strip()
        if not name:
            raise SourceError(f"{self._where} has no path in row {row}; fill it in, or remove the row")
        if any("\0" in cell for cell in cells):
            raise SourceError(
                f"{self._where} has a NUL character in row {row}; remove it, or save the table as UTF-8"
            )
        label, split, group = (
            cells[place].strip() if place >= 0 else ""
            for place in (columns.label, columns.split, columns.group)
        )
        if split and split.lower() not in SPLIT_FOLDERS:
            raise SourceError(
                f"{self._where} has the split {escape_name(split)} in row {row}; expected train, val or "
                "test, or nothing"
            )
        others = {column: cells[place].strip() for column, place in columns.others.items()}
        return ImageRecord(
            name,
            label or None,
            SPLIT_FOLDERS[split.lower()] if split else None,
            group or None,
            *self._size_and_time(name),
            {column: text for column, text in others.items() if text},
        )

    def _size_and_time(self, name: str) -> tuple[int, int]:
        if self._is_local(name):
            try:
                status = os.stat(self._find(name))
            except OSError:  # reading it gives the reason
                return -1, -1
            if stat.S_ISREG(status.st_mode):
                return status.st_size, status.st_mtime_ns
        return -1, -1

    def _is_local(self, name: str) -> bool:
        return "://" not in name and (self._beside is None or Path(name).is_absolute())

    def _find(self, name: str) -> str:
        path = os.path.join(self._folder, name)
        if "\\" in name and not os.path.exists(path):
            slashed = os.path.join(self._folder, name.replace("\\", "/"))
            return slashed if os.path.exists(slashed) else path
        return path

    def _url(self, name: str) -> str:
        return name if "://" in name or self._beside is None else _join(self._beside, name)

    def _refuse_twice(self, hashes: array[int]) -> None:
        """Refuse a path that stands twice; a hash of each is enough to see that none does."""
        ordered = np.sort(np.frombuffer(hashes, np.int64))
        alike = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        rows: dict[str, int] = {}
        for row, cells in self._table.rows() if alike else ():
            name = cells[self._columns.path].strip()
            if hash(name) in alike and rows.setdefault(name, row) != row:
                raise SourceError(
                    f"{self._where} names {escape_name(name)} in row {rows[name]} and in row {row}; keep "
                    "one row per image"
                )


def _join(url: str, name: str) -> str:
    """Give the URL of a path relative to the folder of a URL; ``..`` leads out of no host or bucket."""
    scheme, _, rest = url.partition("://")
    is_web = scheme in ("http", "https")
    root, _, inside = (rest.partition("?")[0].partition("#")[0] if is_web else rest).partition("/")
    slashed = name.replace("\\", "/")
    beside = quote(slashed, errors="surrogateescape") if is_web else slashed
    joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(inside), beside))
    return f"{scheme}://{root if inside else ''}{joined}"


def _has_path(header: Sequence[str]) -> bool:
    return any(name.lower() in PATH_COLUMNS for name in header)


def _find_path(table: Table, where: str) -> int:
    lowered = [name.lower() for name in table.header]
    if PATH_COLUMNS[0] in lowered:
        return lowered.index(PATH_COLUMNS[0])
    found = [place for place, name in enumerate(lowered) if name in PATH_COLUMNS]
    if len(found) == 1:
        return found[0]
    if found:
        names = _listed(table.header[place] for place in found)
        raise SourceError(f"{where} may have its paths in one of {names}; rename the right one to path")
    columns = [*table.header, *(f"{name} ({kind})" for name, kind in table.left_out.items())]
    raise SourceError(
        f"{where} has the columns {_listed(columns)}; expected one named path, or {_listed(PATH_COLUMNS[1:])}"
    )


def _listed(names: Iterable[str]) -> str:
    shown = [escape_name(name)[:80] for name in names]
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")


def _as_unicode(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return escape_name(name)
    return name
