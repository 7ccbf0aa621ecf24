"""How a frozen network is run: folded, compiled where that repays, in batches of the size that is fastest.

From decoded pixels to pooled rows is one graph: normalising and pooling are compiled with the network,
and only uint8 goes to the device. What repays is measured on the images that have to be embedded anyway.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featx.backbones.placement import DTYPES
from featx.backbones.pooling import Axes, pool
from featx.records import Pooling, Precision, Preprocess

__all__ = ["Compile", "Engine", "Pooled", "fold_batchnorm"]

Compile = Literal["auto", "on", "off"]
Run = Callable[[Tensor], tuple[Tensor, ...]]

TRIAL_BATCHES = 4
"""Batches from which a speed is taken, without the first, which makes kernels and memory ready."""

SIZES = (8, 16, 32, 64)
"""Batch sizes that are tried on a CPU: what is computed with must stay in its caches."""

WORTH_TRYING = 10
"""Trials of sizes are made if so many times their images are still to come."""

SECONDS_PER_MODULE = 0.14
"""Of compiling from cold, on two cores with GCC: ResNet-50, folded, has 97 modules and took 14 s.

The truth is known afterwards only; a guess that is wrong costs seconds.
"""

GAIN = 1.3
"""How many times faster compiled is than eager, at the least, where nothing is known: ResNet-50, bf16."""

AGREEMENT: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2}
"""Relative L2 distance of a row, compiled and eager, up to which the two are one computation."""


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Pooled(nn.Module):
    """Decoded images in, pooled rows out.

    Parameters
    ----------
    module : nn.Module
        Gives the values of nodes by name, for normalised images.
    cuts : sequence of (node, Axes, pooling)
    preprocess : Preprocess
        For mean and standard deviation.
    precision : {"fp32", "bf16", "fp16"}
        What the network computes in; normalising and pooling are in float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        cuts: Sequence[tuple[str, Axes, Pooling]],
        preprocess: Preprocess,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.network = module
        self.cuts = tuple(cuts)
        self.dtype = DTYPES[precision]
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embed images of shape (n, H, W, 3), uint8; gives a float32 (n, dim) for each cut."""
        # (n, H, W, 3) seen as (n, 3, H, W) is channels-last already: nothing is moved.
        pixels = images.permute(0, 3, 1, 2).float().div(255).sub(self.mean).div(self.std)
        outputs = self.network(pixels.to(self.dtype))
        return tuple(pool(outputs[node], axes, pooling) for node, axes, pooling in self.cuts)


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """Put each BatchNorm into the convolution before it, where nothing else reads that one's output.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, in float32; changed in place. Only what was traced can be folded.

    Returns
    -------
    nn.Module
        The same one.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    graph: fx.Graph = module.graph
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        norm, convolution = module.get_submodule(node.target), module.get_submodule(str(before.target))
        # One that is called twice has two inputs, and may have one BatchNorm for each.
        if max(calls[before.target], calls[node.target]) > 1:
            continue
        if not isinstance(norm, _NORMS) or not isinstance(convolution, _CONVOLUTIONS):
            continue
        if norm.running_mean is None:
            continue
        module.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(before)
        graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
    return module


class Engine:
    """Runs a :class:`Pooled`, and finds out how best to.

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
    batch_size : int
        Images that the next batch should have.
    remaining : int
        Images to come, as far as the caller knows; 0 means that nobody knows, and nothing is tried.
    notes : list of str
        What the user should know.
    is_compiled : bool
    """

    def __init__(
        self,
        pooled: Pooled,
        device: torch.device,
        precision: Precision,
        compile: Compile = "auto",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.batch_size = 16 if device.type == "cpu" else 128
        self.remaining = 0
        self.notes: list[str] = []
        self.is_compiled = False
        self._eager = pooled
        self._run: Run = pooled
        self._device = device
        self._precision = precision
        self._clock = clock
        has_weights = any(True for _ in pooled.parameters())
        self._compile_when: Compile = compile if has_weights else "off"
        self._times: dict[int, list[float]] = {}
        self._to_try: list[int] | None = None if device.type == "cpu" else []
        self._is_settled = not has_weights

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embed a batch of images of shape (n, H, W, 3), uint8, on the device."""
        if self._compile_when == "on":
            return self._compiled(images)
        if self._is_settled:
            return self._run(images)
        rows, seconds = self._timed(self._run, images)
        self._times.setdefault(len(images), []).append(seconds / max(1, len(images)))
        self._decide(images)
        return rows

    def _timed(self, run: Run, images: Tensor) -> tuple[tuple[Tensor, ...], float]:
        started = self._clock()
        rows = run(images)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return rows, self._clock() - started

    def _decide(self, images: Tensor) -> None:
        """Take the next step, once the present one is measured."""
        size = len(images)
        if size != self.batch_size or len(self._times[size]) < TRIAL_BATCHES:
            return
        if self._compile_when == "auto":
            self._compile_when = "off"
            if self.remaining * self._seconds(size) * (1 - 1 / GAIN) > self._cost():
                self._compiled(images)
            if self.is_compiled:  # and is measured anew
                return
        if self._to_try is None:
            is_worth_it = self.remaining >= WORTH_TRYING * TRIAL_BATCHES * sum(SIZES)
            self._to_try = [other for other in SIZES if other != size] if is_worth_it else []
        if self._to_try:
            self.batch_size = self._to_try.pop()
            return
        measured = [number for number in self._times if len(self._times[number]) >= TRIAL_BATCHES]
        self.batch_size, self._is_settled = min(measured, key=self._seconds), True

    def _seconds(self, size: int) -> float:
        """Seconds an image took in batches of this size."""
        return median(self._times[size][1:])

    def _cost(self) -> float:
        """Seconds that compiling will take, roughly."""
        return SECONDS_PER_MODULE * sum(1 for _ in self._eager.network.modules())

    def _compiled(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compile, and go on with that if it gives the same rows, faster; gives the rows of the images."""
        was_asked, self._compile_when = self._compile_when == "on", "off"
        expected: tuple[Tensor, ...] = self._eager(images)
        try:
            compiled = _compile(self._eager, images)
            got = compiled(images)
        except (RuntimeError, OSError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.notes.append(f"the network could not be compiled, and runs as it is: {reason[:200]}")
            return expected
        limit = AGREEMENT[self._precision]
        if max(_distance(a, b) for a, b in zip(got, expected, strict=True)) > limit:
            self.notes.append("the compiled network gave other embeddings, and is not used")
            return expected
        if not was_asked and not self._is_faster(compiled, images):
            return expected
        self._run, self.is_compiled = compiled, True
        self._times.clear()
        return got

    def _is_faster(self, compiled: Run, images: Tensor) -> bool:
        taken = [self._timed(run, images)[1] for run in (compiled, self._eager, compiled, self._eager)]
        return min(taken[::2]) < min(taken[1::2])


def _compile(pooled: Pooled, images: Tensor) -> Run:
    # Where reboots do not clear it: the second compilation takes a quarter of the time.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "featx" / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    if len(images) > 1:
        torch._dynamo.mark_dynamic(images, 0)
    compiled: Run = torch.compile(pooled, options={"freezing": True})

    def run(images: Tensor) -> tuple[Tensor, ...]:
        if len(images) > 1:
            return compiled(images)
        # A size of one would be compiled anew, for the last image of a run.
        return tuple(rows[: len(images)] for rows in compiled(images.expand(2, -1, -1, -1).contiguous()))

    return run


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest relative L2 distance of a row."""
    norm = b.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((a - b).norm(dim=1) / norm).max()) if len(a) else 0.0
