"""Taking a store elsewhere: NumPy, CSV, Parquet or one file, written whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import re
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreError, UnknownNameError
from featx.files import (
    PlainFile,
    disk_errors,
    make_directories,
    publish,
    remove_temporaries,
    temporary_path,
)
from featx.records import escape_name
from featx.store.locking import WriterLock
from featx.store.schema import IndexRow, images_table, root_attributes, skipped_table
from featx.store.skeleton import write_file

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from featx.store.reader import FeatureStore

__all__ = ["column_keys", "export"]

_BLOCK_ROWS = 1024

_OLD_SECONDS = 86400.0
"""A temporary file that nobody wrote to for a day was left by an export that was killed."""


def export(store: FeatureStore, path: Path, *, overwrite: bool = False) -> Path:
    """Write a store in the format that the suffix of ``path`` names.

    ``.npz``
        ``X`` for a store of one layer, ``X:NODE:POOL`` for each layer otherwise, in the stored
        dtype; ``layers``, ``y``, ``names``, ``splits``, ``groups``, ``modes`` (fixed-width text),
        ``digests`` (n, 32), ``phashes``, ``widths`` and ``heights`` (n,); ``columns``, the names of
        the further columns, and ``column:NAME`` for each; ``space`` (JSON), ``skipped_names`` and
        ``skipped_reasons``. Loads without pickle.
    ``.csv``
        One line an image: ``name``, ``label``, ``split``, ``group``, ``digest`` (hexadecimal), the
        further columns (as ``column:NAME`` where the name is one of the others), then the features
        as ``NODE:POOL[i]``, in as many digits as bring the same number back. UTF-8; stray bytes of
        a file name are written as they are.
    ``.h5``
        A store of one file, whatever the store is; ``featx extract`` goes on with it.
    ``.parquet``
        The same columns, each layer one fixed-size list of float32; names escaped where they are no
        Unicode text. Needs pyarrow.

    Parameters
    ----------
    store : FeatureStore
        Open.
    path : Path
        The file to write; missing folders above it are made.
    overwrite : bool, default=False
        Replace the file if it is there.

    Raises
    ------
    StoreError
        If the suffix is another, the file exists, or pyarrow is missing.
    """
    writers: Mapping[str, Callable[[FeatureStore, io.BufferedWriter[_Stream]], None]] = {
        ".npz": _write_npz,
        ".csv": _write_csv,
        ".parquet": _write_parquet,
    }
    suffix = path.suffix.lower()
    if suffix not in (*writers, ".h5"):
        raise UnknownNameError("export format", suffix or path.name, (*writers, ".h5"))
    target, holder = Path(os.path.realpath(path)), Path(os.path.realpath(store.path))
    if target == holder or (
        store.n_parts and target.is_relative_to(holder if holder.is_dir() else holder.parent)
    ):
        raise StoreError(f"{path} is the store itself; choose another output")
    if os.path.lexists(path) and not overwrite:
        raise StoreError(f"{path} exists; choose another output, or replace it with --overwrite")
    if suffix == ".parquet":
        _pyarrow()
    store.require_bytes()
    with disk_errors(path):
        make_directories(path.parent)
    if suffix == ".h5":
        _write_store(store, path)
        return path
    _remove_old_temporaries(path)
    # Closed before the file is: a buffer left open would write to whatever has the descriptor next.
    with publish(path) as file, io.BufferedWriter(_Stream(file), 1 << 20) as stream:
        writers[suffix](store, stream)
    return path


def column_keys(names: Iterable[str]) -> dict[str, str]:
    r"""Name the arrays of an npz that hold further columns.

    Parameters
    ----------
    names : iterable of str
        The columns, in their order.

    Returns
    -------
    dict of str to str
        ``column:NAME`` by name; what the name of a file in a zip cannot have is escaped.

    Examples
    --------
    >>> column_keys(["camera", "caf\udce9"])
    {'camera': 'column:camera', 'caf\udce9': 'column:caf\\udce9'}
    """
    keys: dict[str, str] = {}
    for name in names:
        key = f"column:{escape_name(name)}"
        while key in keys.values():
            key += "'"
        keys[name] = key
    return keys


def _remove_old_temporaries(path: Path) -> None:
    """Remove what exports of ``path`` left that were killed; one at work writes all the time."""
    # There is no lock: the age must tell, and what cannot be removed does no harm.
    stem = temporary_path(path).name[: -len(f"{'0' * 32}.tmp")]
    ours = re.compile(rf"{re.escape(stem)}[0-9a-f]{{32}}\.tmp")
    with disk_errors(path.parent, "list"):
        entries = [entry for entry in path.parent.iterdir() if ours.fullmatch(entry.name)]
    for entry in entries:
        with suppress(OSError):
            if time.time() - entry.lstat().st_mtime > _OLD_SECONDS:
                entry.unlink()


def _write_store(store: FeatureStore, path: Path) -> None:
    images = [
        IndexRow(record, digest.tobytes())
        for record, digest in zip(store.records, store.digests, strict=True)
    ]
    table, columns = images_table(images, store.phashes, store.shapes)
    measured = {name: store.meta[name] for name in ("seconds", "peak_memory_bytes")}
    lock = WriterLock(path)
    lock.acquire()
    try:
        remove_temporaries(path)
        write_file(
            path,
            attributes=root_attributes(
                store.space, store.meta["request"], str(store.meta["source"]), measured
            ),
            tables={"images": table, "images/columns": columns, "skipped": skipped_table(store.skipped)},
            layers=store.layers,
            rows=len(store),
            dtype=np.dtype(store.space.store_dtype).newbyteorder("<"),
            blocks=lambda layer: store.blocks(layer.name),
            before_publish=lock.confirm,
        )
    finally:
        lock.release()


def _write_npz(store: FeatureStore, stream: io.BufferedWriter[_Stream]) -> None:
    names = [layer.name for layer in store.layers]
    arrays: dict[str, NDArray[Any]] = {
        "X" if len(names) == 1 else f"X:{name}": store.X(name) for name in names
    }
    texts: dict[str, Sequence[str] | NDArray[np.object_]] = {
        "layers": names,
        "y": store.y,
        "names": store.names,
        "splits": store.splits,
        "groups": store.groups,
        "modes": store.modes,
        "columns": list(store.columns),
        "skipped_names": [item.name for item in store.skipped],
        "skipped_reasons": [item.reason for item in store.skipped],
    }
    texts |= {key: store.columns[name] for name, key in column_keys(store.columns).items()}
    # Object arrays would be pickled; text of fixed width is not.
    arrays |= {key: np.array(list(values), dtype=np.str_) for key, values in texts.items()}
    arrays["space"] = np.array(store.space.canonical)
    arrays |= {"digests": store.digests, "phashes": store.phashes}
    arrays |= {"widths": store.widths, "heights": store.heights}
    np.savez(stream, **arrays)  # type: ignore[arg-type,unused-ignore]


def _write_csv(store: FeatureStore, stream: io.BufferedWriter[_Stream]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    heads = [f"{layer.name}[{column}]" for layer in store.layers for column in range(layer.dim)]
    texts = _texts(store, heads)
    writer.writerow([*texts, *heads])
    index = np.arange(len(store))
    for start, stop in _ranges(len(store)) or [(0, 0)]:
        # NumPy's text of a float is the shortest that reads back as the same float.
        rows = [store.take(layer.name, index[start:stop]) for layer in store.layers]
        blocks = [values.astype(np.str_).tolist() for values in rows]
        for row in range(start, stop):
            features = [value for block in blocks for value in block[row - start]]
            writer.writerow([*(values[row] for values in texts.values()), *features])
        stream.write(text.getvalue().encode("utf-8", "surrogateescape"))
        text.seek(0)
        text.truncate()


def _write_parquet(store: FeatureStore, stream: io.BufferedWriter[_Stream]) -> None:
    arrow, parquet = _pyarrow()
    texts = {_unicode(name): v for name, v in _texts(store, [layer.name for layer in store.layers]).items()}
    fields = [(name, arrow.string()) for name in texts]
    fields += [(layer.name, arrow.list_(arrow.float32(), layer.dim)) for layer in store.layers]
    schema = arrow.schema(fields)
    index = np.arange(len(store))
    with parquet.ParquetWriter(stream, schema) as writer:
        for start, stop in _ranges(len(store)):
            columns = [
                arrow.array([_unicode(value) for value in values[start:stop]]) for values in texts.values()
            ]
            for layer in store.layers:
                rows = store.take(layer.name, index[start:stop])
                flat = arrow.array(rows.astype(np.float32).reshape(-1))
                columns.append(arrow.FixedSizeListArray.from_arrays(flat, layer.dim))
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _texts(store: FeatureStore, features: Container[str]) -> dict[str, Sequence[str] | NDArray[np.object_]]:
    """Give the columns of a table that stand before the features; all names differ."""
    texts: dict[str, Sequence[str] | NDArray[np.object_]] = {
        "name": store.names,
        "label": store.y,
        "split": store.splits,
        "group": store.groups,
        "digest": [digest.tobytes().hex() for digest in store.digests],
    }
    for name, values in store.columns.items():
        head = name
        while head in texts or head in features:
            head = f"column:{head}"
        texts[head] = values
    return texts


def _ranges(count: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK_ROWS, count)) for start in range(0, count, _BLOCK_ROWS)]


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return escape_name(text)
    return text


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise StoreError(
            "Parquet needs pyarrow, which is not installed; run `pip install featx[parquet]`"
        ) from error
    return pyarrow, pyarrow.parquet


class _Stream(io.RawIOBase):
    """Gives libraries that want a file object the plain writes of a file under construction."""

    def __init__(self, file: PlainFile) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        return len(view)
