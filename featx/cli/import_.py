"""``featx import``."""

from __future__ import annotations

import json
import os
import shlex
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featx.cli.common import Output, json_option
from featx.cli.info import count
from featx.errors import FeatxError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXTS = ("y", "names", "splits", "groups")
"""The arrays beside X, one value a row."""

KEYS = ("digests", "phashes", "widths", "heights", "modes")
"""What `featx export` also writes: SHA-256 of each image (n, 32), perceptual hash, size in pixels, mode."""

_SINGLE = b"\x93NUMPY"
"""How a file of one array begins (NumPy Enhancement Proposal 1)."""


@click.command("import", short_help="Bring embeddings made elsewhere.")
@click.argument("file")
@click.option("-o", "--output", "store", required=True, metavar="STORE", help="The HDF5 file to write.")
@click.option(
    "--backbone", default="imported", show_default=True, metavar="NAME", help="What made the embeddings."
)
@click.option("--overwrite", is_flag=True, help="Replace a store that is there.")
@json_option
def command(file: str, store: str, backbone: str, overwrite: bool, as_json: bool) -> None:
    """Make a store of FILE, an .npz with X (n, d) and, if there are any, y, names, splits and groups (n).

    Several layers are arrays X:NAME. What `featx export --to npz` wrote comes back with its digests, so
    that it can be compared with other stores of the same images, and with its further columns.
    """
    import featx
    from featx.store.importing import write_arrays

    found = _read(file)
    layers = {name.removeprefix("X:"): array for name, array in found.items() if name.startswith("X:")}
    if "X" in found:
        names = found.get("layers")
        layers[str(names[0]) if names is not None and names.shape == (1,) else "imported"] = found["X"]
    if not layers:
        raise FeatxError(
            f"{file} has no array X; expected X (n, d), and {', '.join(TEXTS)} (n) if there are any"
        )
    given: dict[str, Any] = dict.fromkeys((*TEXTS, *KEYS))
    given |= {name: _values(name, found[name]) for name in TEXTS if name in found}
    given |= {name: found[name] for name in KEYS if name in found}
    write_arrays(
        Path(store),
        layers,
        **given,
        columns=_columns(file, found),
        origin=_origin(file, found.get("space")),
        imported_from=file,
        backbone=backbone,
        overwrite=overwrite,
    )
    output = Output(as_json)
    with featx.FeatureStore(store) as result:
        output.json(
            {"store": store, "images": len(result), "layers": [layer.name for layer in result.layers]}
        )
        images = count(len(result), "image")
        output.line(f"{store}: {images}; next: {shlex.join(['featx', 'fit', store])}")


def _read(file: str) -> dict[str, NDArray[Any]]:
    import numpy as np

    expected = f"expected arrays X and, if there are any, {', '.join(TEXTS)}"
    try:
        # Opened here, since NumPy does not close what turns out to be damaged.
        with open(file, "rb") as stream:  # noqa: PTH123 - the path is as the user typed it
            if stream.read(len(_SINGLE)) == _SINGLE:
                raise FeatxError(f"{file} is a single array, no .npz; {expected} (numpy.savez writes one)")
            if not zipfile.is_zipfile(stream):
                raise FeatxError(f"{file} is no .npz, or not all of it; {expected} (numpy.savez writes one)")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                return {name: _array(file, arrays, name) for name in arrays if _is_ours(name)}
    except FileNotFoundError:
        raise FeatxError(f"{file} does not exist; check the path") from None
    except OSError as error:
        raise FeatxError(f"{file} cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise FeatxError(f"{file} cannot be read as .npz ({error}); {expected}") from error


def _is_ours(name: str) -> bool:
    return name in ("X", "layers", "columns", "space", *TEXTS, *KEYS) or name.startswith(("X:", "column:"))


def _array(file: str, arrays: Any, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = arrays[name]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise FeatxError(
            f"{file} has an array {name} of Python objects, which can hold code and are not read; save it "
            "as text, numpy.array(values, dtype=str), or as numbers"
        ) from error
    if not hasattr(array, "dtype"):  # a zip of other files
        raise FeatxError(f"{file} holds {name}, which is no array; numpy.savez writes such a file")
    return array


def _columns(file: str, found: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
    from featx.store.exporting import column_keys

    names = [str(name) for name in _values("columns", found["columns"])] if "columns" in found else []
    keys = column_keys(names)
    for name, key in keys.items():
        if key not in found:
            raise FeatxError(f"{file} names a column {name!r} and has no array {key}; export it again")
    return {name: _values(key, found[key]) for name, key in keys.items()}


def _origin(file: str, text: NDArray[Any] | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        origin = json.loads(str(text))
    except (ValueError, RecursionError):
        origin = None
    if not isinstance(origin, dict):
        raise FeatxError(f"{file} has an array space that is no JSON object; remove it, or export again")
    return origin


def _values(name: str, array: NDArray[Any]) -> list[Any]:
    """Give what an array says of each row; NaN, by which tables say that there is nothing, is None."""
    if array.ndim != 1:
        raise FeatxError(f"{name} has the shape {array.shape}, expected one value for each row of X")
    if array.dtype.kind == "S":
        return [os.fsdecode(value) for value in array]
    return [None if name != "names" and value != value else value for value in array]
