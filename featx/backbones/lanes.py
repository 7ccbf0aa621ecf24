"""Several batches under way on a GPU at once: one comes, one is computed, one goes.

Each lane is a CUDA stream with pinned memory of its own, so that copying in both directions runs beside the
computing of another lane.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featx.records import Pixels

__all__ = ["LANES", "Cuda", "Device", "Lanes"]

LANES = 3
"""Batches under way; with more, nothing is gained, because the network is the longest of the three steps."""

Rows = tuple[NDArray[np.float32], ...]


class Device(Protocol):
    """What lanes need of a device that works beside the processor."""

    def stream(self) -> Any:
        """Give a queue of work."""

    def using(self, stream: Any) -> AbstractContextManager[object]:
        """Put what is asked for inside the block into a queue."""

    def done(self, stream: Any) -> Callable[[], None]:
        """Mark this place of a queue; gives what waits until the device has come to it."""

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Give host memory that the device can reach by itself."""

    def upload(self, host: Tensor) -> Tensor:
        """Copy to the device, when its turn has come."""

    def download(self, rows: Tensor, host: Tensor) -> None:
        """Copy from the device, when its turn has come."""


class Cuda:
    """CUDA as a :class:`Device`.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stream(self) -> torch.cuda.Stream:
        """Give a new stream."""
        stream: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return stream

    def using(self, stream: torch.cuda.Stream) -> AbstractContextManager[object]:
        """Make a stream the current one."""
        return torch.cuda.stream(stream)

    def done(self, stream: torch.cuda.Stream) -> Callable[[], None]:
        """Record an event."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(stream)
        return event.synchronize

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Allocate page-locked memory."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def upload(self, host: Tensor) -> Tensor:
        """Copy to the device without waiting."""
        return host.to(self._device, non_blocking=True)

    def download(self, rows: Tensor, host: Tensor) -> None:
        """Copy from the device without waiting."""
        host.copy_(rows, non_blocking=True)


class Lane:
    """One stream; its memory is used again once the batch before is fetched."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream = device.stream()
        self._images = torch.empty(0, dtype=torch.uint8)
        self._rows: list[Tensor] = []
        self._wait: Callable[[], None] | None = None

    def begin(self, pixels: Pixels, run: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[], Rows]:
        """Start a batch; gives what waits for its rows, which must be called before the next begins."""
        self.wait()  # its memory may still be read or written
        count = len(pixels)
        if len(self._images) < count or self._images.shape[1:] != pixels.shape[1:]:
            self._images = self._device.pinned(pixels.shape, torch.uint8)
        self._images.numpy()[:count] = pixels
        with self._device.using(self._stream):
            rows = run(self._device.upload(self._images[:count]))
            if not self._rows or len(self._rows[0]) < count:  # their widths never change
                self._rows = [self._device.pinned(each.shape, torch.float32) for each in rows]
            hosts = [host[:count] for host in self._rows]
            for each, host in zip(rows, hosts, strict=True):
                self._device.download(each, host)
            wait = self._wait = self._device.done(self._stream)

        def fetch() -> Rows:
            wait()
            return tuple(host.numpy().copy() for host in hosts)

        return fetch

    def wait(self) -> None:
        """Wait for the batch that is under way, if there is one."""
        if self._wait is not None:
            self._wait()


class Lanes:
    """Lanes in turn.

    Parameters
    ----------
    device : Device
    run : callable
        Gives the rows of a batch on the device.
    count : int
        Batches under way at once; a batch must be fetched before so many others have begun.
    """

    def __init__(
        self, device: Device, run: Callable[[Tensor], tuple[Tensor, ...]], count: int = LANES
    ) -> None:
        self._lanes = [Lane(device) for _ in range(count)]
        self._next = itertools.cycle(self._lanes)
        self._run = run

    def __len__(self) -> int:
        return len(self._lanes)

    def begin(self, pixels: Pixels) -> Callable[[], Rows]:
        """Start a batch of images (n, H, W, 3), uint8; gives what waits for its rows."""
        return next(self._next).begin(pixels, self._run)

    def wait(self) -> None:
        """Wait for all batches under way; their rows can be fetched still."""
        for lane in self._lanes:
            lane.wait()
