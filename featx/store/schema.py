r"""What stands in a featx file: groups, datasets, attributes, and how text is encoded.

A **store** holds an image set and its embeddings, one row per image::

    /           attributes: featx_format, featx_version, space, space_key, request, source, created,
                seconds, peak_memory_bytes
    /images/    name, digest (n, 32), size, mtime_ns, phash, width, height, mode, label, split, group,
                columns/*
    /features/  one dataset (n, d) per layer, NODE:POOL; attributes node, pool, dim
    /skipped/   name, digest (m, 32), reason

A **part** holds rows that are finished, one per digest, with the same attributes::

    /rows/      digest (k, 32), phash, width, height, mode
    /features/  as above

An **index** of a directory store holds an image set whose rows lie in parts. It has the attributes of
a store, and ``layers``, JSON of [node, pool, dim] each; that of one shard also ``shard``, as I/N, and
``listing``, the SHA-256 of what the source listed::

    /images/    as above
    /skipped/   as above
    /places/    for each layer, NODE:POOL (n, 2): number of the part, row in it
    /parts/     name, digest (k, 32), the SHA-256 in its user block, rows, size in bytes
    /order/     image, skipped: positions in the listing; of one shard only

Text is a variable-length string. Names hold the bytes of :func:`os.fsencode`; all other text is
UTF-8 in which stray bytes of a file name survive (``surrogateescape``). A missing label, split or
group is the empty string, in the file and in the reader's arrays; in
:class:`~featx.records.ImageRecord` it is None. The digest of an image that could not be read is
all zeros in the file and ``b""`` in :class:`~featx.records.SkippedImage`. A column whose header
holds ``/``, ``%`` or a NUL has these characters percent-encoded, since HDF5 makes a group of ``/``.

Width and height are those of the upright image in its full size, in pixels, 0 if unknown; mode is
Pillow's name of what the file holds, ASCII in 8 bytes, padded with zeros, empty if unknown. Files written
before these three were kept have none of them, which means the same.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args, overload
from urllib.parse import unquote

import h5py
import numpy as np
from numpy.typing import NDArray

from featx import __version__
from featx.errors import StoreError
from featx.records import FORMAT_VERSION, ImageRecord, LayerInfo, Pooling, SkippedImage, Space, escape_name
from featx.store.shapes import Shapes

__all__ = [
    "DIGEST_SIZE",
    "TEXT",
    "IndexRow",
    "IndexRows",
    "Table",
    "check_layers",
    "column_of_dataset",
    "decode_text",
    "digest_rows",
    "images_table",
    "layer_of_name",
    "parse_attributes",
    "root_attributes",
    "skipped_table",
]

DIGEST_SIZE = 32
"""Bytes of a SHA-256."""

TEXT = h5py.string_dtype("utf-8")
"""The dtype of every text dataset and attribute."""

Text = list[bytes]
Table = Mapping[str, "Text | NDArray[Any]"]
"""Datasets of one group by name: a list of bytes is text."""

TEXT_FIELDS = ("name", "label", "split", "group")
NUMBER_FIELDS: Mapping[str, np.dtype[Any]] = {
    "size": np.dtype("<i8"),
    "mtime_ns": np.dtype("<i8"),
    "phash": np.dtype("<u8"),
}
TEXT_ATTRIBUTES = ("featx_version", "space", "space_key", "request", "source", "created")
NUMBER_ATTRIBUTES = ("featx_format", "seconds", "peak_memory_bytes")
JSON_ATTRIBUTES = ("space", "request", "provenance", "layers")

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class IndexRow(NamedTuple):
    """One image of a store: its record and the SHA-256 of its encoded bytes (32 bytes)."""

    record: ImageRecord
    digest: bytes


class IndexRows(Sequence[IndexRow]):
    """Images of a store, each made when it is asked for.

    Parameters
    ----------
    records : sequence of ImageRecord
    places : ndarray of shape (n,), int
        Which of them.
    digests : ndarray of shape (n, 32), uint8
    """

    def __init__(
        self, records: Sequence[ImageRecord], places: NDArray[np.int64], digests: NDArray[np.uint8]
    ) -> None:
        self.digests = digests
        self._records, self._places = records, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> IndexRow: ...

    @overload
    def __getitem__(self, index: slice) -> IndexRows: ...

    def __getitem__(self, index: int | slice) -> IndexRow | IndexRows:
        if isinstance(index, slice):
            return IndexRows(self._records, self._places[index], self.digests[index])
        return IndexRow(self._records[int(self._places[index])], self.digests[index].tobytes())


def check_layers(layers: Sequence[LayerInfo]) -> None:
    """Refuse layers that cannot stand in one file: none, one twice, or a name that HDF5 would split.

    Raises
    ------
    StoreError
        Naming the layer.

    Examples
    --------
    >>> check_layers([LayerInfo("layer4.1", "avg", 512)])
    """
    if not layers:
        raise StoreError("A store needs at least one layer, got none; name a node of the network")
    names = [layer.name for layer in layers]
    for layer, name in zip(layers, names, strict=True):
        if "/" in name or "\0" in name or not layer.node:
            raise StoreError(f"A layer cannot be named {name!r} in HDF5; use a node's name without '/'")
        if layer.dim < 1:
            raise StoreError(
                f"Layer {name!r} has {layer.dim} dimensions, expected at least 1; choose another layer"
            )
        if names.count(name) > 1:
            raise StoreError(f"Layer {name!r} is named twice; name each layer once")


def layer_of_name(name: str, dim: int, default: Pooling = "flatten") -> LayerInfo:
    """Split ``NODE:POOL``; a name without a known pooling gets the default.

    Examples
    --------
    >>> layer_of_name("layer4:avg", 512)
    LayerInfo(node='layer4', pool='avg', dim=512)
    >>> layer_of_name("mine", 8).name
    'mine:flatten'
    """
    node, _, pool = name.rpartition(":")
    if node and pool in POOLINGS:
        return LayerInfo(node, pool, dim)
    return LayerInfo(name, default, dim)


def encode_text(text: str, what: str) -> bytes:
    """Turn text into the bytes that a text dataset holds.

    Raises
    ------
    StoreError
        If the text holds a NUL, where HDF5 would cut it off.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise StoreError(f"The {what} {escape_name(text)!r} is no Unicode text; rename it") from None
    if b"\0" in data:
        raise StoreError(f"The {what} {escape_name(text)!r} holds a NUL character; remove it")
    return data


