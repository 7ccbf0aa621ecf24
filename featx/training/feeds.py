"""What a model is trained on, batch by batch: images, or what the frozen part has made of them once."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featx.records import Pixels
from featx.training.augmentation import Augmenter
from featx.training.classifier import Classifier
from featx.training.pixels import MEMORY_SHARE, memory_bytes

__all__ = ["EmbeddingFeed", "Feed", "ImageFeed", "Rows", "TrunkFeed", "make_feed"]

Rows = NDArray[np.intp]


class Feed(Protocol):
    """Scores of images with gradients."""

    def scores(self, model: Classifier, rows: Rows, epoch: int | None) -> Tensor:
        """Score images.

        Parameters
        ----------
        model : Classifier
        rows : ndarray of int, (n,)
        epoch : int or None
            What the augmentation depends on; None for the images as they are.

        Returns
        -------
        Tensor of float32, (n, n_classes)
        """


class ImageFeed:
    """Images through all of the network.

    Parameters
    ----------
    pixels : ndarray of uint8, (N, side, side, 3)
    augment : Augmenter, optional
    """

    def __init__(self, pixels: Pixels, augment: Augmenter | None = None) -> None:
        self.pixels = pixels
        self.augment = augment

    def images(self, model: Classifier, rows: Rows, epoch: int | None) -> Tensor:
        """Give the images of a batch, (n, 3, side, side), uint8, on the model's device."""
        # Indexing copies, so that the tensor may be written to wherever the pixels lie.
        images = torch.from_numpy(self.pixels[rows]).to(model.network.device).permute(0, 3, 1, 2)
        if self.augment is None or epoch is None:
            return images
        return self.augment(images, epoch=epoch, rows=rows)

    def scores(self, model: Classifier, rows: Rows, epoch: int | None) -> Tensor:
        """See :class:`Feed`."""
        return model(self.images(model, rows, epoch))  # type: ignore[no-any-return]


class TrunkFeed:
    """What the frozen trunk makes of images that are not augmented, computed once.

    Parameters
    ----------
    values : list of Tensor, each (N, …)
    """

    def __init__(self, values: list[Tensor]) -> None:
        self.values = values

    def scores(self, model: Classifier, rows: Rows, epoch: int | None) -> Tensor:  # noqa: ARG002
        """See :class:`Feed`."""
        batch = [value[torch.from_numpy(rows).to(value.device)] for value in self.values]
        return model.classifier(model.network.top(*(part.to(model.network.device) for part in batch)))  # type: ignore[no-any-return]


class EmbeddingFeed:
    """Pooled rows of images that are not augmented, for the classifier alone.

    Parameters
    ----------
    embeddings : ndarray of float32, (N, dim)
    """

    def __init__(self, embeddings: NDArray[np.float32]) -> None:
        self.embeddings = embeddings

    def scores(self, model: Classifier, rows: Rows, epoch: int | None) -> Tensor:  # noqa: ARG002
        """See :class:`Feed`."""
        return model.classifier(torch.from_numpy(self.embeddings[rows]).to(model.network.device))  # type: ignore[no-any-return]


def make_feed(
    model: Classifier,
    pixels: Pixels,
    augment: Augmenter,
    batch_size: int,
) -> Feed:
    """Compute the frozen trunk once, where that is possible and fits into memory; else feed images.

    Parameters
    ----------
    model : Classifier
    pixels : ndarray of uint8, (N, side, side, 3)
    augment : Augmenter
        With anything but ``none`` the trunk sees other images each time.
    batch_size : int
    """
    images = ImageFeed(pixels, augment)
    network = model.network
    if augment.name != "none" or not network.has_trunk:
        return images
    with torch.no_grad():
        first, second = (
            network.trunk(images.images(model, np.arange(n) % len(pixels), None)) for n in (2, 3)
        )
    # Sizes, or tensors that do not belong to one image each, cannot be kept image by image.
    if not all(isinstance(value, Tensor) and value.ndim > 0 and len(value) == 2 for value in first):
        return images
    if any(len(value) != 3 for value in second):
        return images
    needed = sum(value[0].nbytes for value in first) * len(pixels)
    total = memory_bytes()
    if total is not None and needed + pixels.nbytes > MEMORY_SHARE * total:
        return images
    values = [
        torch.empty((len(pixels), *value.shape[1:]), dtype=value.dtype, device="cpu") for value in first
    ]
    for start in range(0, len(pixels), batch_size):
        rows = np.arange(start, min(start + batch_size, len(pixels)))
        for kept, value in zip(values, network.trunk(images.images(model, rows, None)), strict=True):
            kept[start : start + len(rows)] = value.cpu()
    return TrunkFeed(values)
