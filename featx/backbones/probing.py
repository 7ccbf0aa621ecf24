"""What a network's nodes give: shapes, channels and cost, measured on the meta device without computing.

Channels are the axis that stays when the size of the image changes. This is measured at two sizes, because
the rank tells nothing: Swin and parts of ConvNeXt have their channels last.

A network whose code looks at values, such as ``if x.max() > 6``, is run for real instead, on black images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from featx.backbones.catalog import Backbone
from featx.backbones.graph import TRACE_ERRORS, Graph
from featx.backbones.pooling import Axes
from featx.backbones.reading import read_error
from featx.backbones.tracing import trace
from featx.errors import BackboneError

__all__ = ["Probe", "count_flops", "probe"]

_STEP = 64
# Twice the coarsest stride of common networks, so that every map changes; where a network demands multiples
# of something else (MaxViT, ViT-H/14), twice the size is one.

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Probe:
    """A network that was read but may hold no weights yet.

    ``axes`` has an entry for every node that gives one row of numbers an image.
    """

    model: nn.Module
    graph: Graph
    axes: dict[str, Axes]


class _EmptyOnMeta(TorchFunctionMode):
    """Puts what ``torch.empty`` makes, and so nearly all parameters, on the meta device.

    ``torch.device("meta")`` would do the same to the arithmetic by which RegNet finds its widths.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        options = dict(kwargs or {})
        if func is torch.empty:
            options["device"] = "meta"
        return func(*args, **options)


def _build(backbone: Backbone, image_size: int) -> nn.Module:
    """Build a network in evaluation mode; without memory for parameters, if weights are to follow."""
    if backbone.is_built_with_weights:
        return backbone.build(image_size).eval()
    with _EmptyOnMeta():
        return backbone.build(image_size).eval()


def probe(backbone: Backbone, image_size: int) -> Probe:
    """Build a network, name its nodes and find out what their axes mean.

    Parameters
    ----------
    backbone : Backbone
    image_size : int
        Height and width of the input, in pixels.

    Returns
    -------
    Probe

    Raises
    ------
    BackboneError
        If the network does not take images of this size.

    Examples
    --------
    >>> from featx.backbones.catalog import find_backbone
    >>> probe(find_backbone("pixels"), 8).axes["flatten"].shape
    (192,)
    """
    try:
        model = _build(backbone, image_size)
        graph = trace(model, image_size)
        hollow = _hollow(model, graph)
        first = _shapes(graph, hollow, 2, image_size)
    except TRACE_ERRORS as error:
        raise BackboneError(
            f"{backbone.name!r} does not take images of {image_size}×{image_size} pixels "
            f"({read_error(error)}). Its own size is {backbone.input_size}."
        ) from error
    second = _second_shapes(backbone, graph, hollow, first, image_size)
    axes: dict[str, Axes] = {}
    for name, shape in first.items():
        if len(shape) < 2 or shape[0] != 2 or second.get(name, (3,))[0] != 3:
            continue
        neighbour = next((axes[source] for source in graph.inputs(name) if source in axes), None)
        axes[name] = _axes(shape[1:], second.get(name, ())[1:], neighbour, backbone)
    return Probe(model, graph, axes)


def count_flops(read: Probe, image_size: int) -> dict[str, int]:
    """Count the floating point operations up to and including each node, for a batch of two.

    Only matrix products and convolutions count, two operations a multiplication
    (:class:`torch.utils.flop_counter.FlopCounterMode`).
    """
    counter = FlopCounterMode(display=False)
    counts: dict[str, int] = {}

    def visit(name: str, _: object) -> None:
        counts[name] = counter.get_total_flops()

    images = torch.zeros(2, 3, image_size, image_size, device=read.graph.device)
    with torch.no_grad(), counter:
        read.graph.run(_hollow(read.model, read.graph), images, visit)
    return counts


def _second_shapes(
    backbone: Backbone, graph: Graph, hollow: nn.Module, first: Shapes, image_size: int
) -> Shapes:
    """Shapes at a second size and for three images; of the attempt that came farthest."""
    best: Shapes = {}
    for attempt in _attempts(backbone, graph, hollow, image_size):
        if len(attempt) > len(best):
            best = attempt
        if len(best) >= len(first):
            break
    return best


def _attempts(backbone: Backbone, graph: Graph, hollow: nn.Module, image_size: int) -> Iterator[Shapes]:
    yield _shapes_so_far(graph, hollow, image_size + _STEP)
    for size in (image_size + _STEP, 2 * image_size):
        if not backbone.is_built_with_weights:
            try:
                other = _build(backbone, size)
                graph = trace(other, size)
            except TRACE_ERRORS:
                continue
            yield _shapes_so_far(graph, _hollow(other, graph), size)
        else:
            yield _shapes_so_far(graph, hollow, size)


def _shapes_so_far(graph: Graph, hollow: nn.Module, size: int) -> Shapes:
    """Shapes up to the node that refuses the size, which is where a fixed classifier begins."""
    shapes: Shapes = {}
    try:
        _shapes(graph, hollow, 3, size, shapes)
    except TRACE_ERRORS:
        return shapes
    return shapes


def _shapes(graph: Graph, hollow: nn.Module, n: int, size: int, into: Shapes | None = None) -> Shapes:
    shapes: Shapes = {} if into is None else into

    def visit(name: str, value: object) -> None:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            shapes[name] = tuple(value.shape)

    with torch.no_grad():
        graph.run(hollow, torch.zeros(n, 3, size, size, device=graph.device), visit)
    return shapes


def _hollow(model: nn.Module, graph: Graph) -> nn.Module:
    """Copy the network without its numbers, unless it cannot do without them."""
    # Buffers that no file keeps are not in the state.
    tensors = (*model.state_dict().values(), *model.buffers())
    if graph.device.type != "meta" or all(tensor.is_meta for tensor in tensors):
        return model
    return copy.deepcopy(model).to("meta")


def _axes(shape: tuple[int, ...], other: tuple[int, ...], neighbour: Axes | None, backbone: Backbone) -> Axes:
    if len(shape) == 1:
        return Axes(shape, None)
    channel = _channel(shape, other, neighbour, backbone)
    is_sequence = len(shape) == 2 and channel == 1
    return Axes(shape, channel, backbone.class_token and is_sequence and _has_class_token(shape[0]))


def _channel(
    shape: tuple[int, ...], other: tuple[int, ...], neighbour: Axes | None, backbone: Backbone
) -> int | None:
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    if len(wide) == 1 and (len(other) != len(shape) or other[wide[0]] == shape[wide[0]]):
        return wide[0]
    if len(other) == len(shape):
        constant = [axis for axis in range(len(shape)) if shape[axis] == other[axis]]
        constant = [axis for axis in constant if shape[axis] > 1] or constant
        if len(constant) == 1:
            return constant[0]
        if not constant:
            return None
    if neighbour is not None and neighbour.channel is not None and len(neighbour.shape) == len(shape):
        axis = neighbour.channel
        rest, before = _without(shape, axis), _without(neighbour.shape, axis)
        if shape[axis] == neighbour.shape[axis] or rest == before:
            return axis
    if len(other) != len(shape) and len(shape) == 3:
        return 2 if backbone.channels_last else 0
    return None


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _has_class_token(tokens: int) -> bool:
    """Whether one token more than a square of patches is there: images are square here."""
    return tokens > 1 and math.isqrt(tokens - 1) ** 2 == tokens - 1
