"""What HDF5 objects are, in words, from their metadata alone: links, types and storage."""

from __future__ import annotations

from collections.abc import Iterator

import h5py
from h5py import h5d, h5l, h5o, h5t

from featx.records import escape_name

__all__ = ["link_kinds", "object_kind", "storage_problem", "type_name", "type_problem"]

_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "n-bit", 6: "scale-offset"}
_LINKS = {h5l.TYPE_HARD: "", h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
_OBJECTS = {h5o.TYPE_GROUP: "group", h5o.TYPE_DATASET: "dataset", h5o.TYPE_NAMED_DATATYPE: "named type"}
_CLASSES = {
    h5t.INTEGER: "integer",
    h5t.FLOAT: "float",
    h5t.STRING: "text",
    h5t.TIME: "time",
    h5t.BITFIELD: "bitfield",
    h5t.OPAQUE: "opaque",
    h5t.COMPOUND: "compound",
    h5t.REFERENCE: "reference",
    h5t.ENUM: "enum",
    h5t.VLEN: "variable-length list",
    h5t.ARRAY: "array",
}
_PLAIN = (h5t.INTEGER, h5t.FLOAT, h5t.STRING)


def link_kinds(group: h5py.Group) -> Iterator[tuple[bytes, str]]:
    """Go through the links of a group without following them.

    Yields
    ------
    tuple of bytes and str
        The name, and ``""`` for an ordinary (hard) link, else what it is instead.
    """
    for name in group.id:
        kind = group.id.links.get_info(name).type
        yield name, _LINKS.get(kind, f"a user-defined link of type {kind}")


def object_kind(group: h5py.Group, name: bytes) -> str:
    """Say whether a hard link leads to a ``"group"``, a ``"dataset"`` or something else."""
    return _OBJECTS.get(h5o.get_info(group.id, name).type, "unknown object")


def type_name(kind: h5t.TypeID) -> str:
    """Name a type as NumPy does where it is a number of NumPy's, else by its class in HDF5.

    Examples
    --------
    >>> type_name(h5t.IEEE_F16LE), type_name(h5t.STD_REF_OBJ), type_name(h5t.create(h5t.OPAQUE, 8))
    ('float16', 'reference', 'opaque')
    """
    name = _CLASSES.get(kind.get_class(), "unknown")
    if kind.get_class() in (h5t.INTEGER, h5t.FLOAT):
        try:
            return str(kind.dtype)
        except TypeError:  # a size or an exponent that NumPy does not have
            return f"{8 * kind.get_size()}-bit {name}"
    if kind.get_class() == h5t.STRING and not kind.is_variable_str():
        return f"text of {kind.get_size()} bytes"
    return name


def type_problem(kind: h5t.TypeID) -> str:
    """Say what is not plain about a type: neither integer, float nor text; ``""`` for nothing.

    Examples
    --------
    >>> type_problem(h5t.IEEE_F32LE), type_problem(h5t.STD_REF_OBJ)
    ('', 'is of type reference')
    """
    return "" if kind.get_class() in _PLAIN else f"is of type {type_name(kind)}"


def storage_problem(dataset: h5d.DatasetID) -> str:
    """Say what HDF5 would do besides reading bytes of this file to read a dataset; ``""`` for nothing."""
    properties = dataset.get_create_plist()
    if properties.get_layout() == h5d.VIRTUAL:
        return "is a virtual dataset"
    if properties.get_external_count():
        return f"has external storage ({escape_name(properties.get_external(0)[0].decode(errors='replace'))})"
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    if filters:
        names = [_FILTERS.get(code, f"number {code}") for code, *_ in filters]
        return f"has filters ({', '.join(names)})"
    return ""
