"""Results, tables and progress in the terminal: useful at 80 columns, plain where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from featx.records import Progress as Step
from featx.records import ProgressCallback
from featx.report.wording import (
    UNRELIABLE,
    backbone_name,
    chooser,
    cross_validated,
    format_bytes,
    format_seconds,
    is_number,
    marked_interval,
    plain,
    ranking,
    seconds_of,
)

__all__ = [
    "format_bytes",
    "format_seconds",
    "print_results",
    "print_table",
    "progress_callback",
]

_QUIET_SECONDS = 5.0
"""At least this long between two plain lines of progress."""

_HEARTBEAT_SECONDS = 60.0
"""At most this long, so that a slow job is seen to live."""


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Print the leaderboard and the verdict.

    Rows stand in the order of their cross-validation score; the chosen one has a star. On a narrow
    console the layer stands under the backbone, or under the table where it is always the same.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    console : rich.console.Console
        Where to print. Colours appear on a terminal only, and never with ``NO_COLOR``.
    """
    # Its statistics load SciPy, which the commands that only show progress need not wait for.
    from featx.report.verdict import verdict

    rows, order = results["rows"], ranking(results)
    layers: dict[str, set[str]] = {}
    for row in rows:
        layers.setdefault(backbone_name(row), set()).add(plain(row.get("layer")))
    several = any(len(names) > 1 for names in layers.values())
    wide = console.width >= 110
    tested = any(row.get("test") for row in rows)

    table = Table(box=box.SIMPLE_HEAD, padding=(0, int(wide), 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("backbone, layer" if several and not wide else "backbone", overflow="fold")
    if wide:
        table.add_column("layer", overflow="fold")
    table.add_column("head", overflow="fold")
    table.add_column("cv" if chooser(results) == "cross-validation" else "tuning", no_wrap=True)
    if tested:
        table.add_column("test [95 %]", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for place, index in enumerate(order, start=1):
        row = rows[index]
        chosen = index == results.get("best")
        name, layer = backbone_name(row), plain(row.get("layer"))
        cells = ["*" if chosen else str(place), f"{name}\n{layer}" if several and not wide else name]
        if wide:
            cells.append(layer)
        cells += [plain(row.get("head") or row.get("kind")), cross_validated(row).replace("± ", "±")]
        if tested:
            cells.append(marked_interval((row.get("test") or {}).get("accuracy")))
        cells.append(format_seconds(seconds_of(row)))
        style = "bold green" if chosen else "dim" if row.get("kind") == "reference" else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
    console.print(table)
    legend = f"* chosen by {chooser(results)}"
    legend += "" if "tuning" in legend else " (cv: mean ± sd over folds)"
    legend += "; test: accuracy on images that took no part in any choice" if tested else ""
    if tested and any(
        ((row.get("test") or {}).get("accuracy") or {}).get("reliable") is False for row in rows
    ):
        legend += f"; {UNRELIABLE} unreliable"
    if any(row.get("kind") == "finetune" for row in rows) and len(rows) > 1:
        legend += "; fine-tuning stands last: its tuning score is of one fold and its best epoch"
    _write(console, legend, style="dim")
    if not several and not wide:
        named = [f"{name} {'/'.join(names)}" for name, names in layers.items()]
        _write(console, f"layers: {', '.join(named)}", style="dim")
    console.print()
    _write(console, " ".join(verdict(results)))


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
) -> None:
    """Print any table; a column of nothing but numbers stands to the right.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    columns : sequence of str
        The headings.
    rows : sequence of sequences
        One value a column; numbers are written as they are, control characters escaped.

    Examples
    --------
    >>> print_table(Console(width=40, color_system=None), ["node", "width"], [["layer4", 512], ["fc", 1000]])
    node    width
    ─────────────
    layer4    512
    fc       1000
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for position, column in enumerate(columns):
        cells = [row[position] for row in rows if row[position] is not None]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    # Rich pads every line to the table's width; nobody wants those spaces in a file or a test.
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        console.out(line.rstrip(), highlight=False)


@contextmanager
def progress_callback(console: Console) -> Iterator[ProgressCallback]:
    """Show the progress of long jobs: a bar on a terminal, a plain line now and then elsewhere.

    A plain line comes when a stage starts and ends, and between them at each tenth, but not more
    often than every 5 seconds and at least once a minute.

    Parameters
    ----------
    console : rich.console.Console
        Where to print; for commands that print results on stdout, one on stderr.

    Yields
    ------
    ProgressCallback
        To be handed to a long job.

    Examples
    --------
    >>> import io
    >>> text = io.StringIO()
    >>> with progress_callback(Console(file=text)) as on_progress:
    ...     on_progress(Step("embed", 0, 2))
    ...     on_progress(Step("embed", 2, 2))
    >>> text.getvalue().splitlines()[0]
    'embed: 0/2 images'
    """
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    bars = _Bars(console)
    try:
        yield bars
    finally:
        bars.close()


class _Bars:
    """Bars on a terminal, taken down whenever all stages are done, so that others can print below them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._display: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: Step) -> None:
        display = self._display or self._open()
        count = _count(step)
        if step.stage not in self._tasks:
            # Starting at what is done already keeps reused rows out of the rate.
            self._tasks[step.stage] = display.add_task(
                step.stage,
                total=step.total,
                completed=step.done,
                count=count,
                unit=step.unit,
                note=step.note,
            )
        display.update(
            self._tasks[step.stage], total=step.total, completed=step.done, count=count, note=step.note
        )
        if display.finished:
            self.close()

    def close(self) -> None:
        if self._display is not None:
            self._display.stop()
        self._display, self._tasks = None, {}

    def _open(self) -> Progress:
        self._display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}", markup=False),
            _RateColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
            expand=True,
            # What is piped on must not end up among the bars.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._display.start()
        return self._display


