"""The command line: one file per command, each one parses, calls one public function and prints."""

from featx.cli.main import cli, main

__all__ = ["cli", "main"]
