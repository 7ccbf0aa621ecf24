"""The group of commands, and what becomes of errors and signals."""

from __future__ import annotations

import difflib
import errno
from typing import Any

import click

from featx import __version__
from featx.cli.signals import SIGINT_CODE, Terminated
from featx.errors import FeatxError
from featx.records import escape_name


class FeatxGroup(click.Group):
    """Turns featx's errors and signals into one line and an exit code, in this one place."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FeatxError as error:
            kept = "; what was finished is kept" if _is_resumable(ctx) and _is_full(error) else ""
            raise click.ClickException(_line(f"{error}{kept}", error)) from error
        except KeyboardInterrupt as error:
            click.echo(_line(f"Interrupted.{_outlook(ctx)}", error), err=True)
            ctx.exit(SIGINT_CODE)
        except Terminated as error:
            click.echo(_line(f"{error.word}.{_outlook(ctx)}", error), err=True)
            ctx.exit(error.code)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a wrong name is answered with the near ones."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" There is {', '.join(self.commands)}."
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=FeatxGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="featx")
def cli() -> None:
    """Turn a folder of images and a few labels into a classifier you can trust.

    \b
    featx extract photos/ -o photos.h5     embed every image once
    featx fit photos.h5 -o run             tune, fit and compare heads
    featx predict run/model.featx new/     label new images

    `featx demo` shows the whole way on embedded images, offline, in under a minute.
    """  # noqa: D301 - \b is click's own mark


def _outlook(ctx: click.Context) -> str:
    """Say what is kept, where something is."""
    return " What was finished is kept; run the same command to go on." if _is_resumable(ctx) else ""


def _is_resumable(ctx: click.Context) -> bool:
    return ctx.invoked_subcommand == "extract"


def _is_full(error: FeatxError) -> bool:
    return getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _line(text: str, error: BaseException) -> str:
    """Join a text and the notes that were added to the error on its way, in one line."""
    joined = " ".join([text, *getattr(error, "__notes__", [])])
    # A name in a file, or one that was typed, must not reach the terminal as a command to it.
    return escape_name(" ".join(joined.split("\n")))


def _register() -> None:
    from featx.cli import (
        backbones,
        bench,
        classify,
        demo,
        export,
        extract,
        finetune,
        fit,
        import_,
        info,
        layers,
        predict,
        report,
        verify,
    )

    modules = (
        extract,
        fit,
        finetune,
        predict,
        classify,
        report,
        info,
        verify,
        export,
        import_,
        backbones,
        layers,
        bench,
        demo,
    )
    for module in modules:
        cli.add_command(module.command)


_register()
