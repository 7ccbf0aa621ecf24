"""One or several stores as one labelled set: aligned by name, compared by digest."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.errors import DatasetError, StoreError, UnknownNameError
from featx.images.layout import SPLIT_FOLDERS
from featx.records import JoinedLayer, Layer, LayerInfo, ProgressCallback, escape_name
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
    notes : tuple of str
        What the reader must know of where labels, splits and groups come from.
    """

    stores: tuple[FeatureStore, ...]
    order: tuple[NDArray[np.intp], ...]
    names: tuple[str, ...]
    labels: NDArray[np.str_]
    splits: NDArray[np.str_]
    groups: NDArray[np.str_]
    digests: NDArray[np.uint8]
    phashes: NDArray[np.uint64]
    notes: tuple[str, ...] = ()

    def layers(self, wanted: Sequence[str] = ()) -> list[tuple[int, Layer]]:
        """List (store, layer) pairs: all of them, or those that ``wanted`` names.

        Layers joined by ``+`` stand side by side as one; every store that has all of them has it.

        Raises
        ------
        UnknownNameError
            If a wanted layer is in no store.
        """
        if not wanted:
            return [(index, layer) for index, store in enumerate(self.stores) for layer in store.layers]
        pairs: list[tuple[int, Layer]] = []
        for index, store in enumerate(self.stores):
            found = [layer for name in wanted for layer in _find_layers(store.layers, name)]
            pairs += [(index, layer) for layer in dict.fromkeys(found)]
        for name in wanted:
            if not any(_find_layers(store.layers, name) for store in self.stores):
                known = {layer.name for store in self.stores for layer in store.layers}
                part = next((part for part in name.split("+") if not self._has(part)), None)
                if part is None:
                    raise DatasetError(f"No store has all the layers of {name}; join layers of one store.")
                raise UnknownNameError("layer", part, known, "`featx info STORE` lists them.")
        return pairs

    def _has(self, name: str) -> bool:
        return any(_find_layers(store.layers, name) for store in self.stores)

    def matrix(self, store: int, layer: Layer, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read the embeddings of some images as (len(rows), dim) float32."""
        embeddings = np.empty((len(rows), layer.dim), dtype=np.float32)
        start = 0
        for part in layer.parts:
            taken = self.stores[store].take(part.name, self.order[store][rows])
            embeddings[:, start : start + part.dim] = taken
            start += part.dim
        return embeddings


def _find_layers(layers: Sequence[LayerInfo], name: str) -> list[Layer]:
    """Give the layers of one store that a name stands for: ``NODE:POOL``, ``NODE``, or several with ``+``."""
    if named := [layer for layer in layers if name in (layer.name, layer.node)]:
        return [*named]
    if "+" not in name:
        return []
    choices = [[layer for layer in layers if part in (layer.name, layer.node)] for part in name.split("+")]
    return [JoinedLayer(parts) for parts in itertools.product(*choices) if len(set(parts)) == len(parts)]


def open_dataset(
    stores: Sequence[str | os.PathLike[str] | FeatureStore],
    *,
    labels: str | os.PathLike[str] | Mapping[str, object] | None = None,
    label: str | None = None,
    group: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> LabelledSet:
    """Open stores of the same images, hash every byte of them, and align them.

    Parameters
    ----------
    stores : sequence of path or FeatureStore
    labels : path or mapping, optional
        Labels to use instead of the stores': a CSV with a column ``name`` (or ``path``), or a
        mapping of name to label, where None and NaN mean that there is none. Images it does not name
        are unlabelled. A column ``split`` (train, val or test) replaces the splits of the stores.
    label : str, optional
        The column of that CSV, or of the store, that holds the label; ``label`` by default.
    group : str, optional
        The column that says what must stay together; by default ``group`` of the CSV if it has one,
        else of the store.
    on_progress : callable, optional
        Called with a :class:`featx.records.Progress` in bytes while a store is hashed.

    Raises
    ------
    DamagedStoreError
        If a byte is not the one that was written, naming the file.
    StoreError
        If the stores do not hold the same images, splits and (where they are used) labels.
    DatasetError
        If the labels do not fit the images, or contradict each other.
    UnknownNameError
        If a column does not exist.
    """
    if not stores:
        raise DatasetError("No store was given; expected at least one, made by `featx extract`.")
    opened = tuple(store if isinstance(store, FeatureStore) else FeatureStore(store) for store in stores)
    for store in opened:
        store.require_bytes(on_progress)
    first = opened[0]
    own_labels = labels is None and label in (None, "label")
    order = [np.arange(len(first))]
    order += [_align(first, other, own_labels) for other in opened[1:]]
    splits = _texts(first.splits)
    notes: list[str] = []
    if isinstance(labels, Mapping):
        if label is not None:
            raise DatasetError(
                f"Got the column {label!r} beside a mapping of labels, which has no columns; leave out label"
            )
        texts = {name: _label(value) for name, value in labels.items()}
        named = _by_name(first, texts, "the mapping", notes)
        groups = _own_column(first, group or "group")
    elif labels is not None:
        table = _read_csv(Path(labels))
        column = label or "label"
        named = _by_name(first, table.column(column), "the CSV", notes)
        groups = _groups(first, table, column, group, notes)
        if "split" not in (column, group) and "split" in table.columns:
            splits = _splits(first, table, notes)
    else:
        named = _own_column(first, label or "label")
        groups = _own_column(first, group or "group")
    return LabelledSet(
        stores=opened,
        order=tuple(order),
        names=tuple(first.names),
        labels=named,
        splits=splits,
        groups=groups,
        digests=np.asarray(first.digests),
        phashes=np.asarray(first.phashes),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """A CSV: the name of each row, and its columns."""

    path: Path
    names: list[str]
    columns: dict[str, list[str]]

    def column(self, column: str) -> dict[str, str]:
        """Value of each name."""
        if column not in self.columns:
            raise UnknownNameError("column", column, self.columns)
        values: dict[str, str] = {}
        for name, value in zip(self.names, self.columns[column], strict=True):
            if values.setdefault(name, value) != value:
                raise DatasetError(
                    f"{self.path} names {escape_name(name)} twice, with the {column} {values[name]!r} and "
                    f"with {value!r}; keep one of the rows"
                )
        return values


def _align(first: FeatureStore, other: FeatureStore, own_labels: bool) -> NDArray[np.intp]:
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
    compared = [("split", first.splits, other.splits)]
    if own_labels:
        compared.append(("label", first.y, other.y))
    for what, ours, theirs in compared:
        differs = np.flatnonzero(_texts(ours) != _texts(theirs[rows]))
        if len(differs):
            row = differs[0]
            raise StoreError(
                f"{first.path} and {other.path} give {len(differs)} images another {what}, such as "
                f"{escape_name(first.names[row])}: {ours[row]!r} and {theirs[rows[row]]!r}; extract both "
                "again from the same source"
            )
    return rows


def _own_column(store: FeatureStore, column: str) -> NDArray[np.str_]:
    """Read a column of the store, whether it has a name of its own there or came from a manifest."""
    own = {"label": store.y, "group": store.groups, "split": store.splits}
    if column in own:
        return _texts(own[column])
    if column not in store.columns:
        raise UnknownNameError(
            "column", column, [*own, *store.columns], "Other columns come with --labels CSV."
        )
    return _texts(store.columns[column])


def _by_name(store: FeatureStore, values: Mapping[str, str], what: str, notes: list[str]) -> NDArray[np.str_]:
    """Bring labels into the order of the store, and note the names that it does not have."""
    strange = list(values.keys() - set(store.names))
    if len(strange) == len(values):
        example = f", in {what} like {escape_name(str(next(iter(values))))}" if values else ""
        raise DatasetError(
            f"None of the {len(values)} names in {what} is an image of {store.path}; names there look like "
            f"{escape_name(store.names[0]) if store.names else 'nothing, it is empty'}{example}"
        )
    if strange:
        notes.append(
            f"{len(strange)} of {len(values)} names in {what} are no image of the store, such as "
            f"{escape_name(min(map(str, strange)))}"
        )
    return _texts(values.get(name, "") for name in store.names)


def _groups(
    store: FeatureStore, table: _Table, label: str, group: str | None, notes: list[str]
) -> NDArray[np.str_]:
    if group is None:
        if label == "group" or not any(table.columns.get("group", ())):
            return _texts(store.groups)
        notes.append(f"the groups are those of the column group in {table.path.name}")
    values = table.column(group or "group")
    return _texts(values.get(name, "") for name in store.names)


def _splits(store: FeatureStore, table: _Table, notes: list[str]) -> NDArray[np.str_]:
    if not any(table.columns["split"]):
        return _texts(store.splits)
    values = table.column("split")
    for name, value in values.items():
        if value and value.lower() not in SPLIT_FOLDERS:
            raise DatasetError(
                f"{table.path} gives {escape_name(name)} the split {value!r}; expected train, val or test"
            )
    notes.append(f"the splits are those of the column split in {table.path.name}")
    return _texts(SPLIT_FOLDERS.get(values.get(name, "").lower(), "") for name in store.names)


def _read_csv(path: Path) -> _Table:
    rows: list[dict[str, str | None]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            header = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = header
            for row in reader:
                if None in row:
                    raise DatasetError(
                        f"{path} has more cells in line {reader.line_num} than its header's {len(header)}; "
                        "put quotes around cells that hold commas"
                    )
                rows.append(row)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise DatasetError(f"{path} is no CSV ({error}); expected a header and one row per image") from error
    if not rows:
        raise DatasetError(f"{path} holds no rows; expected a header and one row per image")
    key = next((name for name in NAME_COLUMNS if name in header), None)
    if key is None:
        raise DatasetError(
            f"{path} has the columns {', '.join(header)}; expected one of {', '.join(NAME_COLUMNS)}"
        )
    columns = {column: [(row[column] or "").strip() for row in rows] for column in header}
    return _Table(path, [row[key] or "" for row in rows], columns)


def _label(value: object) -> str:
    """Read a label of a mapping; None and NaN, by which tables say that there is none, are none."""
    missing = value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
    return "" if missing else str(value).strip()


def _texts(values: Iterable[str]) -> NDArray[np.str_]:
    return np.array(list(values), dtype=np.str_)
