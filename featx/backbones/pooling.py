"""From a node's output to one vector an image.

What can be pooled follows from the :class:`Axes` of the node, which are measured by probing, never guessed
from the rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, get_args

from featx.errors import BackboneError
from featx.records import Pooling

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Axes", "check_pooling", "default_pooling", "pool", "pooled_size", "possible_poolings"]

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

GEM_POWER = 3.0
GEM_EPSILON = 1e-6
# The values of Radenović et al., 2018 (arXiv:1711.02512), section 3.2 and the authors' code.


@dataclass(frozen=True, slots=True)
class Axes:
    """The shape of a node's output, without the batch, and what its axes mean.

    Parameters
    ----------
    shape : tuple of int
        For one image.
    channel : int or None
        Which axis of ``shape`` holds the channels; None if that cannot be told, and for vectors.
    class_token : bool
        Whether the other axis is a sequence of tokens that begins with the class token.
    """

    shape: tuple[int, ...]
    channel: int | None
    class_token: bool = False

    @property
    def width(self) -> int:
        """Number of channels; for vectors, and where channels cannot be told, of all elements."""
        if self.channel is None:
            return prod(self.shape)
        return self.shape[self.channel]


def check_pooling(name: str) -> Pooling:
    """Accept the name of a pooling.

    Raises
    ------
    BackboneError
        If there is none of that name; the text lists them.

    Examples
    --------
    >>> check_pooling("gem")
    'gem'
    """
    for pooling in POOLINGS:
        if pooling == name:
            return pooling
    raise BackboneError(f"Unknown pooling {name!r}. There is {', '.join(POOLINGS)}.")


def possible_poolings(axes: Axes) -> tuple[Pooling, ...]:
    """List the poolings that a node allows.

    Examples
    --------
    >>> possible_poolings(Axes((512,), None))
    ('flatten',)
    >>> possible_poolings(Axes((197, 768), 1, class_token=True))
    ('avg', 'max', 'gem', 'cls', 'flatten')
    """
    if axes.channel is None:
        return ("flatten",)
    return tuple(pooling for pooling in POOLINGS if pooling != "cls" or axes.class_token)


def default_pooling(axes: Axes) -> Pooling:
    """Give the pooling that suits a node: the class token if there is one, the average of a map.

    Examples
    --------
    >>> default_pooling(Axes((7, 7, 768), 2))
    'avg'
    """
    if axes.channel is None:
        return "flatten"
    return "cls" if axes.class_token else "avg"


def pooled_size(axes: Axes, pooling: Pooling) -> int:
    """Length of the vector that a pooling gives.

    Examples
    --------
    >>> pooled_size(Axes((512, 7, 7), 0), "flatten")
    25088
    """
    return prod(axes.shape) if pooling == "flatten" else axes.width


def pool(output: Tensor, axes: Axes, pooling: Pooling) -> Tensor:
    """Pool a batch, in float32.

    ``avg``, ``max`` and ``gem`` (generalised mean with power 3; Radenović et al., 2018, arXiv:1711.02512)
    run over all axes but batch and channels and leave a class token out; ``cls`` is the class token alone;
    ``flatten`` keeps everything, in the order of the network's own axes.

    Parameters
    ----------
    output : Tensor of shape (n, ...)
        As ``axes.shape`` says.
    axes : Axes
    pooling : {"avg", "max", "gem", "cls", "flatten"}
        One of :func:`possible_poolings`.

    Returns
    -------
    Tensor of shape (n, d), float32
    """
    output = output.float()
    if pooling == "flatten" or axes.channel is None:
        return output.flatten(1)
    tokens = output.movedim(axes.channel + 1, -1)
    if pooling == "cls":
        return tokens[:, 0]
    if axes.class_token:
        tokens = tokens[:, 1:]
    return _REDUCE[pooling](tokens.flatten(1, -2))


def _gem(tokens: Tensor) -> Tensor:
    return tokens.clamp(min=GEM_EPSILON).pow(GEM_POWER).mean(1).pow(1 / GEM_POWER)


_REDUCE: dict[Pooling, Callable[[Tensor], Tensor]] = {
    "avg": lambda tokens: tokens.mean(1),
    "max": lambda tokens: tokens.amax(1),
    "gem": _gem,
}