class _RateColumn(ProgressColumn):
    """Units a second, as the library has it for files only."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate(speed, task.fields["unit"]) if speed else "", style="progress.data.speed")


class PlainProgress:
    """Progress in lines, for log files and pipes."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._stages: dict[str, _Stage] = {}

    def __call__(self, step: Step) -> None:
        now = self._clock()
        stage = self._stages.get(step.stage)
        if stage is None:
            self._stages[step.stage] = _Stage(step, now)
            self._line(f"{step.stage}: {_counted(step)}")
            return
        if stage.ended or not stage.is_due(step, now):
            return
        stage.printed, stage.tenths, stage.ended = now, _tenths(step), step.done == step.total
        text = f"{step.stage}: {_counted(step)}"
        elapsed, done = now - stage.started, step.done - stage.first
        if elapsed > 0 and done > 0:
            text += f", {_rate(done / elapsed, step.unit)}"
            if stage.ended:
                text += f", took {format_seconds(elapsed)}"
            elif step.total is not None:
                text += f", {format_seconds((step.total - step.done) * elapsed / done)} left"
        if step.note:
            text += f" ({step.note})"
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.out(plain(text), highlight=False)


class _Stage:
    """When a stage began and what was last said of it."""

    def __init__(self, step: Step, now: float) -> None:
        self.started = self.printed = now
        self.first = step.done
        self.tenths = _tenths(step)
        self.ended = step.done == step.total

    def is_due(self, step: Step, now: float) -> bool:
        if step.done == step.total:
            return True
        waited = now - self.printed
        new_tenth = step.total is None or _tenths(step) > self.tenths
        return waited >= (_QUIET_SECONDS if new_tenth else _HEARTBEAT_SECONDS)


def _tenths(step: Step) -> int:
    return 10 * step.done // step.total if step.total else 0


def _count(step: Step) -> str:
    numbers = [step.done] if step.total is None else [step.done, step.total]
    return "/".join(format_bytes(number) if step.unit == "bytes" else f"{number:,}" for number in numbers)


def _counted(step: Step) -> str:
    return _count(step) if step.unit == "bytes" else f"{_count(step)} {step.unit}"


def _rate(speed: float, unit: str) -> str:
    if unit == "bytes":
        return f"{format_bytes(speed)}/s"
    return f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s" if is_number(speed) else ""


def _write(console: Console, text: str, style: str = "") -> None:
    """Print words wrapped at the console's width; nothing in them is taken for markup."""
    console.print(Text(text, style=style), highlight=False)