def decode_text(data: bytes) -> str:
    r"""Undo :func:`encode_text`.

    Examples
    --------
    >>> decode_text(encode_text("na\udcffme", "label")) == "na\udcffme"
    True
    """
    return data.decode("utf-8", "surrogateescape")


def _encode_name(name: str) -> bytes:
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:
        data = b""
    if not data or b"\0" in data:
        raise StoreError(f"An image cannot be named {escape_name(name)!r}; rename it")
    return data


def _dataset_of_column(column: str) -> bytes:
    quoted = re.sub(r"[%/\0]", lambda match: f"%{ord(match[0]):02X}", column)
    # HDF5 reads "" and "." as the group itself; a lone "%" is nobody else's name.
    name = {"": "%", ".": "%2E"}.get(quoted, quoted)
    try:
        name.encode()
    except UnicodeEncodeError:  # HDF5 has names in UTF-8 only
        raise StoreError(f"The column {escape_name(column)!r} is no Unicode text; rename it") from None
    return encode_text(name, "column")


def column_of_dataset(name: str) -> str:
    """Undo the percent-encoding of a column's dataset name.

    Examples
    --------
    >>> column_of_dataset("width%2Fheight")
    'width/height'
    """
    return "" if name == "%" else unquote(name, errors="surrogateescape")


def digest_rows(images: Sequence[IndexRow]) -> NDArray[np.uint8]:
    """Digests of images as an array of shape (n, 32).

    Raises
    ------
    StoreError
        If one is no SHA-256.
    """
    if isinstance(images, IndexRows):
        return images.digests
    for row in images:
        if len(row.digest) != DIGEST_SIZE:
            raise StoreError(
                f"The digest of {escape_name(row.record.name)!r} has {len(row.digest)} bytes, expected the "
                f"{DIGEST_SIZE} of a SHA-256; hash the image's encoded bytes"
            )
    return np.frombuffer(b"".join(row.digest for row in images), np.uint8).reshape(-1, DIGEST_SIZE)


