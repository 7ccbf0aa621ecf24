"""How a frozen network is run: in batches of the size that is fastest, compiled where that repays.

On a CPU each of several threads computes batches of its own on one core: none waits for another at the end
of a layer, and decoding beside it disturbs nobody. What repays is measured on the images that have to be
embedded anyway, and remembered.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from featx.backbones.compiled import Compiled
from featx.backbones.compiling import Compilation, KilledError, compile_in_place, find_compiler
from featx.backbones.frozen import Pooled
from featx.backbones.remembered import Remembered, Way
from featx.records import Precision

__all__ = ["Compile", "Engine"]

Compile = Literal["auto", "on", "off"]
Run = Callable[[Tensor], tuple[Tensor, ...]]

TRIAL_BATCHES = 3
"""Batches from which a speed is taken, after one of each thread that makes kernels and memory ready."""

SIZES: dict[str, tuple[int, ...]] = {"cpu": (8, 16, 32), "cuda": (128, 64, 256)}
"""Batch sizes that are tried, the first one first: on a CPU the working set must stay in its caches."""

WORTH_TRYING = 10
"""Trials of sizes are made if so many times their images are still to come."""

SECONDS_PER_MODULE = 0.12
"""Of compiling, on one core with GCC, where nothing is known: ResNet-50, folded, has 97 modules."""

GAIN = 1.4
"""How many times faster compiled is than eager, where nothing is known: ResNet-50, without matrix units."""

GAIN_OF_SIZE = 1.1
"""How many times faster another size may be, compiled; from 8 to 64 they differ by that or more."""

AGREEMENT: dict[Precision, float] = {"fp32": 1e-5, "fp16": 2e-2, "bf16": 1e-1}
"""Relative L2 distance of a row, compiled and eager, up to which the two are one computation.

