"""Write the report of a run, or one over several runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from featx.errors import FeatxError
from featx.files import disk_errors, publish
from featx.report.gallery import Gallery, make_gallery
from featx.report.html import render_html
from featx.report.markdown import render_markdown, render_markdown_runs
from featx.report.runs import load_run

RunPath = str | os.PathLike[str]


def write_report(
    runs: RunPath | Sequence[RunPath], output: RunPath | None = None, *, source: RunPath | None = None
) -> Path:
    """Draw ``report.html`` and ``report.md`` from run folders alone, with thumbnails where images are.

    Parameters
    ----------
    runs : path or sequence of paths
        Run folders, as ``featx fit -o RUN`` writes them. Several give one report with one table that
        compares them.
    output : path, optional
        A folder, or a name that ends in ``.html`` (the Markdown then lies beside it). Default: into the run
        folder; for several runs it must be given.
    source : path, optional
        Where the images lie now, if they moved: what was given to :func:`featx.extract`. By default they are
        looked for where the run says that they lay, and the report does without thumbnails if they are not
        there any more, or come from a URL or a compressed archive.

    Returns
    -------
    Path
        The HTML file: self-contained, it loads nothing from anywhere.

    Raises
    ------
    FeatxError
        If a folder is no run folder, if ``output`` is missing for several runs, if ``source`` is given and
        holds none of the images, or if nothing can be written.

    Examples
    --------
    >>> write_report(["monday", "tuesday"])
    Traceback (most recent call last):
        ...
    featx.errors.FeatxError: 2 runs were given without an output; say where the report goes (-o FOLDER).
    """
    paths = [runs] if isinstance(runs, str | os.PathLike) else [*runs]
    if not paths:
        raise FeatxError("No run was given; give the folder that `featx fit -o RUN` wrote.")
    if len(paths) > 1 and output is None:
        raise FeatxError(
            f"{len(paths)} runs were given without an output; say where the report goes (-o FOLDER)."
        )
    loaded = [load_run(path) for path in paths]
    galleries = [make_gallery(run, None if source is None else os.fspath(source)) for run in loaded]
    _check_source(source, galleries)
    html = _html_path(loaded[0].path if output is None else Path(output))
    if len(loaded) == 1:
        markdown = render_markdown(loaded[0].results, loaded[0].predictions, loaded[0].curves)
    else:
        markdown = render_markdown_runs(loaded)
    with disk_errors(html):
        html.parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((html.with_suffix(".md"), markdown), (html, render_html(loaded, galleries))):
        with publish(path) as file:
            file.write(text.encode())
    return html


def _check_source(source: RunPath | None, galleries: Sequence[Gallery]) -> None:
    """Refuse a source that was asked for and shows nothing; one that the run names may be gone."""
    if source is None or any(gallery.thumbnails.images for gallery in galleries):
        return
    words = [gallery.thumbnails.word for gallery in galleries if gallery.thumbnails.word]
    if words:
        raise FeatxError(f"{words[0]}; give --source what was given to `featx extract`, or leave it out.")


def _html_path(output: Path) -> Path:
    return output if output.suffix == ".html" and not output.is_dir() else output / "report.html"