def images_table(
    images: Sequence[IndexRow], phashes: NDArray[np.uint64], shapes: Shapes
) -> tuple[Table, Table]:
    """Build ``/images`` and ``/images/columns`` from the rows of the index.

    Parameters
    ----------
    images : sequence of IndexRow
        In the order of the rows.
    phashes : ndarray of shape (n,), uint64
        Perceptual hashes.
    shapes : Shapes
        Sizes and modes.

    Raises
    ------
    StoreError
        If a digest is no SHA-256, a name stands twice, or a text cannot be stored.
    """
    names: Text = []
    texts = {field: _Encoder(field) for field in ("label", "split", "group")}
    columns: dict[str, _Encoder] = {}
    numbers = {field: np.zeros(len(images), NUMBER_FIELDS[field]) for field in ("size", "mtime_ns")}
    for place, (record, _) in enumerate(images):
        names.append(_encode_name(record.name))
        for field, encoder in texts.items():
            encoder.append(getattr(record, field))
        for name in record.columns:
            if name not in columns:
                columns[name] = _Encoder("column value", [b""] * place)
        for name, encoder in columns.items():
            encoder.append(record.columns.get(name))
        numbers["size"][place], numbers["mtime_ns"][place] = record.size, record.mtime_ns
    _require_different(names)
    table: dict[str, Text | NDArray[Any]] = {
        "name": names,
        "digest": digest_rows(images),
        **numbers,
        "phash": np.asarray(phashes, NUMBER_FIELDS["phash"]),
        **shapes.datasets(),
        **{field: encoder.encoded for field, encoder in texts.items()},
    }
    return table, {decode_text(_dataset_of_column(name)): columns[name].encoded for name in columns}


class _Encoder:
    """A column of texts as bytes; equal texts are one object."""

    def __init__(self, what: str, encoded: Text | None = None) -> None:
        self.encoded: Text = encoded if encoded is not None else []
        self._what = what
        self._known: dict[str | None, bytes] = {None: b""}

    def append(self, text: str | None) -> None:
        data = self._known.get(text)
        if data is None:
            data = self._known[text] = encode_text(text or "", self._what)
        self.encoded.append(data)


def _require_different(names: Text) -> None:
    """Refuse a name that stands twice; a hash of each is enough to see that none does."""
    hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(names)))
    if not (hashes[1:] == hashes[:-1]).any():
        return
    for name, count in Counter(names).items():
        if count > 1:
            shown = escape_name(os.fsdecode(name))
            raise StoreError(f"The name {shown!r} stands twice; names must differ")


def skipped_table(skipped: Sequence[SkippedImage]) -> Table:
    """Build ``/skipped``."""
    digests = b"".join((image.digest or b"").ljust(DIGEST_SIZE, b"\0") for image in skipped)
    return {
        "name": [_encode_name(image.name) for image in skipped],
        "digest": np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_SIZE),
        "reason": [encode_text(image.reason.replace("\0", ""), "reason") for image in skipped],
    }


def root_attributes(
    space: Space, request: Mapping[str, Any], source: str, provenance: Mapping[str, Any]
) -> dict[str, bytes | int | float]:
    """Build the attributes of ``/``.

    Parameters
    ----------
    space : Space
        What the embeddings are.
    request : mapping
        Arguments and versions, in types that JSON has.
    source : str
        Where the images came from.
    provenance : mapping
        ``seconds`` (float, default 0) and ``peak_memory_bytes`` (int, default 0); anything else is
        kept as JSON in an attribute ``provenance``.
    """
    more = dict(provenance)
    seconds, peak = float(more.pop("seconds", 0.0)), int(more.pop("peak_memory_bytes", 0))
    attributes: dict[str, bytes | int | float] = {
        "featx_format": FORMAT_VERSION,
        "featx_version": __version__.encode(),
        "space": space.canonical.encode(),
        "space_key": space.key.encode(),
        "request": json.dumps(dict(request), sort_keys=True).encode(),
        "source": encode_text(source, "source"),
        "created": datetime.now(UTC).isoformat(timespec="seconds").encode(),
        "seconds": seconds,
        "peak_memory_bytes": peak,
    }
    if more:
        attributes["provenance"] = json.dumps(more, sort_keys=True).encode()
    return attributes


def parse_attributes(attributes: Mapping[str, str | int | float]) -> dict[str, Any]:
    """Undo :func:`root_attributes`, as far as HDF5 does not: JSON becomes plain types."""
    return {
        name: json.loads(value) if isinstance(value, str) and name in JSON_ATTRIBUTES else value
        for name, value in attributes.items()
    }
