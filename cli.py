"""Launcher: ``python cli.py …`` is ``featx …`` from a checkout."""

from featx.cli import main

if __name__ == "__main__":
    main()
