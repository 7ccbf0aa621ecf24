"""``featx import``."""

from __future__ import annotations

import os
import shlex
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import click

from featx.cli.common import Output, json_option
from featx.errors import FeatxError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXTS = ("y", "names", "splits", "groups")
"""The arrays beside X, one value a row."""


@click.command("import", short_help="Bring embeddings made elsewhere.")
@click.argument("file")
@click.option("-o", "--output", "store", required=True, metavar="STORE", help="The HDF5 file to write.")
@json_option
def command(file: str, store: str, as_json: bool) -> None:
    """Make a store of FILE, an .npz with X (n, d) and, if there are any, y, names, splits and groups (n)."""
    import featx

    found = _read(file)
    if "X" not in found:
        raise FeatxError(
            f"{file} has no array X; expected X (n, d), and {', '.join(TEXTS)} (n) if there are any"
        )
    texts: dict[str, Any] = {name: _values(name, found[name]) for name in TEXTS if name in found}
    result = featx.FeatureStore.from_arrays(store, found["X"], **texts)
    output = Output(as_json)
    output.json({"store": store, "images": len(result)})
    output.line(f"{store}: {len(result)} images; next: {shlex.join(['featx', 'fit', store])}")


def _read(file: str) -> dict[str, NDArray[Any]]:
    import numpy as np

    expected = f"expected arrays X and, if there are any, {', '.join(TEXTS)}"
    try:
        # Opened here, since NumPy does not close what turns out to be damaged.
        with open(file, "rb") as stream:  # noqa: PTH123 - the path is as the user typed it
            arrays = np.load(stream, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise FeatxError(f"{file} is a single array, no .npz; {expected} (numpy.savez writes one)")
            with arrays:
                return {name: arrays[name] for name in ("X", *TEXTS) if name in arrays}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise FeatxError(f"{file} cannot be read as .npz ({error}); {expected}") from error


def _values(name: str, array: NDArray[Any]) -> list[Any]:
    """Give what an array says of each row; NaN, by which tables say that there is nothing, is None."""
    if array.ndim != 1:
        raise FeatxError(f"{name} has the shape {array.shape}, expected one value for each row of X")
    if array.dtype.kind == "S":
        return [os.fsdecode(value) for value in array]
    return [None if name != "names" and value != value else value for value in array]
