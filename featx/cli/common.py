"""What several commands share: options, output, progress."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from featx.records import ProgressCallback

if TYPE_CHECKING:
    from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])


class AutoInt(click.ParamType[int | str]):
    """A whole number of at least one, or ``auto``."""

    name = "auto|N"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int | str:
        """Read the value."""
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor auto", param, ctx)
        if number < 1:
            self.fail(f"{number} is less than 1", param, ctx)
        return number


AUTO_INT = AutoInt()


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout."
    )(command)


def seed_option(purpose: str) -> Callable[[Command], Command]:
    """Add ``--seed``, in the range that scikit-learn takes."""
    return click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, metavar="N", help=purpose
    )


def cv_option(purpose: str) -> Callable[[Command], Command]:
    """Add ``--cv``."""
    return click.option(
        "--cv", type=click.IntRange(min=2), default=5, show_default=True, metavar="K", help=purpose
    )


def hold_out_option(command: Command) -> Command:
    """Add ``--test-size``."""
    return click.option(
        "--test-size",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        metavar="F",
        help="Share held out, where the source has no test split.  [default: 0.25]",
    )(command)


def max_skip_option(command: Command) -> Command:
    """Add ``--max-skip``."""
    return click.option(
        "--max-skip",
        type=click.FloatRange(0, 1),
        default=0.1,
        show_default=True,
        metavar="FRACTION",
        help="How many images may be skipped.",
    )(command)


def fast_decode_option(command: Command) -> Command:
    """Add ``--fast-decode``."""
    return click.option(
        "--fast-decode",
        is_flag=True,
        help="Let the decoder scale JPEGs much larger than the input; a space of its own.",
    )(command)


def compile_option(command: Command) -> Command:
    """Add ``--compile``."""
    return click.option(
        "--compile",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Compile the network: auto if the images to come repay it.",
    )(command)


def backbone_options(command: Command) -> Command:
    """Add what says which network, with which weights, on what input."""
    options = [
        click.option(
            "--weights",
            default="default",
            show_default=True,
            metavar="default|none|FILE",
            help="The network's own best, seeded random ones, or a .pth or .safetensors file.",
        ),
        click.option(
            "--preprocess",
            metavar="RECORD",
            help="Another record: a backbone, or published weights such as IMAGENET1K_V2.",
        ),
        click.option(
            "--resize",
            type=click.Choice(["crop", "squash", "pad"]),
            help="How an image becomes square.  [default: as the weights were trained]",
        ),
        click.option("--image-size", type=click.IntRange(min=1), metavar="N", help="Input side in pixels."),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
            default="auto",
            show_default=True,
            help="What the network computes in.",
        ),
    ]
    return _apply(options, command)


def device_options(command: Command) -> Command:
    """Add where and how the network runs."""
    options = [
        click.option(
            "--device",
            default="auto",
            show_default=True,
            metavar="auto|cpu|cuda[:N]|mps",
            help="Where to compute.",
        ),
        click.option(
            "--batch-size", type=AUTO_INT, default="auto", show_default=True, help="Images at a time."
        ),
        click.option(
            "--workers", type=AUTO_INT, default="auto", show_default=True, help="Threads, each on one core."
        ),
    ]
    return _apply(options, command)


class Output:
    """Where a command prints: results to stdout, everything else to stderr.

    With ``--json`` tables go to stderr too, so that stdout holds one JSON object and nothing else.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    @property
    def console(self) -> Console:
        """For tables and summaries."""
        from rich.console import Console

        return Console(stderr=self.as_json, highlight=False)

    def line(self, text: str) -> None:
        """Print one line, however long."""
        click.echo(text, err=self.as_json)

    def json(self, data: Any) -> None:
        """Print the one JSON object, if it was asked for."""
        if self.as_json:
            click.echo(json.dumps(data, indent=1, default=str))

    @contextmanager
    def progress(self) -> Iterator[ProgressCallback]:
        """Show progress on stderr while the block runs."""
        from rich.console import Console

        from featx.report.terminal import progress_callback

        with progress_callback(Console(stderr=True, highlight=False)) as callback:
            yield callback


def command_line() -> str:
    """Give the command as it was typed, for the record."""
    return shlex.join(["featx", *sys.argv[1:]])


def _apply(options: Sequence[Callable[[Any], Any]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
