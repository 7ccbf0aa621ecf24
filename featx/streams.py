"""From images to batches of embeddings, with every core at work.

On a CPU each of several threads reads, decodes and embeds batches of its own on one core: whatever there is
to do, no core waits for another. Beside an accelerator threads decode ahead of it, and several batches are
under way at once.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import Queue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featx.images.loading import LoadedImage, Loader, load_ahead
from featx.records import ImageRecord
from featx.spent import Spent

if TYPE_CHECKING:
    from featx.backbones.network import Network

__all__ = ["EmbeddedBatch", "beside_device", "on_cores"]

REPORT_EVERY = 256
"""Images without pixels after which a batch is given though it is not full: they need no network."""

WAITING_BATCHES = 2
"""Batches of each thread that may wait to be written."""

MOST_THREADS = 4
"""Threads for each core, at the most, where they wait for files most of the time."""

LOOK_EVERY = 1.0
"""Seconds after which it is seen whether they do."""

WAITING_SHARE = 0.2
"""Share of the time that threads wait for files from which another one is started."""


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """What one batch gave.

    Parameters
    ----------
    indices : list of int, k
        Positions in the records given to :func:`featx.embedding.embed`.
    digests : ndarray of uint8, (k, 32)
    phashes : ndarray of uint64, (k,)
    widths, heights : ndarray of uint32, (k,)
        Of the upright images in their full size, in pixels.
    modes : ndarray of S8, (k,)
        Pillow's names of what the files hold.
    features : dict of layer name to ndarray of float32, (k, dim)
    others : list of LoadedImage
        Images that came by without pixels since the last batch: not claimed, or with a reason.
    """

    indices: list[int]
    digests: NDArray[np.uint8]
    phashes: NDArray[np.uint64]
    widths: NDArray[np.uint32]
    heights: NDArray[np.uint32]
    modes: NDArray[np.bytes_]
    features: dict[str, NDArray[np.float32]]
    others: list[LoadedImage]


class _Timed:
    """A loader that says where its time went."""

    def __init__(self, loader: Loader, spent: Spent) -> None:
        self._loader, self._spent = loader, spent

    def __call__(self, index: int, record: ImageRecord) -> LoadedImage:
        wall, processor = time.perf_counter(), time.thread_time()
        item = self._loader(index, record)
        passed, used = time.perf_counter() - wall, time.thread_time() - processor
        if item.prepared is not None:
            # In this thread, or in a process that decoded for it.
            self._spent.add(images=1, decoding=used + item.prepared.seconds, reading=item.waited)
        else:
            self._spent.add(passing=passed)
        return item


class _Progress:
    """Tells the network how many images are still to come."""

    def __init__(self, network: Network, count: int) -> None:
        self._engine, self._count = network.engine, count
        self._seen = self._claimed = 0

    def note(self, item: LoadedImage) -> None:
        self._seen += 1
        self._claimed += item.pixels is not None
        # As many of the rest as of those seen will have to be computed.
        self._engine.remaining = (self._count - self._seen) * self._claimed // self._seen


def on_cores(
    network: Network,
    loader: Loader,
    records: Sequence[ImageRecord],
    *,
    threads: int,
    batch_size: int | None,
    spent: Spent,
) -> Iterator[EmbeddedBatch]:
    """Read, decode and embed in threads, each on one core; batches come in the order they are done.

    Where threads wait for files, as on a disk far away, more are started, so that the cores have work.

    Parameters
    ----------
    network : Network
        On the CPU.
    loader : Loader
    records : sequence of ImageRecord
    threads : int
        At the beginning.
    batch_size : int or None
        None for what the network finds to be fastest.
    spent : Spent
        To be added to.
    """
    waiting: Queue[EmbeddedBatch | BaseException | None] = Queue(WAITING_BATCHES * threads)
    rest, lock, stopped = iter(enumerate(records)), Lock(), Event()
    progress, timed = _Progress(network, len(records)), _Timed(loader, spent)
    # Few images are shared out evenly.
    share = -(-len(records) // threads)

    def loaded() -> Iterator[LoadedImage]:
        while not stopped.is_set():
            with lock:
                index, record = next(rest, (-1, None))
            if record is None:
                break
            item = timed(index, record)
            with lock:
                progress.note(item)
            yield item

    def size() -> int:
        return batch_size or min(network.engine.batch_size, share)

    def work() -> None:
        try:
            network.use_one_core()
            for ready, others in _gathered(loaded(), size):
                if stopped.is_set():
                    break
                waiting.put(_computed(network, ready, others, spent))
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the batches are taken
            waiting.put(error)

    workers: list[Thread] = []

    def start() -> None:
        workers.append(Thread(target=work, name=f"featx-{len(workers)}", daemon=True))
        workers[-1].start()

    with network.on_streams(threads):
        try:
            for _ in range(threads):
                start()
            ended, looked, waited = 0, time.perf_counter(), spent.reading
            while ended < len(workers):
                batch = waiting.get()
                if isinstance(batch, BaseException):
                    raise batch
                if batch is None:
                    ended += 1
                    continue
                yield batch
                passed = time.perf_counter() - looked
                if passed < LOOK_EVERY or ended or len(workers) >= MOST_THREADS * threads:
                    continue
                if spent.reading - waited > WAITING_SHARE * passed * len(workers):
                    start()
                looked, waited = time.perf_counter(), spent.reading
        finally:
            stopped.set()
            network.engine.cancel()  # a thread may wait for a compilation
            while alive := [worker for worker in workers if worker.is_alive()]:
                while not waiting.empty():  # one that waits for room would never end
                    waiting.get()
                for worker in alive:
                    worker.join(0.01)


def beside_device(
    network: Network,
    loader: Loader,
    records: Sequence[ImageRecord],
    *,
    threads: int,
    batch_size: int | None,
    spent: Spent,
) -> Iterator[EmbeddedBatch]:
    """Decode in threads ahead of an accelerator that has several batches at once; in order.

    Parameters
    ----------
    network, loader, records, threads, batch_size, spent
        As for :func:`on_cores`.
    """
    under_way: deque[Callable[[], EmbeddedBatch]] = deque()
    progress = _Progress(network, len(records))
    image_bytes = 3 * network.preprocess.image_size**2
    ahead = load_ahead(_Timed(loader, spent), records, workers=threads, image_bytes=image_bytes)
    started, waited = time.perf_counter(), 0.0

    def loaded() -> Iterator[LoadedImage]:
        nonlocal waited
        while True:
            asked = time.perf_counter()
            item = next(ahead, None)
            waited += time.perf_counter() - asked
            if item is None:
                break
            progress.note(item)
            yield item

    def begin(ready: list[LoadedImage], others: list[LoadedImage]) -> Callable[[], EmbeddedBatch]:
        finish = network.begin(_stacked(ready)) if ready else dict
        return lambda: _batch(network, ready, others, finish())

    with network.on_streams(1):
        for ready, others in _gathered(loaded(), lambda: batch_size or network.engine.batch_size):
            under_way.append(begin(ready, others))
            if len(under_way) >= network.lanes:
                yield under_way.popleft()()
        while under_way:
            yield under_way.popleft()()
    spent.add(computing=time.perf_counter() - started - waited)


def _gathered(
    items: Iterable[LoadedImage], size: Callable[[], int]
) -> Iterator[tuple[list[LoadedImage], list[LoadedImage]]]:
    """Gather images with pixels until there are ``size``, and those without that came between them."""
    ready: list[LoadedImage] = []
    others: list[LoadedImage] = []
    for item in items:
        (others if item.pixels is None else ready).append(item)
        if len(ready) >= size() or len(others) == REPORT_EVERY:
            yield ready, others
            ready, others = [], []
    if ready or others:
        yield ready, others


def _computed(
    network: Network, ready: list[LoadedImage], others: list[LoadedImage], spent: Spent
) -> EmbeddedBatch:
    processor = time.thread_time()
    features = network.embed(_stacked(ready)) if ready else {}
    spent.add(computing=time.thread_time() - processor)
    return _batch(network, ready, others, features)


def _stacked(items: Sequence[LoadedImage]) -> NDArray[np.uint8]:
    return np.stack([item.pixels for item in items if item.pixels is not None])


def _batch(
    network: Network,
    ready: list[LoadedImage],
    others: list[LoadedImage],
    features: dict[str, NDArray[np.float32]],
) -> EmbeddedBatch:
    """Put a batch together; images whose embedding is not finite come among ``others``."""
    finite = np.all([np.isfinite(rows).all(axis=1) for rows in features.values()], axis=0)
    if not np.all(finite):
        reason = f"the embedding is not finite (NaN or Inf, computed in {network.precision})"
        others = others + [
            dataclasses.replace(item, prepared=None, reason=reason)
            for item, good in zip(ready, finite, strict=True)
            if not good
        ]
        ready = [item for item, good in zip(ready, finite, strict=True) if good]
        features = {name: rows[finite] for name, rows in features.items()}
    prepared = [item.prepared for item in ready if item.prepared is not None]
    return EmbeddedBatch(
        [item.index for item in ready],
        np.frombuffer(b"".join(item.digest for item in ready), np.uint8).reshape(-1, 32),
        np.array([image.phash for image in prepared], np.uint64),
        np.array([image.width for image in prepared], np.uint32),
        np.array([image.height for image in prepared], np.uint32),
        np.array([image.mode for image in prepared], "S8"),
        features,
        others,
    )
