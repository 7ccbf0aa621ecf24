"""Open a run folder: what every report is drawn from, and nothing else."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featx.errors import FeatxError

SCHEMA = "featx.results/1"
"""The ``schema`` of the ``results.json`` that this version reads."""

_PARTS = {"dataset": dict, "rows": list, "comparisons": list}


@dataclass(frozen=True)
class Run:
    """A run folder, read once.

    Parameters
    ----------
    path : Path
        The folder.
    results : mapping
        What ``results.json`` holds.
    """

    path: Path
    results: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name, which tells runs apart."""
        return self.path.resolve().name

    @cached_property
    def predictions(self) -> Mapping[str, Any]:
        """The arrays of ``predictions.npz``, read at the first use; empty if there is no such file.

        Raises
        ------
        FeatxError
            If the file is there and cannot be read.
        """
        path = self.path / "predictions.npz"
        if not path.exists():
            return {}
        try:
            # Without pickle: a run folder may come from somebody else. Opened here, since NumPy does not
            # close what turns out to be damaged.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise FeatxError(
                f"Cannot read {str(path)!r} ({error}); run `featx fit` again, or delete the file for a "
                "report without per-class scores."
            ) from error

    @cached_property
    def curves(self) -> Mapping[str, Any]:
        """What ``curves.json`` holds; empty if there is no such file."""
        path = self.path / "curves.json"
        return _read_json(path) if path.exists() else {}


def load_run(path: str | os.PathLike[str]) -> Run:
    """Open a run folder.

    Parameters
    ----------
    path : path
        The folder that ``featx fit -o RUN`` wrote, or the ``results.json`` in it.

    Returns
    -------
    Run
        The run; predictions and curves are read when they are asked for.

    Raises
    ------
    FeatxError
        If there is no such folder, or its ``results.json`` is missing, broken or of another schema.

    Examples
    --------
    >>> load_run("no-run")
    Traceback (most recent call last):
        ...
    featx.errors.FeatxError: There is no run folder 'no-run'; give a folder that `featx fit -o RUN` wrote.
    """
    folder = Path(path)
    if folder.name == "results.json" and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        what = f"{str(folder)!r} is a file" if folder.exists() else f"There is no run folder {str(folder)!r}"
        raise FeatxError(f"{what}; give a folder that `featx fit -o RUN` wrote.")
    file = folder / "results.json"
    if not file.is_file():
        raise FeatxError(
            f"{str(folder)!r} holds no results.json, so it is no run folder; give a folder that "
            "`featx fit -o RUN` wrote."
        )
    results = _read_json(file)
    if results.get("schema") != SCHEMA:
        raise FeatxError(
            f"{str(file)!r} has the schema {results.get('schema')!r}, expected {SCHEMA!r}; read it with "
            "the featx that wrote it, or run `featx fit` again."
        )
    for part, kind in _PARTS.items():
        if not isinstance(results.get(part), kind):
            raise FeatxError(
                f"{str(file)!r} has no usable {part!r}, so it is not whole; run `featx fit` again."
            )
    return Run(folder, results)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FeatxError(
            f"Cannot read {str(path)!r} ({error}); run `featx fit` again to write it."
        ) from error
    if not isinstance(content, dict):
        raise FeatxError(
            f"{str(path)!r} holds a JSON {type(content).__name__}, expected an object; run `featx fit` "
            "again to write it."
        )
    return content
