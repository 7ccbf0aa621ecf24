"""Results as people read them: in the terminal, as Markdown, as one self-contained HTML file.

Drawn from the run folder alone; neither torch nor a store is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featx.report.runs import Run, load_run
    from featx.report.writing import write_report

__all__ = ["Run", "load_run", "write_report"]

_HOMES = {"Run": "runs", "load_run": "runs", "write_report": "writing"}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use: the terminal's helpers must not pay for Jinja2."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
