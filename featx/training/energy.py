"""How much energy a block of work took, where the machine counts it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

__all__ = ["Energy", "measure_energy"]

POWERCAP = Path("/sys/class/powercap")

EVERY = 30.0
"""Seconds between readings: a package at 500 W takes minutes to turn a counter over."""


class Energy:
    """What was counted.

    Attributes
    ----------
    joules : float or None
        Of all processor packages, and of the GPU that was named; None where nothing is counted.
    """

    def __init__(self) -> None:
        self.joules: float | None = None


@contextmanager
def measure_energy(gpu: int | None = None, powercap: Path = POWERCAP) -> Iterator[Energy]:
    """Count the energy of a block; everything that runs on the machine meanwhile counts.

    Parameters
    ----------
    gpu : int, optional
        Index of the NVIDIA GPU; counted if the package ``pynvml`` is installed.
    powercap : Path
        Where Linux shows the counters of the processors (RAPL), which on many machines only the
        superuser may read.

    Yields
    ------
    Energy
        Complete after the block.

    Source
    ------
    The Linux kernel's power capping framework (``energy_uj``, ``max_energy_range_uj``);
    ``nvmlDeviceGetTotalEnergyConsumption`` of NVML, in millijoules.

    Examples
    --------
    >>> with measure_energy(powercap=Path("no-such-folder")) as energy:
    ...     pass
    >>> energy.joules is None
    True
    """
    counters = [*_packages(powercap), *_gpus(gpu)]
    energy = Energy()
    if not counters:
        yield energy
        return
    done = Event()

    def watch() -> None:
        while not done.wait(EVERY):
            for counter in counters:
                counter.read()

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield energy
    finally:
        done.set()
        thread.join()
        energy.joules = sum(counter.read() for counter in counters)


class _Counter:
    """A counter that turns over; adds up what it counts from now on, in joules."""

    def __init__(self, read: Callable[[], float], turns_at: float = 0.0) -> None:
        self._read, self._turns_at = read, turns_at
        self._last, self._sum = read(), 0.0

    def read(self) -> float:
        now = self._last
        with suppress(OSError, ValueError):
            now = self._read()
        self._sum += now - self._last + (self._turns_at if now < self._last else 0.0)
        self._last = now
        return self._sum


def _packages(powercap: Path) -> list[_Counter]:
    counters = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):
            # Its parts (cores, memory) and the platform are counted there already, or count it again.
            if not (zone / "name").read_text().startswith("package"):
                continue
            largest = int((zone / "max_energy_range_uj").read_text()) / 1e6
            counters.append(_Counter(lambda path=zone / "energy_uj": int(path.read_text()) / 1e6, largest))  # type: ignore[misc]
    return counters


def _gpus(index: int | None) -> list[_Counter]:
    if index is None:
        return []
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except ImportError:
        return []
    except Exception as error:
        if type(error).__name__.startswith("NVMLError"):
            return []
        raise
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        return [_Counter(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)]
    except nvml.NVMLError:
        return []
