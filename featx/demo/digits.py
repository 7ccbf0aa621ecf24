"""The whole river on real images that everybody has: scikit-learn's handwritten digits.

1,797 digits of 8×8 pixels (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998, CC BY 4.0; the copy bundled with scikit-learn) are written as PNG
class folders. Ten of each class are labelled, the others are the test. Three stores are compared: the
embedded network, the same network with random weights, and the raw pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from featx.errors import FeatxError
from featx.experiment import fit
from featx.extraction import extract
from featx.outcomes import ResultRow
from featx.records import ProgressCallback
from featx.results import Results
from featx.store.reader import FeatureStore

LABELLED = 10
"""Labelled images per class."""

STORES = {
    "featx-tiny": ("featx-tiny", "default"),
    "random": ("featx-tiny", "none"),
    "pixels": ("pixels", "default"),
}
"""What is compared: file name, backbone and weights."""


def write_digits(folder: str | os.PathLike[str], *, labelled: int = LABELLED, seed: int = 0) -> Path:
    """Write the digits as ``train/CLASS/*.png`` and ``test/CLASS/*.png``.

    Parameters
    ----------
    folder : path
        Made if it does not exist; files of the same name are replaced.
    labelled : int, default=10
        Images per class that go to ``train``, drawn at random; the others go to ``test``.
    seed : int, default=0

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FeatxError
        If the folder cannot be written.
    """
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    root = Path(folder)
    try:
        for digit in range(10):
            rows = rng.permutation(np.flatnonzero(target == digit))
            for position, row in enumerate(rows):
                path = root / ("train" if position < labelled else "test") / str(digit) / f"{row:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                grey = np.round(images[row].reshape(8, 8) * (255 / 16)).astype(np.uint8)
                Image.fromarray(grey).save(path)
    except OSError as error:
        raise FeatxError(f"{root} cannot be written: {error.strerror}; choose another with -o") from error
    return root


def run_demo(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
    on_results: Callable[[Results], None] | None = None,
) -> Results:
    """Write the digits, embed them three times, fit three heads on each, and write the run folder.

    Parameters
    ----------
    folder : path
        Gets ``digits/``, three stores, and ``run/``.
    seed : int, default=0
        Which ten images of each class are labelled, and all that is random in the fit.
    on_progress, on_results : callable, optional
        As for :func:`featx.fit`.

    Returns
    -------
    Results

    Raises
    ------
    FeatxError
        If the folder holds something else, or cannot be written.
    """
    root = Path(folder)
    if root.exists() and (not root.is_dir() or (any(root.iterdir()) and not (root / "digits").is_dir())):
        raise FeatxError(f"{root} exists and is no folder of an earlier demo; choose another one with -o")
    digits = write_digits(root / "digits", seed=seed)
    stores: list[FeatureStore] = []
    for name, (backbone, weights) in STORES.items():
        path = root / f"{name}.h5"
        stores.append(
            extract(digits, path, backbone=backbone, weights=weights, seed=seed, on_progress=on_progress)
        )
    return fit(
        stores,
        seed=seed,
        output=root / "run",
        command=f"featx demo -o {root}",
        on_progress=on_progress,
        on_results=on_results,
    )


def transfer_gain(results: Results) -> str:
    """Say in one sentence what pretraining gained over the best reference, on the test images.

    The rows compared are those with the best cross-validated score of their kind; test scores take no
    part in the choice.
    """

    def best(kind: str) -> ResultRow:
        rows = [row for row in results.rows if row.kind == kind]
        return max(rows, key=lambda row: float(row.cv["mean"]))

    ours, reference = best("head"), best("reference")
    gain = 100 * (ours.test["accuracy"].value - reference.test["accuracy"].value)
    what = "raw pixels" if reference.backbone == "pixels" else "the same network with random weights"
    verb = "gained" if gain >= 0 else "lost"
    return (
        f"With {LABELLED} labelled images per class, transfer {verb} {abs(gain):.1f} points of test accuracy "
        f"over the best reference ({what}): {_words(ours)} against {_words(reference)}."
    )


def _words(row: ResultRow) -> str:
    accuracy = row.test["accuracy"]
    return f"{accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})"
