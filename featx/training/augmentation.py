"""Random changes of training images that keep their class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from featx.errors import UnknownNameError
from featx.records import Preprocess

__all__ = ["Augment", "augmenter"]

Augment = Literal["none", "light"]


def augmenter(name: str, preprocess: Preprocess) -> Callable[[Tensor], Tensor]:
    """Give the function that changes a batch.

    ``light``: mirrored half of the time, rotated by up to 10°, shifted by up to 5 % of the side,
    then 70 to 100 % of the area at an aspect of 9:10 to 10:9 is cropped and scaled up again. What
    comes in from outside has the mean colour of the preprocessing.

    Parameters
    ----------
    name : {"none", "light"}
    preprocess : Preprocess

    Returns
    -------
    callable
        From (n, 3, H, W) uint8 to the same; each image is changed by itself, with torch's global
        generator.

    Raises
    ------
    UnknownNameError
        If there is no augmentation of that name.

    Source
    ------
    torchvision.transforms.v2.

    Examples
    --------
    >>> record = Preprocess("squash", 8, 8, "bilinear", (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    >>> augmenter("light", record)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape
    torch.Size([2, 3, 8, 8])
    """
    if name not in get_args(Augment):
        raise UnknownNameError("augmentation", name, get_args(Augment))
    if name == "none":
        return lambda images: images
    from torchvision.transforms import v2

    change = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(
                degrees=10,
                translate=(0.05, 0.05),
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=[round(255 * channel) for channel in preprocess.mean],
            ),
            v2.RandomResizedCrop(
                preprocess.image_size, scale=(0.7, 1.0), ratio=(9 / 10, 10 / 9), antialias=True
            ),
        ]
    )
    # One by one: a transform of a batch draws once for all of it.
    return lambda images: torch.stack([change(image) for image in images])
