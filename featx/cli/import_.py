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

KEYS = ("digests", "phashes")
"""What `featx export` also writes: SHA-256 of each image (n, 32), and perceptual hash."""


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
    that it can be compared with other stores of the same images.
    """
    import featx

    found = _read(file)
    layers = {name.removeprefix("X:"): array for name, array in found.items() if name.startswith("X:")}
    if "X" in found:
        names = found.get("layers")
        layers[str(names[0]) if names is not None and names.shape == (1,) else "imported"] = found["X"]
    if not layers:
        raise FeatxError(
            f"{file} has no array X; expected X (n, d), and {', '.join(TEXTS)} (n) if there are any"
        )
    options: dict[str, Any] = {name: _values(name, found[name]) for name in TEXTS if name in found}
    options |= {name: found[name] for name in KEYS if name in found}
    result = featx.FeatureStore.from_arrays(store, layers, backbone=backbone, overwrite=overwrite, **options)
    output = Output(as_json)
    output.json({"store": store, "images": len(result), "layers": [layer.name for layer in result.layers]})
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
                wanted = ("X", "layers", *TEXTS, *KEYS)
                return {name: arrays[name] for name in arrays if name in wanted or name.startswith("X:")}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise FeatxError(f"{file} cannot be read as .npz ({error}); {expected}") from error


def _values(name: str, array: NDArray[Any]) -> list[Any]:
    """Give what an array says of each row; NaN, by which tables say that there is nothing, is None."""
    if array.ndim != 1:
        raise FeatxError(f"{name} has the shape {array.shape}, expected one value for each row of X")
    if array.dtype.kind == "S":
        return [os.fsdecode(value) for value in array]
    return [None if name != "names" and value != value else value for value in array]
