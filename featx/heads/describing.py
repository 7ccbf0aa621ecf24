"""Parameters in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["describe"]


def describe(point: Mapping[str, Any]) -> str:
    """Write a grid point for people.

    Examples
    --------
    >>> describe({"C": 0.01, "pca": 64})
    'C=0.01, pca=64'
    """
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in point.items()
    )
