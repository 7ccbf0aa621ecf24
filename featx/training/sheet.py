"""A picture of augmented images, so that a person can see whether their classes are still there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from featx.files import publish
from featx.records import Pixels
from featx.training.augmentation import Augmenter

__all__ = ["SHEET_FILE", "write_sheet"]

SHEET_FILE = "augmented.png"

ROWS, CHANGED, SIDE = 8, 7, 112
"""Images shown, how often each is changed, and their size in pixels."""


def write_sheet(path: Path, pixels: Pixels, rows: NDArray[np.intp], augment: Augmenter) -> None:
    """Write a PNG: an image in each row, as it is and then as the first epochs see it.

    Parameters
    ----------
    path : Path
    pixels : ndarray of uint8, (N, side, side, 3)
    rows : ndarray of int
        Images that are trained on; some at equal distances are shown.
    augment : Augmenter

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    from PIL import Image
    from torchvision.utils import make_grid

    shown = rows[np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).round().astype(np.intp)]
    images = torch.from_numpy(pixels[shown]).permute(0, 3, 1, 2)
    columns = [images, *(augment(images, epoch=epoch, rows=shown) for epoch in range(CHANGED))]
    cells = torch.stack(columns, dim=1).flatten(0, 1)
    small = torch.nn.functional.interpolate(cells.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
    grid = make_grid(small.round().clamp(0, 255).to(torch.uint8), nrow=len(columns), pad_value=255)
    buffer = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    with publish(path) as file:
        file.write(buffer.getbuffer())
