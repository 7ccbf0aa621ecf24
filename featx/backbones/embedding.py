"""A frozen network at work: batches of images in, pooled rows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featx.backbones.catalog import Backbone
from featx.backbones.engine import Compile, Engine, Pooled, fold_batchnorm
from featx.backbones.placement import DTYPES
from featx.backbones.pooling import Axes
from featx.backbones.reading import Weights
from featx.errors import BackboneError
from featx.records import LayerInfo, Pixels, Precision, Preprocess

__all__ = ["Cut", "Network"]


@dataclass(frozen=True)
class Cut:
    """Where a layer comes from: the node in the graph and its axes."""

    info: LayerInfo
    node: str
    axes: Axes


class Network:
    """A frozen network, made by :func:`featx.backbones.network.load_network`.

    Attributes
    ----------
    backbone : Backbone
    weights : Weights
        Without their state, which the network has taken over.
    layers : tuple of LayerInfo
        What :meth:`embed` gives, in the order asked for.
    precision : {"fp32", "bf16", "fp16"}
    device : str
    preprocess : Preprocess
        Of the images that :meth:`embed` expects.
    engine : Engine
        How it is run: the size of the next batch, whether it is compiled.
    categories : tuple of str or None
        Names of the classes, for :func:`featx.backbones.network.load_classifier` only.
    """

    def __init__(
        self,
        backbone: Backbone,
        weights: Weights,
        module: nn.Module,
        cuts: Sequence[Cut],
        *,
        precision: Precision,
        device: torch.device,
        preprocess: Preprocess,
        notes: Sequence[str] = (),
        categories: tuple[str, ...] | None = None,
        compile: Compile = "off",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layers = tuple(cut.info for cut in cuts)
        self.precision = precision
        self.device = str(device)
        self.preprocess = preprocess
        self.categories = categories
        self._cuts = tuple(cuts)
        self._device = device
        self._notes = tuple(notes)
        # Folded in full precision, even if the file of the weights has less, so that it is rounded once.
        folded = fold_batchnorm(module.eval().float().requires_grad_(requires_grad=False))
        placed = folded.to(device, DTYPES[precision]).to(memory_format=torch.channels_last)
        pooled = Pooled(placed, [(cut.node, cut.axes, cut.info.pool) for cut in cuts], preprocess, precision)
        self.engine = Engine(pooled.to(device).eval(), device, precision, compile)
        self._limit: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one line each."""
        return (*self._notes, *self.engine.notes)

    def embed(self, pixels: Pixels) -> dict[str, NDArray[np.float32]]:
        """Embed a batch of images.

        When the device has not enough memory, the batch is halved, down to one image, and the smaller size
        is kept for the calls that follow.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (n, H, W, 3)
            RGB, with H and W as in ``preprocess.image_size``.

        Returns
        -------
        dict of str to ndarray of float32, shape (n, dim)
            By the names of :attr:`layers`.

        Raises
        ------
        BackboneError
            If the array is of another shape or dtype, or not even one image fits into memory.
        """
        side = self.preprocess.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side, 3):
            raise BackboneError(
                f"Got images of shape {pixels.shape} and dtype {pixels.dtype}, expected "
                f"(n, {side}, {side}, 3) and uint8. Load them with this network's preprocessing."
            )
        rows = {info.name: np.empty((len(pixels), info.dim), np.float32) for info in self.layers}
        start = 0
        while start < len(pixels):
            stop = min(len(pixels), start + (self._limit or len(pixels)))
            pooled = self._try_forward(pixels[start:stop])
            if pooled is None:
                self._limit = (stop - start) // 2
                continue
            for name, values in pooled.items():
                rows[name][start:stop] = values
            start = stop
        return rows

    def _try_forward(self, pixels: Pixels) -> dict[str, NDArray[np.float32]] | None:
        """Embed, or give None if memory does not suffice but may for fewer images."""
        try:
            return self._forward(pixels)
        except torch.OutOfMemoryError as error:
            if len(pixels) == 1:
                raise BackboneError(
                    f"One image does not fit into the memory of {self.device} with {self.backbone.name!r}. "
                    "Use a smaller backbone, a smaller `--image-size`, or `--device cpu`."
                ) from error
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _forward(self, pixels: Pixels) -> dict[str, NDArray[np.float32]]:
        # Arrays from elsewhere may be read-only, or have strides that torch does not know.
        batch = np.require(pixels, requirements=["C", "W"])
        rows = self.engine(torch.from_numpy(batch).to(self._device))
        return {cut.info.name: values.cpu().numpy() for cut, values in zip(self._cuts, rows, strict=True)}
