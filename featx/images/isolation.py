"""Decoding in a process of its own, for formats whose decoders may crash.

JPEG and PNG are decoded by threads of this process: a file that crashes their decoder ends it, and with it
the run. That is accepted, because libjpeg-turbo, libpng's zlib and Pillow's code around them read hostile
files in browsers and servers every day and are fuzzed without pause, because these two formats make up
nearly all collections, and because a pipe would slow each image down. The decoders of TIFF, WebP, GIF, BMP
and AVIF are larger, less used, or both. They run in a child, which is limited in memory and time. If it
dies, that is the reason why one image is skipped, and the next one has a new child.

The protocol on the child's stdin and stdout: two lengths, a text in JSON, and bytes; first the child says
that it is ready.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from featx.errors import ImageError
from featx.images.prepared import PreparedImage
from featx.records import Preprocess

__all__ = ["DECODE_SECONDS", "MEMORY_BYTES", "CannotStartError", "main", "prepare_apart"]

DECODE_SECONDS = 30.0
"""Seconds after which a decoder is stopped: an image of the largest size allowed takes a few, and a busy
machine several times as long."""

START_SECONDS = 60.0
"""Seconds in which a child must be ready: it takes a fraction of one, but from a network drive many."""

MEMORY_BYTES = 4 * 2**30
"""Address space of a child: an image of the largest size allowed takes a third of that, with every copy
that a conversion makes, and libraries the rest. What asks for more asks for nonsense."""

_GRACE = 5
"""Seconds after its time that a decoder ends by itself, should this process have been killed meanwhile."""

_LENGTHS = struct.Struct("<QQ")
_LONGEST_TEXT = 2**20
_READY: dict[str, Any] = {"ready": True}
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from featx.images.isolation import main; main()"
)
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # NumPy's threads take address space, and compute nothing here
    "OPENBLAS_NUM_THREADS": "1",
    # glibc would give the memory of each image back and ask for it again: half as much time once more.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}


class CannotStartError(Exception):
    """There can be no other process here; the text says why."""


def prepare_apart(data: bytes, preprocess: Preprocess, policy: str) -> PreparedImage:
    """Decode, resize and hash one image in another process; may be called from several threads.

    Parameters
    ----------
    data : bytes
        An encoded image.
    preprocess : Preprocess
    policy : str
        One of :data:`featx.images.decoding.POLICIES`.

    Raises
    ------
    ImageError
        If it cannot be decoded, or its decoder crashes or takes longer than :data:`DECODE_SECONDS`.
    CannotStartError
        If no process can be started; a warning has said so once.
    """
    side, seconds = preprocess.image_size, DECODE_SECONDS
    asked = {"preprocess": preprocess.to_json(), "policy": policy, "seconds": seconds}
    with _pool().borrow() as child:
        facts, pixels = child.ask(asked, data, 3 * side**2, seconds)
    if "reason" in facts:
        raise ImageError(facts["reason"])
    return PreparedImage(np.frombuffer(pixels, np.uint8).reshape(side, side, 3), **facts)


class _Deadline:
    """Kills a process that is not done in time; whoever waits for its answer sees it end."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self.has_passed = False
        self._process, self._is_done, self._lock = process, False, threading.Lock()
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_done = True

    def _pass(self) -> None:
        with self._lock:
            if not self._is_done:
                self.has_passed = True
                self._process.kill()


