"""The command line: one file per command, each one parses, calls one public function and prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featx.cli.main import main

if TYPE_CHECKING:
    from featx.cli.group import cli

__all__ = ["cli", "main"]


def __getattr__(name: str) -> Any:
    # main() must be there before anything that takes a while to load.
    if name == "cli":
        from featx.cli.group import cli

        return cli
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
