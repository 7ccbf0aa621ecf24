"""The images of the source task: which classes there are, and a pool of pictures of each.

The demo transfers from these rendered pictures to photographed handwriting, so nothing here may be a digit;
see :func:`featx.demo.glyphs.is_numeric`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from featx.demo.fractals import render_ifs, render_julia
from featx.demo.glyphs import SIZE, alphabet, render_glyph
from featx.demo.shapes import OUTLINES, render_outline, render_pen
from featx.demo.textures import TEXTURES, render_texture

__all__ = ["SourceClass", "render_pool", "source_classes"]

_IFS = 40
_JULIA = 16
_PEN = 120


@dataclasses.dataclass(frozen=True)
class SourceClass:
    """One class of the source task.

    Parameters
    ----------
    name : str
        Kind and member, such as ``glyph U+0416``.
    render : callable
        Maps a ``numpy.random.Generator`` to an image (64, 64) of uint8.
    """

    name: str
    render: Callable[[np.random.Generator], npt.NDArray[np.uint8]]


def source_classes() -> tuple[SourceClass, ...]:
    """List the classes of the source task; the index is the label.

    Returns
    -------
    tuple of SourceClass
        Glyphs in Unicode order, then pen strokes, outlines, textures, and fractals.

    Examples
    --------
    >>> classes = source_classes()
    >>> len(classes) > 500, classes[0].name
    (True, 'glyph U+0021')
    """

    def numbered(
        kind: str, count: int, render: Callable[[int, np.random.Generator], npt.NDArray[np.uint8]]
    ) -> list[SourceClass]:
        return [SourceClass(f"{kind} {n}", lambda rng, n=n: render(n, rng)) for n in range(count)]  # type: ignore[misc]

    glyphs = [
        SourceClass(f"glyph U+{ord(character):04X}", lambda rng, c=character: render_glyph(c, rng))  # type: ignore[misc]
        for character in alphabet()
    ]
    return (
        *glyphs,
        *numbered("pen", _PEN, render_pen),
        *numbered("outline", len(OUTLINES), render_outline),
        *numbered("texture", len(TEXTURES), render_texture),
        *numbered("ifs", _IFS, render_ifs),
        *numbered("julia", _JULIA, render_julia),
    )


def render_pool(
    classes: Sequence[SourceClass], per_class: int, *, seed: int = 0
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Render the same number of images of every class.

    Parameters
    ----------
    classes : sequence of SourceClass
        What to render; the position is the label.
    per_class : int
        Images of each class.
    seed : int, default=0
        The image number i of the class number c depends on (seed, c, i) only.

    Returns
    -------
    images : ndarray of uint8, shape (len(classes) * per_class, 64, 64)
        Grey values, class after class; 4,096 bytes an image.
    labels : ndarray of int64, shape (len(classes) * per_class,)
        Index of the class.

    Examples
    --------
    >>> images, labels = render_pool(source_classes()[:2], 3)
    >>> images.shape, labels.tolist()
    ((6, 64, 64), [0, 0, 0, 1, 1, 1])
    """
    images = np.empty((len(classes), per_class, SIZE, SIZE), np.uint8)
    for label, each in enumerate(classes):
        for number in range(per_class):
            images[label, number] = each.render(np.random.default_rng([seed, label, number]))
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), per_class)
    return images.reshape(-1, SIZE, SIZE), labels