class _Child:
    """One decoder process, for one thread at a time.

    Raises
    ------
    CannotStartError
        If there is none to be had.
    """

    def __init__(self) -> None:
        if getattr(sys, "frozen", False) or not sys.executable:
            raise CannotStartError("this program has no Python interpreter of its own")
        try:
            self._process = subprocess.Popen(
                # -I: it imports from where this process does, whatever the environment says. It ends when
                # its stdin is closed, which the system does when this process ends.
                [sys.executable, "-I", "-c", _START, json.dumps(_import_path())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT,
                start_new_session=True,  # Ctrl-C in a terminal is for the parent
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, ValueError) as error:
            raise CannotStartError(str(error)) from error
        self.pid = self._process.pid
        self.close = weakref.finalize(self, _end, self._process)
        with _Deadline(self._process, START_SECONDS):
            ready = _receive(self._process.stdout, 0)
        if ready != (_READY, b""):
            code = self._own_end()
            self.close()
            raise CannotStartError(f"it ended with {code} before it was ready")

    def _own_end(self) -> int | None:
        """Give the code that it ends with by itself, which says more than that of being killed."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(1)
        return None

    def is_running(self) -> bool:
        """Whether it can be asked."""
        return self.close.alive and self._process.poll() is None

    def ask(
        self, asked: dict[str, Any], data: bytes, largest: int, seconds: float
    ) -> tuple[dict[str, Any], bytes]:
        """Send an image, and wait for the answer to it."""
        answer, deadline = None, _Deadline(self._process, seconds)
        try:
            with deadline:
                with suppress(OSError):  # it has ended while it was written to
                    _send(self._process.stdin, asked, data)
                answer = _receive(self._process.stdout, largest)
            code = self._own_end() if answer is None else None
        finally:
            if answer is None or deadline.has_passed:
                self.close()
        if answer is not None:
            return answer
        if deadline.has_passed:
            raise ImageError(f"decoding it took more than {seconds:g} s and was stopped")
        raise ImageError(_describe_end(code))


class _Pool:
    """Children that wait for work; as many at a time as there are processors, since more gain nothing."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []
        self._free = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._refused = ""

    @contextmanager
    def borrow(self) -> Iterator[_Child]:
        """Lend a child to one thread."""
        if self._refused:
            raise CannotStartError(self._refused)
        with self._free:
            child = self._take()
            try:
                yield child
            finally:
                if child.is_running():
                    self._idle.append(child)

    def _take(self) -> _Child:
        while True:
            try:
                child = self._idle.pop()
            except IndexError:
                break
            if child.is_running():
                return child
            child.close()  # somebody killed it while it had nothing to do
        try:
            return _Child()
        except CannotStartError as error:
            # Once for all: to try again at every image could take a minute each.
            self._refused = str(error)
            warnings.warn(
                f"No process can be started to decode TIFF, WebP, GIF, BMP and AVIF in ({error}); they are "
                "decoded in this one, and a file that crashes its decoder ends it.",
                RuntimeWarning,
                stacklevel=2,
            )
            raise


_pools: dict[int, _Pool] = {}
"""By the process that they belong to: after a fork the children are the parent's, and locks may be taken."""


def _pool() -> _Pool:
    return _pools.get(os.getpid()) or _pools.setdefault(os.getpid(), _Pool())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # after a fork it is not ours, and subprocess sees that
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was still to be written goes nowhere
                pipe.close()


def _describe_end(code: int | None) -> str:
    if code is None:
        return "its decoder gave an answer that makes no sense, and was stopped"
    if code >= 0:
        return f"its decoder crashed (it ended with {code}): the file is damaged, or made to do that"
    name = next((f", {item.name}" for item in signal.Signals if item == -code), "")
    if -code == getattr(signal, "SIGKILL", 0):
        return f"its decoder was killed (signal {-code}{name}), as happens where memory runs out"
    return f"its decoder crashed (signal {-code}{name}): the file is damaged, or made to do that"


def _import_path() -> list[str]:
    home = str(Path(__file__).parents[2])
    entries = [str(Path(entry).absolute()) for entry in sys.path]  # "" is the current directory
    return entries if home in entries else [*entries, home]


def _send(pipe: Any, text: dict[str, Any], data: bytes) -> None:
    encoded = json.dumps(text).encode()
    pipe.write(_LENGTHS.pack(len(encoded), len(data)) + encoded)
    pipe.write(data)
    pipe.flush()


def _receive(pipe: Any, largest: int) -> tuple[dict[str, Any], bytes] | None:
    """Read what :func:`_send` sent; None if it ended before, or is nothing that was sent so."""
    head = pipe.read(_LENGTHS.size)
    if len(head) < _LENGTHS.size:
        return None
    lengths = _LENGTHS.unpack(head)
    if lengths[0] > _LONGEST_TEXT or lengths[1] > largest:
        return None
    text, data = pipe.read(lengths[0]), pipe.read(lengths[1])
    if len(text) < lengths[0] or len(data) < lengths[1]:
        return None
    try:
        return json.loads(text), data
    except ValueError:
        return None


# The child


def main() -> None:
    """Decode what comes on stdin, until it is closed."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    _limit()
    from featx.images import preparing  # which imports this module
    from featx.images.formats import FORMATS

    if "AVIF" in FORMATS:
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the other processors have children of their own

    _send(answers, _READY, b"")
    while _answer(sys.stdin.buffer, answers, preparing):
        pass


def _answer(requests: Any, answers: Any, preparing: Any) -> bool:
    request = _receive(requests, sys.maxsize)
    if request is None:
        return False
    asked, data = request
    used = time.process_time()
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(asked["seconds"]) + _GRACE)
    try:
        found = preparing.prepare_here(data, Preprocess.from_json(asked["preprocess"]), asked["policy"])
    except ImageError as error:
        _send(answers, {"reason": str(error)}, b"")
    except MemoryError:
        _send(answers, {"reason": "not enough memory to decode it"}, b"")
    else:
        facts = {name: getattr(found, name) for name in ("phash", "width", "height", "mode")}
        facts["seconds"] = time.process_time() - used
        _send(answers, facts, found.pixels.tobytes())
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    return True


def _limit() -> None:
    """Let the parent decide when to end, and a hostile file have no more than its share."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if sys.platform != "win32":
        import resource

        for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY_BYTES)):
            hard = resource.getrlimit(kind)[1]
            allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with suppress(ValueError, OSError):  # macOS limits no address space
                resource.setrlimit(kind, (allowed, hard))
