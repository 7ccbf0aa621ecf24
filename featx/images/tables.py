"""Rows of a CSV, TSV or Parquet file as text, a few at a time."""

from __future__ import annotations

import codecs
import csv
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from featx.errors import SourceError
from featx.images.texts import as_texts, is_whole
from featx.records import escape_name

__all__ = ["Table", "open_table"]

_DELIMITERS = (",", ";", "\t")
_LINE_CHARACTERS = 2**20
_BATCH_ROWS = 4096


class Table(Protocol):
    """What every table offers.

    Attributes
    ----------
    header : sequence of str
        Names of the columns, with no space around them.
    left_out : mapping of str to str
        Columns that are no text and no plain values, with their types.
    """

    header: Sequence[str]
    left_out: Mapping[str, str]

    def rows(self) -> Iterator[tuple[int, Sequence[str]]]:
        """Give number and cells of each row; a cell for each column of the header, empty for nothing."""
        ...


def open_table(path: Path, where: str, is_header: Callable[[Sequence[str]], bool]) -> Table:
    r"""Read the header of a table.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.tsv`` or ``.parquet``; whatever else is read as CSV.
    where : str
        What an error calls it.
    is_header : callable
        Whether names of columns are those that are looked for, by which the delimiter of a CSV is
        recognised.

    Raises
    ------
    SourceError
        If it cannot be read, or is no such table; naming the row.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.csv")
    >>> _ = path.write_text('path;note\na.jpg;"one; two"\n')
    >>> table = open_table(path, "a.csv", lambda header: "path" in header)
    >>> table.header, list(table.rows())
    (['path', 'note'], [(2, ['a.jpg', 'one; two'])])
    """
    if path.suffix.lower() == ".parquet":
        return _ParquetTable(path, where)
    return _CsvTable(path, where, is_header)


class _CsvTable:
    """A CSV or TSV; rows are counted as a spreadsheet counts them, the header among them."""

    def __init__(self, path: Path, where: str, is_header: Callable[[Sequence[str]], bool]) -> None:
        self._path, self._where = path, where
        delimiters = _DELIMITERS[2:] if path.suffix.lower() == ".tsv" else _DELIMITERS
        headers = {delimiter: self._read_header(delimiter) for delimiter in delimiters}
        self._delimiter = max(headers, key=lambda found: (is_header(headers[found]), len(headers[found])))
        self.header: Sequence[str] = headers[self._delimiter]
        self.left_out: Mapping[str, str] = {}
        if not self.header:
            raise SourceError(f"{where} has no header; expected a first row of names, path among them")

    def _read_header(self, delimiter: str) -> list[str]:
        with self._opened() as file:
            try:
                return [name.strip() for name in next(filter(None, _reader(file, delimiter)), [])]
            except csv.Error:  # quotes that another delimiter would explain
                return []

    def rows(self) -> Iterator[tuple[int, Sequence[str]]]:
        width = len(self.header)
        with self._opened() as file:
            numbered = enumerate(_reader(file, self._delimiter), 1)
            number, is_first = 0, True
            while True:
                try:
                    number, cells = next(numbered, (0, []))
                except csv.Error as error:
                    raise SourceError(
                        f"{self._where} is no CSV from row {number + 1} on ({error}); look for a "
                        "quote that is not closed, or save the table again"
                    ) from error
                if not number:
                    return
                if is_first or not any(map(str.strip, cells)):
                    is_first = is_first and not cells
                    continue
                if any(map(str.strip, cells[width:])):
                    raise SourceError(
                        f"{self._where} has {len(cells)} cells in row {number}, more than its "
                        f"header's {width}; put quotes around cells that hold {_words(self._delimiter)}"
                    )
                yield number, [*cells[:width], *itertools.repeat("", width - len(cells))]

    @contextmanager
    def _opened(self) -> Iterator[TextIO]:
        try:
            with self._path.open("rb") as raw:
                head = raw.read(2)
            if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise SourceError(f"{self._where} is UTF-16; save it as CSV in UTF-8")
            file = self._path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise SourceError(f"{self._where} cannot be read: {error.strerror or error}") from error
        with file:
            yield file


