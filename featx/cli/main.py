"""The program: it minds signals before it loads anything that takes a while."""

from __future__ import annotations

import sys
from typing import NoReturn

from featx.cli.signals import SIGINT_CODE, Terminated, first_signal_unwinds


def main() -> NoReturn:
    """Run featx as a program."""
    try:
        with first_signal_unwinds():
            from featx.cli.group import cli

            sys.exit(cli.main())
    except KeyboardInterrupt:  # before click takes over
        sys.exit(SIGINT_CODE)
    except Terminated as error:
        sys.exit(error.code)
