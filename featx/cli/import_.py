"""``featx import``."""

from __future__ import annotations

import click

from featx.cli.common import Output, json_option


@click.command("import", short_help="Bring embeddings made elsewhere.")
@click.argument("file")
@click.option("-o", "--output", "store", required=True, metavar="STORE", help="The HDF5 file to write.")
@json_option
def command(file: str, store: str, as_json: bool) -> None:
    """Make a store of FILE, an .npz with X (n, d) and, if there are any, y and names (n)."""
    import numpy as np

    import featx

    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("X", "y", "names") if name in arrays}
    except (OSError, ValueError) as error:
        raise featx.FeatxError(
            f"{file} cannot be read as .npz ({error}); expected arrays X, y and names"
        ) from error
    if "X" not in found:
        raise featx.FeatxError(
            f"{file} has no array X; expected X (n, d), and y and names (n) if there are any"
        )
    names = [str(name) for name in found["names"]] if "names" in found else None
    result = featx.FeatureStore.from_arrays(store, found["X"], found.get("y"), names)
    output = Output(as_json)
    output.json({"store": store, "images": len(result)})
    output.line(f"{store}: {len(result)} images; next: featx fit {store}")