def _reader(file: TextIO, delimiter: str) -> Iterator[list[str]]:
    # Strict, or else a quote that is not closed swallows the rows below it.
    return csv.reader(_lines(file), delimiter=delimiter, strict=True, skipinitialspace=True)


def _lines(file: TextIO) -> Iterator[str]:
    """Lines of a file that may be no text at all, and one line of many gigabytes."""
    while line := file.readline(_LINE_CHARACTERS):
        if len(line) == _LINE_CHARACTERS and not line.endswith(("\n", "\r")):
            raise csv.Error(f"a line has more than {_LINE_CHARACTERS:,} characters")
        yield line


def _words(delimiter: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs"}[delimiter]


class _ParquetTable:
    """A Parquet file; rows are counted from 1."""

    def __init__(self, path: Path, where: str) -> None:
        self._path, self._where = path, where
        with self._reading() as file:
            schema = file.schema_arrow
            fields = [(name, schema.field(place).type) for place, name in enumerate(schema.names)]
        self._columns = [name for name, kind in fields if _is_plain(kind)]
        self.header: Sequence[str] = [name.strip() for name in self._columns]
        self.left_out: Mapping[str, str] = {name: str(kind) for name, kind in fields if not _is_plain(kind)}
        if len(set(schema.names)) < len(schema.names):
            raise SourceError(
                f"{where} has two columns of one name ({', '.join(map(escape_name, schema.names))}); "
                "rename one"
            )

    def rows(self) -> Iterator[tuple[int, Sequence[str]]]:
        with self._reading() as file:
            whole = self._whole(file)
            row = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=self._columns):
                columns = [
                    _texts(batch.column(batch.schema.get_field_index(name)), name in whole)
                    for name in self._columns
                ]
                for row, cells in enumerate(zip(*columns, strict=True), row + 1):  # noqa: B020
                    if any(cells):
                        yield row, cells

    def _whole(self, file: Any) -> set[str]:
        """Columns of floats that are all integers; a table with gaps has no other way to hold them."""
        arrow, _ = _pyarrow()
        whole = {
            name for name in self._columns if arrow.types.is_floating(file.schema_arrow.field(name).type)
        }
        if whole:
            for batch in file.iter_batches(_BATCH_ROWS, columns=sorted(whole)):
                named = zip(batch.schema.names, batch.columns, strict=True)
                whole -= {name for name, column in named if not is_whole(_floats(column))}
        return whole

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        arrow, parquet = _pyarrow()
        try:
            with parquet.ParquetFile(self._path) as file:
                yield file
        except (OSError, ValueError, KeyError, OverflowError, arrow.ArrowException) as error:
            raise SourceError(
                f"{self._where} cannot be read as Parquet ({' '.join(str(error).split())}); "
                "save the table again"
            ) from error


def _is_plain(kind: Any) -> bool:
    types = _pyarrow()[0].types
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    tests = (
        types.is_string,
        types.is_large_string,
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_decimal,
        types.is_date,
        types.is_timestamp,
        types.is_time,
        types.is_null,
    )
    return any(test(kind) for test in tests)


def _texts(column: Any, whole: bool) -> list[str]:
    """Write a column of a batch as text."""
    arrow, _ = _pyarrow()
    kind = column.type
    if arrow.types.is_floating(kind):
        return as_texts(_floats(column), whole=whole)
    # Python has microseconds; to nanoseconds pyarrow gives objects of pandas, or an error without it.
    if arrow.types.is_timestamp(kind):
        column = column.cast(arrow.timestamp("us", kind.tz), safe=False)
    elif arrow.types.is_time(kind):
        column = column.cast(arrow.time64("us"), safe=False)
    return [
        "" if value is None else (value.isoformat() if hasattr(value, "isoformat") else str(value).strip())
        for value in column.to_pylist()
    ]


def _floats(column: Any) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
    return values


def _pyarrow() -> tuple[Any, Any]:
    # Late, because it is an extra.
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SourceError(
            "Parquet needs pyarrow, which is not installed; run `pip install featx[parquet]`"
        ) from error
    return pyarrow, pyarrow.parquet
