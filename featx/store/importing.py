"""Embeddings that were computed elsewhere, brought into a store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreError
from featx.files import disk_errors, make_directories, remove_temporaries
from featx.records import ImageRecord, LayerInfo, Precision, Space, StoreDtype, escape_name
from featx.store.locking import WriterLock
from featx.store.rounding import finite_rows
from featx.store.schema import (
    DIGEST_SIZE,
    IndexRow,
    check_layers,
    images_table,
    layer_of_name,
    root_attributes,
    skipped_table,
)
from featx.store.shapes import Shapes
from featx.store.skeleton import write_file
from featx.store.storefile import StoreFile

__all__ = ["write_arrays"]

_BLOCK_ROWS = 1024

Values = Sequence[Any] | NDArray[Any]


def write_arrays(
    path: Path,
    X: Mapping[str, NDArray[Any]],
    *,
    y: Values | None,
    names: Sequence[str] | NDArray[Any] | None,
    splits: Values | None,
    groups: Values | None,
    digests: NDArray[np.uint8] | None,
    phashes: NDArray[np.uint64] | None,
    backbone: str,
    overwrite: bool,
    widths: Values | None = None,
    heights: Values | None = None,
    modes: Values | None = None,
    columns: Mapping[str, Values] | None = None,
    origin: Mapping[str, Any] | None = None,
    imported_from: str = "",
) -> None:
    """Write a store of arrays; see :meth:`featx.store.reader.FeatureStore.from_arrays`.

    The space has the provider ``"import"``, and the digest of its weights is the SHA-256 of all
    layers' names, shapes and stored bytes.

    Parameters
    ----------
    path, X, y, names, splits, groups, digests, phashes, backbone, overwrite
        As there.
    widths, heights, modes : sequence of length n, optional
        As :meth:`featx.store.partswriter.PartsWriter.add` takes them.
    columns : mapping of str to sequence of length n, optional
        Further columns by name.
    origin : mapping, optional
        The space of the store that the arrays were exported from, kept as provenance; its precision
        is that of the new one.
    imported_from : str
        The file that the arrays come from.

    Raises
    ------
    StoreError
        If shapes do not agree, a value is not finite, or the path exists.
    """
    arrays = {name: np.asarray(values) for name, values in X.items()}
    for name, values in arrays.items():
        if values.ndim != 2 or values.dtype.kind not in "fiub":
            raise StoreError(
                f"X of layer {name!r} is {values.dtype} {values.shape}, expected numbers of shape (n, d)"
            )
    rows = {len(values) for values in arrays.values()}
    if len(rows) != 1:
        raise StoreError(f"The layers of X have {sorted(rows)} rows, expected one number of rows for all")
    count = rows.pop()
    half = all(values.dtype == np.float16 for values in arrays.values())
    store_dtype: StoreDtype = "float16" if half else "float32"
    dtype = np.dtype(store_dtype).newbyteorder("<")
    layers = [layer_of_name(name, values.shape[1]) for name, values in arrays.items()]
    check_layers(layers)
    by_name = {layer.name: values for layer, values in zip(layers, arrays.values(), strict=True)}

    def blocks(layer: LayerInfo) -> Iterable[NDArray[Any]]:
        values = by_name[layer.name]
        for start in range(0, count, _BLOCK_ROWS):
            with np.errstate(over="ignore"):
                block = np.ascontiguousarray(values[start : start + _BLOCK_ROWS], dtype=dtype)
            bad = np.flatnonzero(~finite_rows(block))
            if len(bad):
                raise StoreError(
                    f"Row {start + int(bad[0])} of layer {layer.name!r} holds NaN, infinity or more than "
                    f"{store_dtype} can hold; remove the row or scale the embeddings"
                )
            yield block

    images = _index(count, y, names, splits, groups, digests, columns or {})
    shapes = Shapes.of(count, widths, heights, modes)
    table, column_table = images_table(images, _phashes(images, phashes), shapes)
    known = (p for p in get_args(Precision) if origin is not None and origin.get("precision") == p)
    precision: Precision = next(known, "fp32")
    weights = {"digest": _digest(layers, blocks)}
    space = Space("import", backbone, weights, {}, "none", precision, store_dtype)
    request: dict[str, Any] = {"backbone": backbone, "layers": list(arrays)}
    if imported_from:
        request["imported_from"] = escape_name(imported_from)
    if origin is not None:
        request["space"] = dict(origin)
    path = Path(os.path.realpath(path))
    _refuse(path, overwrite)
    with disk_errors(path):
        make_directories(path.parent)
    lock = WriterLock(path)
    lock.acquire()
    try:
        _refuse(path, overwrite)
        remove_temporaries(path)
        write_file(
            path,
            attributes=root_attributes(space, request, imported_from or "import", {}),
            tables={"images": table, "images/columns": column_table, "skipped": skipped_table([])},
            layers=layers,
            rows=count,
            dtype=dtype,
            blocks=blocks,
        )
    finally:
        lock.release()


def _refuse(path: Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise StoreError(f"{path} exists; choose another output, or replace it with --overwrite")
    StoreFile(path).close()


def _digest(layers: Sequence[LayerInfo], blocks: Any) -> str:
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(f"{layer.name} {layer.dim}\n".encode("utf-8", "surrogateescape"))
        for block in blocks(layer):
            digest.update(block)
    return digest.hexdigest()


def _index(
    count: int,
    y: Values | None,
    names: Sequence[str] | NDArray[Any] | None,
    splits: Values | None,
    groups: Values | None,
    digests: NDArray[np.uint8] | None,
    columns: Mapping[str, Values],
) -> list[IndexRow]:
    labels, split_names, group_names = (
        _texts(v, count, w) for v, w in ((y, "y"), (splits, "splits"), (groups, "groups"))
    )
    titles = [f"row-{row:06d}" for row in range(count)]
    if names is not None:
        titles = [str(name) for name in _listed(names, count, "names")]
    if len(titles) != count:
        raise StoreError(f"Got {len(titles)} names for {count} rows of X, expected one for each")
    if len(set(titles)) != count:
        twice = next(title for title in titles if titles.count(title) > 1)
        raise StoreError(f"The name {escape_name(twice)!r} stands twice; names must differ")
    if digests is None:
        keys = [hashlib.sha256(os.fsencode(title)).digest() for title in titles]
    else:
        given = np.asarray(digests, np.uint8)
        if given.shape != (count, DIGEST_SIZE):
            raise StoreError(f"Got digests of shape {given.shape}, expected ({count}, {DIGEST_SIZE})")
        keys = [row.tobytes() for row in given]
    for name in columns:
        if not _is_unicode(name):  # HDF5 has no other names
            raise StoreError(f"The column {escape_name(name)!r} is no Unicode text; rename it")
    more = {name: _texts(values, count, f"values of the column {name!r}") for name, values in columns.items()}
    return [
        IndexRow(
            ImageRecord(
                title,
                label or None,
                split or None,
                group or None,
                columns={name: values[row] for name, values in more.items()},
            ),
            key,
        )
        for row, (title, label, split, group, key) in enumerate(
            zip(titles, labels, split_names, group_names, keys, strict=True)
        )
    ]


def _phashes(images: Sequence[IndexRow], phashes: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
    if phashes is None:
        return np.frombuffer(b"".join(image.digest[:8] for image in images), "<u8")
    given = np.asarray(phashes, np.uint64)
    if given.shape != (len(images),):
        raise StoreError(f"Got phashes of shape {given.shape}, expected ({len(images)},)")
    return given


def _texts(values: Values | None, count: int, what: str) -> list[str]:
    if values is None:
        return [""] * count
    # NaN, which differs from itself, is what pandas has for no value.
    texts = ["" if v is None or v != v else str(v) for v in _listed(values, count, what)]
    if len(texts) != count:
        raise StoreError(f"Got {len(texts)} {what} for {count} rows of X, expected one for each")
    return texts


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(values: Any, count: int, what: str) -> list[Any]:
    """Give one value a row; refuse a text, which is a sequence of its letters, and tables."""
    expected = f"expected a sequence of {count}, one value for each row of X"
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise StoreError(
            f"Got {type(values).__name__} {escape_name(repr(values))[:40]} for {what}, {expected}"
        )
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise StoreError(f"Got {what} of the shape {tuple(shape)}, {expected}")
    listed = list(values)
    for value in listed:
        if isinstance(value, list | tuple | np.ndarray):
            raise StoreError(f"Got {what} that hold {type(value).__name__}s, {expected}")
    return listed
