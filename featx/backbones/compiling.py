"""Compiling a network with inductor, in a process of its own while the network runs as it is.

A process, because compiling holds the interpreter lock for seconds, and because a compiler that crashes or
takes all memory must not end an extraction. ``python -m featx.backbones.compiling`` is that process.
"""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from featx.backbones.compiled import Compiled
from featx.backbones.graph import TRACING
from featx.backbones.remembered import cache_directory
from featx.files import publish

__all__ = ["Compilation", "KilledError", "compile_in_place", "find_compiler"]

OPTIONS = {"freezing": True}
"""Of inductor: weights are constants, laid out as the kernels want them."""


def find_compiler() -> str | None:
    """Find the C++ compiler that inductor calls: ``CXX``, or the system's own.

    Examples
    --------
    >>> find_compiler() in (None, shutil.which(os.environ.get("CXX") or "g++"), shutil.which("clang++"))
    True
    """
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def compile_in_place(module: nn.Module) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Compile in this process, at the first call, for any device; what was compiled is kept for the next."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory() / "inductor"))
    compiled: Callable[[Tensor], tuple[Tensor, ...]] = torch.compile(
        module, options={**OPTIONS}, dynamic=False
    )
    return compiled


class KilledError(RuntimeError):
    """A compilation that was ended from outside, and may succeed another time."""


class Compilation:
    """A compilation under way.

    Parameters
    ----------
    module : nn.Module
        On the CPU, in evaluation mode; takes one tensor and gives a tuple.
    images : Tensor of shape (n, H, W, 3), uint8
        The compiled network takes batches of just this size.
    library : Path
        What is written, if it succeeds.

    Raises
    ------
    RuntimeError, OSError
        If the network cannot be read by ``torch.export``, or the process not be started.
    """

    def __init__(self, module: nn.Module, images: Tensor, library: Path) -> None:
        self._started = time.perf_counter()
        # A compiler that was killed a moment ago may still have written a file.
        self._scratch = tempfile.TemporaryDirectory(prefix="featx-compile-", ignore_cleanup_errors=True)
        try:
            self._process = self._begin(module, images, Path(self._scratch.name), library)
        except BaseException:
            self._scratch.cleanup()
            raise
        self._stop = weakref.finalize(self, _end, self._process, self._scratch)

    def _begin(
        self, module: nn.Module, images: Tensor, scratch: Path, library: Path
    ) -> subprocess.Popen[bytes]:
        program = scratch / "program.pt2"
        # A copy, because export puts other tensors into the module, which threads go on to run; contiguous,
        # because torch warns of others when it saves them.
        still = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
        with TRACING, torch.no_grad():
            torch.export.save(torch.export.export(still, (images,), strict=False), program)
        root = str(Path(__file__).parents[2])
        self._errors = scratch / "errors.txt"
        with self._errors.open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", __name__, str(program), str(library)],
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # a group, so that its compilers end with it
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
                    "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
                    # The kernels run on as many threads as the process had that compiled them.
                    "OMP_NUM_THREADS": "1",
                },
            )

    def is_running(self) -> bool:
        """Whether it is under way still."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait()

    def result(self) -> float:
        """Give the seconds it took, once it has ended.

        Raises
        ------
        RuntimeError
            If it failed; says why.
        KilledError
            If it was ended from outside, as by a machine without memory.
        """
        code = self._process.wait()
        seconds = time.perf_counter() - self._started
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        self.stop()
        if code < 0:
            raise KilledError(f"its process was ended by signal {-code}")
        if code:
            reasons = [line.strip() for line in lines if line.strip()] or [f"its process ended with {code}"]
            raise RuntimeError(reasons[-1][:200])
        return seconds

    def stop(self) -> None:
        """End it, if it runs, and remove what it left."""
        self._stop()


def _end(process: subprocess.Popen[bytes], scratch: tempfile.TemporaryDirectory[str]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
    scratch.cleanup()


@torch.no_grad()  # else inductor does not freeze, and a network is a fifth slower
def main(program: Path, library: Path) -> None:
    """Compile an exported program, try the library, and put it where it belongs."""
    torch.set_num_threads(1)
    exported = torch.export.load(program)
    inputs, _ = exported.example_inputs
    package = program.with_name("package.pt2")
    torch._inductor.aoti_compile_and_package(exported, package_path=str(package), inductor_configs=OPTIONS)
    made = program.with_name("network.so")
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        if any("extern" in Path(name).name and name.endswith(".json") for name in names):
            # Run through the C interface these would need a part of torch's loader that it does not offer.
            raise RuntimeError("the network needs operations that inductor does not compile")
        (name,) = [name for name in names if name.endswith(".so")]
        made.write_bytes(archive.read(name))
    # Here, where a crash does no harm.
    Compiled(made, 1)(inputs[0])
    with publish(library) as file, made.open("rb") as source:
        shutil.copyfileobj(source, file)


def _end_with_parent(scratch: Path) -> None:
    def watch() -> None:
        # Not through sys.stdin: its lock, held by this thread, would break the end of the interpreter.
        os.read(0, 1)
        shutil.rmtree(scratch, ignore_errors=True)
        if os.getpgrp() == os.getpid():  # its compilers too
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent(Path(sys.argv[1]).parent)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
