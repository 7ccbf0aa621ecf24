"""Decoder, network and both of them, timed on the same images.

What is decoded and how is that of :mod:`featx.images.loading` and :mod:`featx.embedding`: the code that is
timed is the code that runs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from queue import Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Literal

import numpy as np

from featx.embedding import EmbeddedBatch, embed
from featx.errors import FeatxError, SourceError
from featx.images.decoding import POLICY
from featx.images.loading import load
from featx.images.sources import Source
from featx.records import ImageRecord, Pixels, escape_name

if TYPE_CHECKING:
    from featx.backbones.network import Network

RUN_IN = 0.25
"""Share of the time before anything is counted; see :func:`rate_of`."""


class Feed:
    """The same images over and over, through the decoder, through the network, or through both.

    Parameters
    ----------
    network : Network
    source : Source
    records : sequence of ImageRecord
        Those that cannot be used are left out.
    batch_size : int or "auto"
        Images per forward pass.
    workers : int
        Threads that decode, where all of them do.
    decoding : str
        One of :data:`featx.images.decoding.POLICIES`.

    Attributes
    ----------
    records : list of ImageRecord
    skipped : int

    Raises
    ------
    SourceError
        If no image can be used.
    """

    def __init__(
        self,
        network: Network,
        source: Source,
        records: Sequence[ImageRecord],
        batch_size: int | Literal["auto"],
        workers: int,
        decoding: str = POLICY,
    ) -> None:
        if workers < 1:
            raise FeatxError(f"{workers} workers were given; expected at least 1, or auto.")
        self._network = network
        self._source = source
        self._batch_size = batch_size
        self._workers = workers
        self._decoding = decoding
        self._pixels: list[Pixels] = []
        self._decoded_per_second = 0.0
        self.records: list[ImageRecord] = []
        reason = ""
        for item in load(source, records, network.preprocess, workers=workers, decoding=decoding):
            if item.pixels is None:
                reason = reason or f"{escape_name(records[item.index].name)}: {item.reason}"
            else:
                self._pixels.append(item.pixels)
                self.records.append(records[item.index])
        self.skipped = len(records) - len(self.records)
        if not self.records:
            raise SourceError(f"None of {len(records)} images can be used ({reason}); give other images.")

    def warm_up(self, seconds: float) -> int:
        """Run everything once; gives the number of images in a batch."""
        self._decoded_per_second = self.decode(self._workers, seconds)
        self.end_to_end(2 * seconds)
        return self._network.engine.batch_size

    def decode(self, workers: int, seconds: float) -> float:
        """Decode only; images per second."""
        endless = itertools.cycle(self.records)
        items = load(
            self._source, endless, self._network.preprocess, workers=workers, decoding=self._decoding
        )
        return rate_of((1 for _ in items), seconds)

    def network_alone(self, size: int, seconds: float) -> float:
        """Run the network only, on decoded batches of ``size``; images per second."""
        count = len(self._pixels)
        starts = range(0, max(size, min(count, 8 * size)), size)
        batches = [np.stack([self._pixels[(start + i) % count] for i in range(size)]) for start in starts]

        threads = self._workers if self._network.device == "cpu" else 1
        counts: Queue[int | BaseException] = Queue()
        stopped = Event()

        def work() -> None:
            try:
                if self._network.device == "cpu":
                    self._network.use_one_core()
                for batch in itertools.cycle(batches):
                    if stopped.is_set():
                        return
                    self._network.embed(batch)
                    counts.put(size)
            except BaseException as error:  # noqa: BLE001 - raised where the counts are taken
                counts.put(error)

        def finished() -> Iterator[int]:
            while True:
                count = counts.get()
                if isinstance(count, BaseException):
                    raise count
                yield count

        workers = [Thread(target=work, daemon=True) for _ in range(threads)]
        with self._network.on_streams(threads):
            for worker in workers:
                worker.start()
            try:
                return rate_of(finished(), seconds)
            finally:
                stopped.set()
                for worker in workers:
                    worker.join()

    def end_to_end(self, seconds: float) -> float:
        """Decode and run the network, as ``extract`` does; images per second."""
        return rate_of((len(batch.indices) + len(batch.others) for batch in self._embed(seconds)), seconds)

    def _embed(self, seconds: float) -> Iterator[EmbeddedBatch]:
        """Embed without end, in runs so long that none ends within the time."""
        largest_batch = 1024 if self._batch_size == "auto" else self._batch_size
        count = 4 * largest_batch + math.ceil(2 * self._decoded_per_second * seconds)
        run = list(itertools.islice(itertools.cycle(self.records), count))
        while True:
            yield from embed(
                self._network,
                self._source,
                run,
                batch_size=self._batch_size,
                workers=self._workers,
                decoding=self._decoding,
            )


def rate_of(counts: Iterable[int], seconds: float) -> float:
    """Give the images per second of a stream, once it runs.

    The queues are filled first (:data:`RUN_IN`): decoding ahead of the network would otherwise be work that
    counts for no image.

    Parameters
    ----------
    counts : iterable of int
        Images that were finished with each step.
    seconds : float
        Time to take; two steps are taken at least.

    Returns
    -------
    float
        NaN if the stream ended before anything was counted.

    Examples
    --------
    >>> rate_of(itertools.repeat(16), seconds=0.001) > 0
    True
    """
    started = begin = now = time.perf_counter()
    done, running = 0, False
    for count in counts:
        now = time.perf_counter()
        if running:
            done += count
            if now - started >= seconds:
                break
        elif now - started >= RUN_IN * seconds:
            begin, running = now, True
    return done / (now - begin) if done else math.nan
