"""Parts: finished rows on disk, keyed by the image's digest.

A part is written once, whole, and never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from featx.records import LayerInfo, Space
from featx.store.schema import check_layers, root_attributes
from featx.store.shapes import Shapes
from featx.store.skeleton import write_file

__all__ = ["part_number", "write_part"]

Features = Mapping[str, "NDArray[Any] | Sequence[NDArray[Any]]"]


def write_part(
    directory: Path,
    digests: NDArray[np.uint8],
    phashes: NDArray[np.uint64],
    features: Features,
    space: Space,
    layers: Sequence[LayerInfo],
    *,
    shapes: Shapes | None = None,
    request: Mapping[str, Any] | None = None,
    source: str = "",
    seconds: float = 0.0,
    number: int = 0,
) -> Path:
    """Write one immutable part.

    Parameters
    ----------
    directory : Path
        Where parts lie; must exist.
    digests : ndarray of shape (k, 32), uint8
        SHA-256 of the encoded bytes of each image.
    phashes : ndarray of shape (k,), uint64
        Perceptual hashes.
    features : mapping of str to ndarray or sequence of ndarray
        By layer name, (k, dim) in one array or in several that follow each other, in the dtype of
        the space.
    space : Space
        What the embeddings are.
    layers : sequence of LayerInfo
        The layers of ``features``.
    shapes : Shapes, optional
        Sizes and modes of the images; unknown by default.
    request, source : mapping, str
        Kept as provenance.
    seconds : float
        Wall time that the rows took.
    number : int
        Parts sort by it.

    Returns
    -------
    Path
        ``part-<number>-<uuid>.h5``.

    Raises
    ------
    StoreError
        If the part cannot be written; nothing of it is left.
    """
    check_layers(layers)
    path = directory / f"part-{number:06d}-{uuid4().hex}.h5"

    def blocks(layer: LayerInfo) -> Iterable[NDArray[Any]]:
        values = features[layer.name]
        return [values] if isinstance(values, np.ndarray) else values

    rows = {
        "digest": np.asarray(digests, np.uint8),
        "phash": np.asarray(phashes, "<u8"),
        **(shapes or Shapes.of(len(digests))).datasets(),
    }
    write_file(
        path,
        attributes=root_attributes(space, request or {}, source, {"seconds": seconds}),
        tables={"rows": rows},
        layers=layers,
        rows=len(digests),
        dtype=np.dtype(space.store_dtype).newbyteorder("<"),
        blocks=blocks,
    )
    return path


def part_number(path: Path) -> int | None:
    """Return the number of a part, None for any other file.

    Examples
    --------
    >>> part_number(Path("part-000007-0a1b.h5"))
    7
    >>> part_number(Path("notes.txt")) is None
    True
    """
    pieces = path.name.split("-")
    if len(pieces) != 3 or pieces[0] != "part" or not pieces[1].isdecimal() or not path.name.endswith(".h5"):
        return None
    return int(pieces[1])
