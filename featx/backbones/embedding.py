"""A frozen network at work: batches of images in, pooled rows out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featx.backbones.catalog import Backbone
from featx.backbones.engine import Compile, Engine
from featx.backbones.frozen import Pooled, fold_batchnorm
from featx.backbones.lanes import Cuda, Lanes
from featx.backbones.placement import DTYPES
from featx.backbones.pooling import Axes
from featx.backbones.reading import Weights
from featx.errors import BackboneError
from featx.records import LayerInfo, Pixels, Precision, PrecisionCheck, Preprocess

__all__ = ["COSINE_MEDIAN", "COSINE_WORST", "Cut", "Network"]

COSINE_MEDIAN, COSINE_WORST = 0.998, 0.995
"""What rows of less precision must reach against fp32.

On 64 photos in bf16, SqueezeNet's worst row has 0.9999; that of MobileNetV2, with weights that were
quantised once, 0.9975, and its median row 0.9989. Both leave the accuracy of heads as it is.
"""


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
        keep_exact: bool = False,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layers = tuple(cut.info for cut in cuts)
        self.device = str(device)
        self.preprocess = preprocess
        self.categories = categories
        self._cuts = tuple(cuts)
        self._device = device
        self._notes = list(notes)
        self._compile = compile
        # Folded in full precision, even if the file of the weights has less, so that it is rounded once.
        folded = fold_batchnorm(module.eval().float().requires_grad_(requires_grad=False))
        self._exact = copy.deepcopy(folded) if keep_exact and precision != "fp32" else None
        self._limit: int | None = None
        self._set_up(folded, precision)

    def _set_up(self, folded: nn.Module, precision: Precision) -> None:
        self.precision = precision
        self.engine = Engine(self._pooled(folded, precision), self._device, precision, self._compile)
        self._lanes = Lanes(Cuda(self._device), self.engine) if self._device.type == "cuda" else None

    def _pooled(self, folded: nn.Module, precision: Precision) -> Pooled:
        placed = folded.to(self._device, DTYPES[precision]).to(memory_format=torch.channels_last)
        cuts = [(cut.node, cut.axes, cut.info.pool) for cut in self._cuts]
        return Pooled(placed, cuts, self.preprocess, precision).to(self._device).eval()

    def check_precision(self, pixels: Pixels, *, may_change: bool = True) -> PrecisionCheck | None:
        """Compare a few images with fp32, and go on in fp32 if the network does not bear less.

        The fp32 network is given up, whatever comes out.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (n, H, W, 3)
        may_change : bool, default=True
            False only compares.

        Returns
        -------
        PrecisionCheck or None
            None where there is nothing to compare: the network was made in fp32, or without
            ``keep_exact``, or was compared before.
        """
        exact, self._exact = self._exact, None
        if exact is None or not len(pixels):
            return None
        rows = self.embed(pixels)
        pooled = self._pooled(exact, "fp32")
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
            values = [pooled(images[place : place + 1]) for place in range(len(pixels))]
        cosines = [
            _cosines(rows[cut.info.name], np.vstack([row[place].cpu().numpy() for row in values]))
            for place, cut in enumerate(self._cuts)
        ]
        check = PrecisionCheck(
            self.precision,
            len(pixels),
            min(float(np.median(each)) for each in cosines),
            min(float(each.min()) for each in cosines),
        )
        if may_change and not (check.cosine_median >= COSINE_MEDIAN and check.cosine_worst >= COSINE_WORST):
            self._notes.append(
                f"in {check.precision} the embeddings would be too far from fp32 (cosine "
                f"{check.cosine_worst:.4f} for the worst of {check.images} images): they are computed in fp32"
            )
            self._set_up(exact, "fp32")
        return check

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one line each."""
        return (*self._notes, *self.engine.notes)

    @property
    def lanes(self) -> int:
        """Batches that the device can have at once."""
        return 1 if self._lanes is None else len(self._lanes)

    @contextmanager
    def on_streams(self, count: int) -> Iterator[None]:
        """Let ``count`` threads call :meth:`embed` in the block, and restore torch's own threads after it."""
        before = torch.get_num_threads()
        self.engine.streams = count
        try:
            yield
        finally:
            self.engine.finish()
            torch.set_num_threads(before)

    def use_one_core(self) -> None:
        """Let the calling thread compute on one core: there is a thread for each of the others."""
        torch.set_num_threads(1)

    def begin(self, pixels: Pixels) -> Callable[[], dict[str, NDArray[np.float32]]]:
        """Start a batch on a GPU, and give what waits for its rows; elsewhere it is computed at once.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (n, H, W, 3)

        Returns
        -------
        callable
            Gives what :meth:`embed` would. At most :attr:`lanes` may be waited for.
        """
        self._check(pixels)
        if self._lanes is None or (self._limit or len(pixels)) < len(pixels):
            return partial(dict, self.embed(pixels))
        try:
            fetch = self._lanes.begin(pixels)
        except torch.OutOfMemoryError:
            self._lanes.wait()  # what the others hold may be enough
            self._free()
            rows = self.embed(pixels)
            self.engine.use_batch_size(self._limit or max(1, len(pixels) // 2))
            return partial(dict, rows)
        return lambda: {cut.info.name: rows for cut, rows in zip(self._cuts, fetch(), strict=True)}

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
        self._check(pixels)
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

    def _check(self, pixels: Pixels) -> None:
        side = self.preprocess.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side, 3):
            raise BackboneError(
                f"Got images of shape {pixels.shape} and dtype {pixels.dtype}, expected "
                f"(n, {side}, {side}, 3) and uint8. Load them with this network's preprocessing."
            )

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
        self._free()
        return None

    def _free(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, pixels: Pixels) -> dict[str, NDArray[np.float32]]:
        # Arrays from elsewhere may be read-only, or have strides that torch does not know.
        batch = np.require(pixels, requirements=["C", "W"])
        rows = self.engine(torch.from_numpy(batch).to(self._device))
        return {cut.info.name: values.cpu().numpy() for cut, values in zip(self._cuts, rows, strict=True)}


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each pair of rows; 1 where both are zero, 0 where one is, or is not finite."""
    one, other = a.astype(np.float64), b.astype(np.float64)
    norms: NDArray[np.float64] = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    both = ~one.any(axis=1) & ~other.any(axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    products = np.einsum("ij,ij->i", one[usable], other[usable])
    cosines: NDArray[np.float64] = np.where(both, 1.0, 0.0)
    cosines[usable] = products / norms[usable]
    return cosines
