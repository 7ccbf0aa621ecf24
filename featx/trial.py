"""A few images before the others: what ``auto`` stands for is seen on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from featx.images.loading import Loader
from featx.images.sources import Source
from featx.records import ImageRecord, Pixels, PrecisionCheck, StoreDtype
from featx.store.rounding import share_lost

if TYPE_CHECKING:
    from featx.backbones.network import Network

__all__ = ["Trial"]

IMAGES = 8
"""Images that are tried, from all over the source."""

LOSS = 0.002
"""Relative error of a row that rounding to float16 may cost: 2⁻¹¹ for a normal number, with some room."""


class Trial:
    """Images on which a choice is tried.

    Parameters
    ----------
    network : Network
    source : Source
    records : sequence of ImageRecord
        Those that cannot be used are passed over.
    decoding : str
        One of :data:`featx.images.decoding.POLICIES`.
    """

    def __init__(
        self, network: Network, source: Source, records: Sequence[ImageRecord], decoding: str
    ) -> None:
        self._network = network
        self._records = records
        self._loader = Loader(source, network.preprocess, decoding=decoding)

    @cached_property
    def _pixels(self) -> Pixels:
        count = len(self._records)
        places = np.linspace(0, count - 1, min(IMAGES, count)).round().astype(int)
        loaded = [self._loader(int(place), self._records[place]).pixels for place in places]
        side = self._network.preprocess.image_size
        usable = [pixels for pixels in loaded if pixels is not None]
        return np.stack(usable) if usable else np.zeros((0, side, side, 3), np.uint8)

    def check_precision(self, *, may_change: bool = True) -> PrecisionCheck | None:
        """Compare the network with itself in fp32, to which it changes where the difference is too large."""
        return self._network.check_precision(self._pixels, may_change=may_change)

    def choose_store_dtype(self) -> StoreDtype:
        """Choose float16 where it holds the embeddings, float32 where it does not.

        A network with random weights easily gives values of 1e-9, which float16 would store as zeros.
        """
        rows = self._network.embed(self._pixels).values() if len(self._pixels) else ()
        lost = [share_lost(each, np.float16).max(initial=0) for each in rows]
        return "float16" if max(lost, default=0) < LOSS else "float32"
