"""What was measured and compiled before, on this machine: kept in a cache folder, and never needed.

The folder is ``FEATX_CACHE_DIR``, or ``featx`` in ``XDG_CACHE_HOME`` or ``~/.cache``. Deleting it costs
seconds at the next start and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from featx.errors import StoreError
from featx.files import make_directories, publish

__all__ = ["Remembered", "Way", "cache_directory"]

LIMIT_BYTES = 4 * 2**30
"""Compiled networks that are kept; those unused for longest go first."""

VERSION = 1
"""Of what is kept; what another version of featx left is not read."""


def cache_directory() -> Path:
    """Give the folder; it need not exist."""
    if chosen := os.environ.get("FEATX_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "featx"


class Way(NamedTuple):
    """One way to run a network: eager or compiled, in batches of a size."""

    is_compiled: bool
    size: int


class Remembered:
    """What is known of one network on this machine.

    Parameters
    ----------
    module : nn.Module
        As it is run. Its graph, not its weights, says what the figures belong to.

    Attributes
    ----------
    seconds : dict of Way to float
        What an image took on one thread, while others ran beside it.
    compiling : float
        Seconds that compiling took last; 0 if it never was.
    failure : str
        Why it cannot be compiled; empty if it can, or nobody tried.
    """

    def __init__(self, module: nn.Module) -> None:
        self.seconds: dict[Way, float] = {}
        self.compiling = 0.0
        self.failure = ""
        self._module = module
        self._state: str | None = None
        self._saved: dict[str, Any] = {"seconds": [], "compiling": 0.0, "failure": ""}
        self._folder = cache_directory() / f"networks-{VERSION}" / _kind(module)
        self._read()

    def library(self, size: int) -> Path:
        """Where the network stands, compiled with these weights for batches of ``size``."""
        if self._state is None:
            self._state = _state(self._module)
        return self._folder / f"{self._state}-{size}.so"

    def has_library(self, size: int) -> bool:
        """Whether it stands there; the weights are read only where something does."""
        return any(self._folder.glob(f"*-{size}.so")) and self.library(size).exists()

    def prepare(self, size: int) -> Path:
        """Give the same, with a folder that exists and has room.

        Raises
        ------
        OSError
            If there can be none.
        """
        path = self.library(size)
        make_directories(path.parent)
        _trim(self._folder.parent)
        return path

    def touch(self, library: Path) -> None:
        """Note that a library was used, so that others are removed before it."""
        with suppress(OSError):
            os.utime(library)

    def save(self) -> None:
        """Write down the figures, if there are new ones and it is possible."""
        seconds = [[*way, each] for way, each in self.seconds.items()]
        content = {"seconds": seconds, "compiling": self.compiling, "failure": self.failure}
        if content == self._saved:
            return
        # Nothing depends on it: a disk that is full or read-only is no reason to fail.
        with suppress(StoreError, OSError):
            make_directories(self._folder)
            with publish(self._folder / "speeds.json") as file:
                file.write(json.dumps(content, indent=1).encode())
            self._saved = content

    def _read(self) -> None:
        try:
            content: dict[str, Any] = json.loads((self._folder / "speeds.json").read_bytes())
            read = {Way(bool(kind), int(size)): float(each) for kind, size, each in content["seconds"]}
            compiling, failure = float(content["compiling"]), str(content["failure"])
        except OSError:
            return
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self._saved = {}  # as if nothing were known; what stands there is replaced
            return
        if all(math.isfinite(each) and each > 0 for each in read.values()) and 0 <= compiling < math.inf:
            self.seconds, self.compiling, self.failure = read, compiling, failure
            self._saved = content


def _kind(module: nn.Module) -> str:
    """Name what the speed depends on: graph, shapes, dtypes, processor, versions."""
    graphs = [part.code for part in module.modules() if isinstance(part, fx.GraphModule)]
    shapes = [(name, str(each.dtype), tuple(each.shape)) for name, each in module.state_dict().items()]
    facts = [torch.__version__, platform.machine(), _processor_flags(), str(module), graphs, shapes]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _state(module: nn.Module) -> str:
    """Name what is compiled in: every number, buffers that no file keeps included."""
    digest = hashlib.sha256(str(getattr(module, "cuts", "")).encode())
    for name, tensor in sorted((*module.named_parameters(), *module.named_buffers())):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


@cache
def _processor_flags() -> str:
    """Instructions that code compiled here may use: a home is shared by machines that are not alike."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _trim(folder: Path) -> None:
    """Remove the libraries that were not used for longest, until the rest are within the limit."""
    found = []
    for path in folder.glob("*/*.so"):
        with suppress(OSError):  # another process may have removed it
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= LIMIT_BYTES:
            break
        with suppress(OSError):
            path.unlink()
            total -= size
