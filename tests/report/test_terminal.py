from __future__ import annotations

import io

import pytest
from rich.console import Console

from featx.records import Progress
from featx.report.terminal import PlainProgress, print_results, print_table, progress_callback


def printed(results, width=80, **more):
    text = io.StringIO()
    print_results(results, Console(file=text, width=width, **more))
    return text.getvalue()


def test_fits_80_columns_and_shows_intervals(results):
    lines = printed(results).splitlines()
    assert max(map(len, lines)) <= 80
    best = next(line for line in lines if line.lstrip().startswith("*") and "mobilenet" in line)
    assert best.split() == [
        "*",
        "mobilenet_v2",
        "logreg",
        "0.965",
        "±0.012",
        "0.941",
        "[0.892,",
        "0.969]",
        "13",
        "s",
    ]


def test_order_is_that_of_cross_validation(results):
    text = printed(results)
    # By test accuracy the linear SVM (0.935) would stand before the RBF SVM (0.922).
    assert text.index("logreg") < text.index("rbf-svm") < text.index("linear-svm") < text.index("pixels")


def test_ends_with_the_verdict(results):
    text = " ".join(printed(results).split())
    assert "Transfer gained 0.261 [0.190, 0.330] in accuracy over the best reference" in text


def test_several_layers_are_told_apart_at_80_columns(results):
    results["rows"][1]["layer"] = "classifier.4:flatten"
    lines = printed(results).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("classifier.4:flatten" in line for line in lines)


def test_wide_consoles_have_a_column_for_the_layer(results):
    text = printed(results, width=140)
    assert any("adaptive_avg_pool2d:flatten" in line and "rbf-svm" in line for line in text.splitlines())


def test_without_a_test_split(build):
    text = printed(build.results([build.row(), build.row(head="ridge", cv=0.9)], n_test=0))
    assert "test [95 %]" not in text
    assert "0.950 ±0.012" in text


def test_no_escape_codes_without_a_terminal(results):
    assert "\x1b" not in printed(results)


def test_colours_on_a_terminal_but_not_with_no_color(results, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;32m" in printed(results, force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "32m" not in printed(results, force_terminal=True)


def test_names_are_neither_markup_nor_control_characters(build):
    rows = [build.row(backbone="[red]x[/red]\x1b[31m\n", test=(0.9, 0.8, 0.95))]
    text = printed(build.results(rows), width=120)
    assert r"[red]x[/red]\x1b[31m\n" in text
    assert "\x1b" not in text


def test_print_table_aligns_and_trims():
    text = io.StringIO()
    print_table(Console(file=text, width=60), ["name", "n"], [["a[b]c\n", 5], ["d", 1000], ["e", None]])
    lines = text.getvalue().splitlines()
    assert lines[2:] == [r"a[b]c\n     5", "d        1000", "e           –"]


def plain_lines(steps, unit="images"):
    """Feed (seconds, done, total) to the plain progress; its clock is ours."""
    text, now = io.StringIO(), [0.0]
    show = PlainProgress(Console(file=text, width=200), clock=lambda: now[0])
    for now[0], done, total in steps:
        show(Progress("embed", done, total, unit))
    return text.getvalue().splitlines()


def test_plain_progress_tells_rate_and_time_left():
    lines = plain_lines([(0, 0, 1000), (10, 250, 1000), (40, 1000, 1000)])
    assert lines == [
        "embed: 0/1,000 images",
        "embed: 250/1,000 images, 25 images/s, 30 s left",
        "embed: 1,000/1,000 images, 25 images/s, took 40 s",
    ]


def test_plain_progress_is_sparing():
    short = plain_lines([(i * 0.1, i, 100) for i in range(101)])
    assert len(short) == 3  # start, after 5 s, end
    long = plain_lines([(i, i, 10_000) for i in range(10_001)])
    # A tenth takes 1,000 s: a line a minute.
    assert 160 < len(long) < 180


def test_plain_progress_does_not_count_what_was_done_before():
    lines = plain_lines([(0, 850, 1000), (10, 900, 1000)])
    assert lines[1] == "embed: 900/1,000 images, 5 images/s, 20 s left"


def test_plain_progress_without_a_total():
    lines = plain_lines([(0, 0, None), (1, 5, None), (6, 30, None)])
    assert lines == ["embed: 0 images", "embed: 30 images, 5 images/s"]


def test_plain_progress_ends_a_stage_once():
    lines = plain_lines([(0, 0, 2), (1, 2, 2), (9, 2, 2)])
    assert len(lines) == 2


def test_no_terminal_gets_plain_lines():
    text = io.StringIO()
    with progress_callback(Console(file=text)) as on_progress:
        on_progress(Progress("hash", 0, 10))
        on_progress(Progress("hash", 10, 10))
    assert text.getvalue().startswith("hash: 0/10 images\n")
    assert "\x1b" not in text.getvalue()


def test_a_terminal_gets_bars(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    text = io.StringIO()
    with progress_callback(Console(file=text, force_terminal=True, width=80)) as on_progress:
        on_progress(Progress("embed", 0, 1200))
        on_progress(Progress("embed", 600, 1200))
        on_progress(Progress("fit", 1, 3, "heads"))
    shown = text.getvalue()
    assert "600/1,200" in shown
    assert "1/3" in shown


def test_what_is_printed_after_the_last_stage_stays(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=80)
    with progress_callback(console) as on_progress:
        on_progress(Progress("hash", 2, 2))
        on_progress(Progress("fit", 0, 3, "heads"))
        on_progress(Progress("fit", 3, 3, "heads"))
        text.write("a table of somebody else\n")
    # No cursor movement may follow: it would wipe out the table's last lines.
    assert text.getvalue().endswith("a table of somebody else\n")


@pytest.mark.parametrize(("columns", "rows"), [(["a"], []), (["a", "b"], [[1.5, True]])])
def test_print_table_takes_any_values(columns, rows):
    text = io.StringIO()
    print_table(Console(file=text, width=60), columns, rows)
    assert text.getvalue().split()[: len(columns)] == columns
