"""BatchNorm in evaluation mode while its network is trained: folded into the convolution in each pass.

With fixed statistics, BatchNorm after a convolution is the convolution with other weights. Computing
those anew in each pass is the same function with the same gradients for all parameters, but touches some
kilobytes of weights where BatchNorm reads and writes all activations, forwards and backwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import torch
from torch import Tensor, fx, nn

__all__ = ["refold_batchnorm"]


class _NormedConvolution(nn.Module):
    """A convolution with the BatchNorm after it; holds the convolution's tensors under their names."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self._parameters, self._buffers = convolution._parameters, convolution._buffers
        # In lists, so that they are no submodules and no key changes.
        self._convolution, self._norm = [convolution], [norm]

    def forward(self, images: Tensor) -> Tensor:
        convolution, norm = self._convolution[0], self._norm[0]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.affine:
            scale = scale * norm.weight
        bias = -norm.running_mean * scale
        if norm.affine:
            bias = bias + norm.bias
        if convolution.bias is not None:
            bias = bias + convolution.bias * scale
        weight = convolution.weight * scale.view(-1, 1, 1, 1)
        return convolution._conv_forward(images, weight, bias)  # type: ignore[no-any-return]


class _Passed(nn.Module):
    """Holds a BatchNorm's tensors under their names, and does nothing."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self._parameters, self._buffers = norm._parameters, norm._buffers

    def forward(self, images: Tensor) -> Tensor:
        return images


def refold_batchnorm(module: nn.Module, but: Collection[int] = ()) -> int:
    """Let convolutions apply the BatchNorm that follows them.

    Parameters
    ----------
    module : nn.Module
        A traced network, changed in place; names, parameters and buffers stay those they were. Of
        others nothing is folded.
    but : collection of int
        ``id`` of the BatchNorm modules that are to learn statistics.

    Returns
    -------
    int
        How many were folded.

    Examples
    --------
    >>> network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).eval()
    >>> names = list(network.state_dict())
    >>> refold_batchnorm(network), list(network.state_dict()) == names
    (1, True)
    """
    if not isinstance(module, fx.GraphModule):
        return 0
    graph: fx.Graph = module.graph
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    folded = 0
    for node in list(graph.nodes):
        if node.op != "call_module":
            continue
        called = module.get_submodule(str(node.target))
        if isinstance(called, nn.Sequential):  # a leaf of the graph, such as Conv2dNormActivation
            folded += _refold_sequential(called, but)
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        # One that is called twice has two inputs, and may have one BatchNorm for each.
        if max(calls[before.target], calls[node.target]) > 1:
            continue
        convolution = module.get_submodule(str(before.target))
        if _is_pair(convolution, called, but):
            module.set_submodule(str(before.target), _NormedConvolution(convolution, called))  # type: ignore[arg-type]
            module.set_submodule(str(node.target), _Passed(called))  # type: ignore[arg-type]
            folded += 1
    return folded


def _refold_sequential(block: nn.Sequential, but: Collection[int]) -> int:
    folded = 0
    children = list(block.named_children())
    for place, (name, child) in enumerate(children):
        if isinstance(child, nn.Sequential):
            folded += _refold_sequential(child, but)
            continue
        before, convolution = children[place - 1] if place else ("", nn.Identity())
        if _is_pair(convolution, child, but):
            block.set_submodule(before, _NormedConvolution(convolution, child))  # type: ignore[arg-type]
            block.set_submodule(name, _Passed(child))  # type: ignore[arg-type]
            folded += 1
    return folded


def _is_pair(convolution: nn.Module, norm: nn.Module, but: Collection[int]) -> bool:
    # Of exactly these types: a subclass may compute something else.
    return (
        type(convolution) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and norm.running_mean is not None
        and id(norm) not in but
        # Where training begins between the two, the convolution stays on the frozen side.
        and len({tensor.requires_grad for tensor in (*convolution.parameters(), *norm.parameters())}) == 1
    )
