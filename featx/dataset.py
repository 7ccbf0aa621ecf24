"""One or several stores as one labelled set: aligned by name, compared by digest."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.errors import DatasetError, StoreError, UnknownNameError
from featx.records import LayerInfo, escape_name
from featx.store.reader import FeatureStore

NAME_COLUMNS = ("name", "path")
"""The columns of a CSV of labels that may hold the image's name."""


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """The same images in every store.

    Parameters
    ----------
    stores : tuple of FeatureStore
    order : tuple of ndarray of int, (n,)
        For each store, the row of each image.
    names : tuple of str, n
    labels, splits, groups : ndarray of str, (n,)
        Empty strings where there is none.
    digests : ndarray of uint8, (n, 32)
    phashes : ndarray of uint64, (n,)
    """

    stores: tuple[FeatureStore, ...]
    order: tuple[NDArray[np.intp], ...]
    names: tuple[str, ...]
    labels: NDArray[np.str_]
    splits: NDArray[np.str_]
    groups: NDArray[np.str_]
    digests: NDArray[np.uint8]
    phashes: NDArray[np.uint64]

    def layers(self, wanted: Sequence[str] = ()) -> list[tuple[int, LayerInfo]]:
        """List (store, layer) pairs: all of them, or those that ``wanted`` names.

        Raises
        ------
        UnknownNameError
            If a wanted layer is in no store.
        """
        every = [(index, layer) for index, store in enumerate(self.stores) for layer in store.layers]
        if not wanted:
            return every
        for name in wanted:
            if not any(name in (layer.name, layer.node) for _, layer in every):
                known = {layer.name for _, layer in every}
                raise UnknownNameError("layer", name, known, "`featx info STORE` lists them.")
        return [(index, layer) for index, layer in every if {layer.name, layer.node} & set(wanted)]

    def matrix(self, store: int, layer: LayerInfo, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read the embeddings of some images as (len(rows), dim) float32."""
        embeddings = self.stores[store].X(layer.name)
        return np.ascontiguousarray(embeddings[self.order[store][rows]], dtype=np.float32)


def open_dataset(
    stores: Sequence[str | os.PathLike[str] | FeatureStore],
    *,
    labels: str | os.PathLike[str] | Mapping[str, str] | None = None,
    label: str | None = None,
    group: str | None = None,
) -> LabelledSet:
    """Open stores of the same images and align them.

    Parameters
    ----------
    stores : sequence of path or FeatureStore
    labels : path or mapping, optional
        Labels to use instead of the stores': a CSV with a column ``name`` (or ``path``), or a
        mapping of name to label. Images it does not name are unlabelled.
    label : str, optional
        The column of that CSV, or of the store, that holds the label; ``label`` by default.
    group : str, optional
        The column that says what must stay together; ``group`` of the store by default.

    Raises
    ------
    StoreError
        If the stores do not hold the same images.
    DatasetError
        If the CSV does not fit.
    UnknownNameError
        If a column does not exist.
    """
    if not stores:
        raise DatasetError("No store was given; expected at least one, made by `featx extract`.")
    opened = tuple(store if isinstance(store, FeatureStore) else FeatureStore(store) for store in stores)
    first = opened[0]
    order = [np.arange(len(first))]
    order += [_align(first, other) for other in opened[1:]]
    table = _read_csv(Path(labels)) if isinstance(labels, str | os.PathLike) else None
    if isinstance(labels, Mapping):
        named: NDArray[np.str_] = _texts(labels.get(name, "") for name in first.names)
    else:
        named = _column(first, table, label, "label", first.y)
    return LabelledSet(
        stores=opened,
        order=tuple(order),
        names=tuple(first.names),
        labels=named,
        splits=_texts(first.splits),
        groups=_column(first, table if group else None, group, "group", first.groups),
        digests=np.asarray(first.digests),
        phashes=np.asarray(first.phashes),
    )


def _align(first: FeatureStore, other: FeatureStore) -> NDArray[np.intp]:
    """Rows of ``other`` in the order of ``first``."""
    position = {name: row for row, name in enumerate(other.names)}
    missing = [name for name in first.names if name not in position]
    extra = set(position) - set(first.names)
    if missing or extra:
        one = escape_name(missing[0] if missing else min(extra))
        raise StoreError(
            f"{first.path} and {other.path} do not hold the same images: {len(missing)} only in the first, "
            f"{len(extra)} only in the second, such as {one}; extract both from the same source"
        )
    rows = np.array([position[name] for name in first.names], dtype=np.intp)
    differs = np.flatnonzero((np.asarray(other.digests)[rows] != np.asarray(first.digests)).any(axis=1))
    if len(differs):
        raise StoreError(
            f"{first.path} and {other.path} hold different bytes for {len(differs)} images of the same name, "
            f"such as {escape_name(first.names[differs[0]])}; extract both again from the same source"
        )
    return rows


def _column(
    store: FeatureStore,
    table: dict[str, dict[str, str]] | None,
    column: str | None,
    default: str,
    fallback: Iterable[str],
) -> NDArray[np.str_]:
    if table is None:
        if column is None or column == default:
            return _texts(fallback)
        if column not in store.columns:
            raise UnknownNameError("column", column, [default, *store.columns])
        return _texts(store.columns[column])
    column = column or default
    columns = next(iter(table.values())).keys()
    if column not in columns:
        raise UnknownNameError("column", column, columns)
    found = sum(name in table for name in store.names)
    if not found:
        raise DatasetError(
            f"None of the {len(table)} names in the CSV is an image of {store.path}; names there look like "
            f"{escape_name(store.names[0])}, in the CSV like {escape_name(next(iter(table)))}"
        )
    return _texts(table[name][column] if name in table else "" for name in store.names)


def _read_csv(path: Path) -> dict[str, dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    if not rows:
        raise DatasetError(f"{path} holds no rows; expected a header and one row per image")
    key = next((name for name in NAME_COLUMNS if name in rows[0]), None)
    if key is None:
        raise DatasetError(
            f"{path} has the columns {', '.join(rows[0])}; expected one of {', '.join(NAME_COLUMNS)}"
        )
    return {row[key]: {column: value or "" for column, value in row.items()} for row in rows}


def _texts(values: Iterable[str]) -> NDArray[np.str_]:
    return np.array(list(values), dtype=np.str_)
