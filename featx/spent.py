"""Where the time of an extraction went, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from featx.records import Speed

__all__ = ["Spent"]

FEWEST = 32
"""Images below which a rate says nothing."""

SHORTEST = 0.5
"""Seconds below which most of the time is that of starting threads."""

GOOD_SHARE = 0.85
"""From this share of the bound on, the bound itself is what holds it back."""


@dataclass
class Spent:
    """Seconds, added up over the threads.

    Parameters
    ----------
    images : int
        Images that were decoded and embedded.
    decoding, computing : float
        Processor time in the decoder and in the network; beside an accelerator, ``computing`` is the wall
        time in which it did not wait for the decoder.
    reading : float
        Time in which threads waited for files.
    passing : float
        Time for images that needed no network: known already, or bad.
    wall : float
        From the first image to the last.
    threads : int
        That decoded, and computed if ``shares_cores``.
    shares_cores : bool
        Whether the network computes on the cores that decode.

    Examples
    --------
    >>> spent = Spent(images=1000, decoding=2.0, computing=18.0, reading=0.1, wall=10.5, threads=2)
    >>> speed = spent.speed()
    >>> round(speed.decode_per_second), round(speed.network_per_second), round(speed.bound_per_second)
    (1000, 111, 100)
    >>> speed.sentence
    'The network held it back (90% of the time): use a smaller backbone, an earlier --layer, or a GPU.'
    """

    images: int = 0
    decoding: float = 0.0
    computing: float = 0.0
    reading: float = 0.0
    passing: float = 0.0
    wall: float = 0.0
    threads: int = 1
    shares_cores: bool = True
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(
        self,
        *,
        images: int = 0,
        decoding: float = 0.0,
        computing: float = 0.0,
        reading: float = 0.0,
        passing: float = 0.0,
    ) -> None:
        """Add to the sums, from any thread."""
        with self._lock:
            self.images += images
            self.decoding += decoding
            self.computing += computing
            self.reading += reading
            self.passing += passing

    def speed(self) -> Speed | None:
        """Give the rates; None for fewer than :data:`FEWEST` images, or :data:`SHORTEST` seconds."""
        # What passed by is no work on those that were embedded; an accelerator computed beside it.
        least = 0.0 if self.shares_cores else self.computing
        wall = max(least, self.wall - self.passing / self.threads)
        if self.images < FEWEST or wall < SHORTEST or not min(self.decoding, self.computing) > 0:
            return None
        decode = self.images * self.threads / self.decoding
        network = self.images / self.computing * (self.threads if self.shares_cores else 1)
        bound = 1 / (1 / decode + 1 / network) if self.shares_cores else min(decode, network)
        rate = self.images / wall
        return Speed(rate, decode, network, bound, self._sentence(rate / bound, decode < network, wall))

    def _sentence(self, share: float, decoder_is_slower: bool, wall: float) -> str:
        if share < GOOD_SHARE:
            lost = 1 - share
            if self.reading > lost / 2 * self.threads * wall:
                return (
                    f"Waiting for files held it back ({lost:.0%} of the time): copy the images to a faster "
                    "disk."
                )
            return (
                f"{lost:.0%} of the time was lost to waiting, for other programs or for writing: stop what "
                "else runs, or choose a faster disk for the output."
            )
        if decoder_is_slower:
            return (
                f"Decoding held it back ({self._part(self.decoding / self.threads, wall)}): use more cores, "
                "--fast-decode for large JPEGs, or store the images smaller."
            )
        gpu = ", or a GPU" if self.shares_cores else ""
        smaller = (
            "a smaller backbone, an earlier --layer" if gpu else "a smaller backbone or an earlier --layer"
        )
        computing = self.computing / (self.threads if self.shares_cores else 1)
        return f"The network held it back ({self._part(computing, wall)}): use {smaller}{gpu}."

    def _part(self, seconds: float, wall: float) -> str:
        whole = (self.decoding + self.computing) / self.threads if self.shares_cores else wall
        return f"{min(1.0, seconds / whole):.0%} of the time"
