"""What the numbers were made with: versions, hardware, memory. Imports none of the packages it names."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from featx import __version__


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Give the versions of the packages that are installed, and featx's own.

    Examples
    --------
    >>> list(package_versions(["numpy", "no-such-package"]))
    ['featx', 'numpy']
    """
    versions = {"featx": __version__}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def environment() -> dict[str, Any]:
    """Give versions and hardware.

    Examples
    --------
    >>> sorted(environment())
    ['cpus', 'machine', 'platform', 'processor', 'python', 'versions']
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "versions": package_versions(("numpy", "scikit-learn", "h5py", "pillow", "torch", "torchvision")),
    }


def peak_memory_bytes() -> int:
    """Give the largest resident size of this process so far in bytes, 0 where it is not known."""
    with suppress(OSError, ValueError):
        # The other source begins, on Linux, with the size of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
