"""HDF5 files that featx did not write: what they are, and what to do with them.

Without our user block nothing says that the bytes are whole, and HDF5 can crash or loop on bytes
that are not. So a child looks at the structure (:mod:`featx.store.walking`), and if it dies, that is
an error message here.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featx.errors import DamagedStoreError, NotAStoreError
from featx.files import disk_errors
from featx.records import escape_name
from featx.store.userblock import HDF5_SIGNATURE

__all__ = ["Foreign", "ForeignDataset", "Problem", "describe_foreign", "is_hdf5"]

_OURS = {"featx_format", "space_key"}
_SHOWN = 3
_SHORT = 80
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from featx.store.walking import main; main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"
)
_QUIET = {
    "OMP_NUM_THREADS": "1",  # NumPy's threads take address space, which is limited
    "OPENBLAS_NUM_THREADS": "1",
    "HDF5_PLUGIN_PRELOAD": "::",  # loads no filter from elsewhere
    "HDF5_USE_FILE_LOCKING": "FALSE",
}


@dataclass(frozen=True, slots=True)
class ForeignDataset:
    """A dataset: path, shape (None if it has none, or in other files), type, and bytes in the file."""

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a plain file of arrays does not have: ``name`` is the path of the object."""

    name: str
    what: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """An HDF5 file without our user block, as far as its structure tells.

    Parameters
    ----------
    path : Path
        The file.
    datasets : tuple of ForeignDataset
        What it holds.
    problems : tuple of Problem
        Links, types and storage that a store cannot have.
    ours : bool
        Whether it has the attributes of a store: featx wrote it, and another tool wrote it anew.
    """

    path: Path
    datasets: tuple[ForeignDataset, ...]
    problems: tuple[Problem, ...]
    ours: bool

    def describe(self) -> str:
        """Say in one line what the file is and what to do next.

        Examples
        --------
        >>> array = ForeignDataset("/X", (10, 5), "float32", 200)
        >>> print(Foreign(Path("a.h5"), (array,), (), ours=False).describe().partition("; ")[0])
        a.h5 is an HDF5 file that featx did not write, of 1 dataset: /X float32 (10, 5)
        """
        found = [f"{_short(problem.name)} {_short(problem.what)}" for problem in self.problems]
        odd = f" ({_some(found)})" if found else ""
        if self.ours:
            return (
                f"{self.path} was written by featx, but its user block is gone, so its bytes cannot be "
                f"checked{odd}; fetch the original file, or extract it again"
            )
        names = [
            f"{_short(item.name)} {item.dtype} {'' if item.shape is None else item.shape}".rstrip()
            for item in self.datasets
        ]
        count = f"{len(names)} dataset{'' if len(names) == 1 else 's'}"
        holds = f"{count}: {_some(names)}" if names else count
        return (
            f"{self.path} is an HDF5 file that featx did not write, of {holds}{odd}; save its arrays with "
            "numpy.savez as X, y and names, then `featx import FILE.npz -o STORE`"
        )


def describe_foreign(path: Path, *, timeout: float = 60.0) -> Foreign:
    """Look at the structure of an HDF5 file that has no user block of ours, in a child process.

    Parameters
    ----------
    path : Path
        The file; no content of its datasets is read.
    timeout : float, default=60
        Seconds that the child may take.

    Raises
    ------
    StoreError
        If it cannot be read.
    NotAStoreError
        If it is no HDF5 file.
    DamagedStoreError
        If HDF5 cannot read it: it reports an error, crashes, or does not come back.
    """
    with disk_errors(path, "read"):
        size = path.stat().st_size
        if not is_hdf5(path):
            raise NotAStoreError(f"{path} exists and is no featx store, nor any HDF5 file; check the path")
    # -I: neither the directory that this is started in nor the environment chooses what is imported.
    command = [sys.executable, "-I", "-c", _START, json.dumps(_import_path()), str(path.absolute())]
    command += [str(size), str(math.ceil(timeout) + 1)]
    slow = DamagedStoreError(
        f"{path} is damaged: HDF5 took more than {timeout:g} s to walk it; do not open it with other tools"
    )
    try:
        done = subprocess.run(
            command, env=os.environ | _QUIET, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise slow from None
    if done.returncode == -getattr(signal, "SIGXCPU", 0) != 0:
        raise slow
    return _parse(path, done)


def is_hdf5(path: Path) -> bool:
    """Say whether a regular file has the signature of HDF5 where HDF5 looks for it.

    Source: HDF5 File Format Specification, section II.A: at byte 0, 512, 1024, 2048 and so on.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        place = 0
        while place < size:
            file.seek(place)
            if file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
                return True
            place = max(512, 2 * place)
    return False


def _import_path() -> list[str]:
    home = str(Path(__file__).parents[2])
    entries = [str(Path(entry).absolute()) for entry in sys.path]  # "" is the current directory
    return entries if home in entries else [*entries, home]


def _parse(path: Path, done: subprocess.CompletedProcess[bytes]) -> Foreign:
    if done.returncode < 0:
        raise DamagedStoreError(
            f"{path} is damaged: the HDF5 library crashed with signal {_signal(-done.returncode)} when "
            "walking it; do not open it with other tools"
        )
    try:
        found: Any = json.loads(done.stdout)
        if "error" in found:
            reason = escape_name(str(found["error"]))
            raise DamagedStoreError(
                f"{path} is damaged: HDF5 cannot read it ({reason}); fetch the file again"
            )
        datasets = tuple(
            ForeignDataset(name, None if shape is None else tuple(shape), dtype, count)
            for name, shape, dtype, count in found["datasets"]
        )
        problems = tuple(Problem(name, escape_name(what)) for name, what in found["problems"])
        ours = set(found["attributes"]) >= _OURS
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise DamagedStoreError(
            f"{path} is damaged: walking it ended with code {done.returncode} and no answer "
            f"({escape_name(last or str(error))}); do not open it with other tools"
        ) from error
    return Foreign(path, datasets, problems, ours)


def _signal(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal has no name
        return str(number)


def _short(text: str) -> str:
    """Leave out the middle of what is too long for a line.

    Examples
    --------
    >>> _short("/X"), len(_short("/group" * 100))
    ('/X', 80)
    """
    return text if len(text) <= _SHORT else f"{text[: _SHORT // 2]}…{text[1 - _SHORT // 2 :]}"


def _some(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