In bf16 MobileNetV3 is up to 6e-2 from fp32 either way; a wrong kernel is far beyond.
"""

COMPILED_ON = ("cpu", "cuda")

NO_COMPILER = "no C++ compiler was found (g++, or CXX), so the network was not compiled; it would be faster"

_DONE = object()

EAGER_SHARE = 4
"""Below such a part of a full batch images run eager: padded they would cost as much as a full one."""


class Engine:
    """Runs a :class:`~featx.backbones.frozen.Pooled`, and finds out how best to; for several threads.

    Parameters
    ----------
    pooled : Pooled
        On its device, in evaluation mode.
    device : torch.device
    precision : {"fp32", "bf16", "fp16"}
    compile : {"auto", "on", "off"}
        ``auto`` compiles if the images to come repay it.
    clock : callable
        Seconds.

    Attributes
    ----------
    remaining : int
        Images to come, as far as the caller knows; 0 means that nobody knows, and nothing is tried.
    streams : int
        Threads that call.
    notes : list of str
        What the user should know.
    """

    def __init__(
        self,
        pooled: Pooled,
        device: torch.device,
        precision: Precision,
        compile: Compile = "auto",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.remaining = 0
        self.streams = 1
        self.notes: list[str] = []
        self._eager = pooled
        self._device = device
        self._precision = precision
        self._clock = clock
        self._sizes = SIZES.get(device.type, (32,))
        self._way = Way(is_compiled=False, size=self._sizes[0])
        self._compiled: dict[int, Run] = {}
        self._times: dict[Way, list[float]] = defaultdict(list)
        self._lock = threading.Lock()
        self._compilation: Compilation | None = None
        self._is_cancelled = False
        has_weights = any(True for _ in pooled.parameters())
        self._mode: Compile = compile if has_weights else "off"
        self._memory = Remembered(pooled) if has_weights else None
        self._plan = self._find_out(self._memory) if self._memory is not None else None
        self._images = torch.empty(0)

    @property
    def batch_size(self) -> int:
        """Images that the next batch should have."""
        return self._way.size

    @property
    def is_compiled(self) -> bool:
        """Whether full batches run compiled."""
        return self._way.is_compiled

    def use_batch_size(self, size: int) -> None:
        """Try no other size than this."""
        if self._sizes != (size,):
            self._sizes, self._way = (size,), Way(size in self._compiled, size)
            # A plan that was begun would wait for batches of its own size.
            self._plan = self._find_out(self._memory) if self._memory is not None else None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embed a batch of images of shape (n, H, W, 3), uint8, on the device."""
        if self._mode == "on":
            self._compile_now(images)
        way, started = self._way, self._clock()
        rows = self._run(way, images)
        if self._plan is not None and self.remaining and len(images) == way.size:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._times[way].append((self._clock() - started) / len(images))
            self._step(images)
        return rows

    def finish(self) -> None:
        """Stop compiling, if that is under way, and write down what was measured."""
        with self._lock:
            if self._compilation is not None:
                self._compilation.stop()
                self._compilation = self._plan = None
            self._is_cancelled = False
            if self._memory is not None:
                self._memory.save()

    def cancel(self) -> None:
        """End a compilation at once, also one that another thread waits for: the run is broken off."""
        self._is_cancelled = True
        compilation = self._compilation
        if compilation is not None:
            compilation.stop()

    def _run(self, way: Way, images: Tensor) -> tuple[Tensor, ...]:
        if not way.is_compiled or EAGER_SHARE * len(images) <= way.size:
            rows: tuple[Tensor, ...] = self._eager(images)
            return rows
        compiled = self._compiled[way.size]
        parts = [compiled(_padded(part, way.size)) for part in torch.split(images, way.size)]
        return tuple(torch.cat(pieces)[: len(images)] for pieces in zip(*parts, strict=True))

    def _step(self, images: Tensor) -> None:
        """Take the next step of the plan, unless another thread is at it."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._images = images
            if self._plan is not None and next(self._plan, _DONE) is _DONE:
                self._plan = None
        finally:
            self._lock.release()

    def _find_out(self, memory: Remembered) -> Iterator[None]:
        """Try one way after the other; every step has a batch that was just computed."""
        may_compile = self._mode == "auto" and self._device.type in COMPILED_ON
        if may_compile and self._device.type == "cpu" and not self.is_compiled:
            self._adopt_kept(memory)
        if self.is_compiled:
            yield from self._measure(memory, self._way)
            self._way = self._fastest(memory)
        else:
            yield from self._try_sizes(memory)
            if may_compile and not memory.failure:
                yield from self._try_compiling(memory, self._way.size, self._gain(memory))
        for size in self._sizes:
            if self.is_compiled and not memory.failure and Way(True, size) not in memory.seconds:
                yield from self._try_compiling(memory, size, GAIN_OF_SIZE)
        memory.save()

    def _adopt_kept(self, memory: Remembered) -> None:
        """Go on with a library that is there, the fastest first, unless eager was faster."""
        known = memory.seconds
        eager = min((each for way, each in known.items() if not way.is_compiled), default=math.inf)
        for size in sorted(self._sizes, key=lambda size: known.get(Way(True, size), math.inf)):
            may_repay = known.get(Way(True, size), 0.0) <= eager
            if may_repay and memory.has_library(size) and not self._adopt_library(memory, size):
                return

    def _try_sizes(self, memory: Remembered) -> Iterator[None]:
        """Find the fastest size, eager."""
        yield from self._measure(memory, self._way)
        cost = (self.streams + TRIAL_BATCHES) * sum(self._sizes)
        for size in self._sizes[1:]:
            way = Way(is_compiled=False, size=size)
            if way not in memory.seconds and self.remaining >= WORTH_TRYING * cost:
                yield from self._measure(memory, way)
        self._way = self._fastest(memory)

    def _try_compiling(self, memory: Remembered, size: int, gain: float) -> Iterator[None]:
        """Compile beside the computing, if the images to come repay it, and keep what is fastest."""
        # While one core compiles, the others compute, which takes about twice that of the images to come.
        cost = memory.compiling or SECONDS_PER_MODULE * sum(1 for _ in self._eager.modules())
        if (self.remaining * memory.seconds[self._way] - 2 * cost) * (1 - 1 / max(gain, 1.0)) < cost:
            return
        if self._device.type != "cpu":
            self._compile_in_place(memory, size)
        elif find_compiler() is None:
            self._note_no_compiler()
            return
        else:
            self._start(memory, size)
            while self._compilation is not None and self._compilation.is_running():
                yield
            self._end(memory, size)
        if self._way == Way(is_compiled=True, size=size):
            yield from self._measure(memory, self._way)
            self._way = self._fastest(memory)

    def _measure(self, memory: Remembered, way: Way) -> Iterator[None]:
        """Run this way until its speed is known."""
        self._way = way
        self._times[way].clear()
        while len(self._times[way]) < self.streams + TRIAL_BATCHES:
            yield
        memory.seconds[way] = median(self._times[way][self.streams :])

    def _fastest(self, memory: Remembered) -> Way:
        """Give the fastest way that can be gone now."""
        sizes = self._compiled.keys()
        ways = [way for way in memory.seconds if way.size in (sizes if way.is_compiled else self._sizes)]
        return min(ways, key=memory.seconds.__getitem__)

    def _gain(self, memory: Remembered) -> float:
        """How many times faster compiled is, as measured with other weights, or as a guess."""
        best = [
            min((each for way, each in memory.seconds.items() if way.is_compiled is kind), default=0.0)
            for kind in (False, True)
        ]
        return best[0] / best[1] if all(best) else GAIN

    def _compile_now(self, images: Tensor) -> None:
        """Compile before anything else, as was asked for."""
        with self._lock:
            memory = self._memory
            if self._mode != "on" or memory is None:  # another thread did it meanwhile
                return
            memory.failure = ""
            size = self._way.size
            self._images = _padded(images[:size], size)
            if self._device.type != "cpu":
                self._compile_in_place(memory, size)
            elif not memory.has_library(size) or self._adopt_library(memory, size):
                if find_compiler() is None:
                    self._note_no_compiler()
                else:
                    self._start(memory, size)
                    if self._compilation is not None:
                        self._compilation.wait()
                    self._end(memory, size)
            self._mode = "auto"  # last: until then the other threads wait

    def _start(self, memory: Remembered, size: int) -> None:
        """Begin to compile, in a process beside this one."""
        images = _padded(self._images[:size], size)
        try:
            # What is made in inference mode cannot be exported.
            with torch.inference_mode(mode=False):
                self._compilation = Compilation(self._eager, images.clone(), memory.prepare(size))
        except Exception as error:  # noqa: BLE001 - whatever torch raises, the network runs as it is
            self._give_up(memory, _line(error))

    def _end(self, memory: Remembered, size: int) -> None:
        """Take what came of it."""
        if self._compilation is None or self._is_cancelled:
            return
        try:
            memory.compiling = self._compilation.result()
        except KilledError as error:
            self._give_up(memory, _line(error), for_good=False)
        except RuntimeError as error:
            self._give_up(memory, _line(error))
        else:
            if reason := self._adopt_library(memory, size):
                self._give_up(memory, reason)
        finally:
            self._compilation = None

    def _adopt_library(self, memory: Remembered, size: int) -> str:
        """Go on with a library, or remove it and say what is wrong with it."""
        library = memory.library(size)
        reason = self._adopt(size, partial(Compiled, library, max(self.streams, os.cpu_count() or 1)))
        if not reason:
            memory.touch(library)
        else:
            with suppress(OSError):
                library.unlink()
        return reason

    def _compile_in_place(self, memory: Remembered, size: int) -> None:
        """Compile in this process: beside an accelerator nothing is gained by another."""
        started = self._clock()
        reason = self._adopt(size, partial(compile_in_place, self._eager))
        memory.compiling = self._clock() - started
        if reason:
            self._give_up(memory, reason)

    def _adopt(self, size: int, make: Callable[[], Run]) -> str:
        """Go on compiled, if that gives the same rows; or say why not."""
        images = _padded(self._images[:size], size)
        try:
            compiled = make()
            pairs = zip(compiled(images), self._eager(images), strict=True)
            distances = [_distance(got, expected) for got, expected in pairs]
        except Exception as error:  # noqa: BLE001 - whatever torch raises, the network runs as it is
            return _line(error)
        # Not by their maximum: that of 0 and NaN may be 0.
        if not all(each <= AGREEMENT[self._precision] for each in distances):
            return f"it gave other embeddings (relative L2 {', '.join(f'{each:.2g}' for each in distances)})"
        self._compiled[size], self._way = compiled, Way(is_compiled=True, size=size)
        return ""

    def _give_up(self, memory: Remembered, reason: str, for_good: bool = True) -> None:
        memory.failure = reason if for_good else ""
        if not self.is_compiled:  # else it was another size
            self.notes.append(f"the network could not be compiled, and runs as it is: {reason}")
        memory.save()

    def _note_no_compiler(self) -> None:
        if not self.is_compiled and NO_COMPILER not in self.notes:
            self.notes.append(NO_COMPILER)


def _line(error: Exception) -> str:
    """Give the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _padded(images: Tensor, size: int) -> Tensor:
    """Fill a batch up with copies of its first image."""
    missing = size - len(images)
    return torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images.contiguous()


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest relative L2 distance of a row."""
    norm = b.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((a - b).norm(dim=1) / norm).max()) if len(a) else 0.0
