"""The frozen graph: from decoded pixels to pooled rows, with BatchNorm folded into the convolutions.

Normalising and pooling belong to the graph, so that they are compiled with the network and only uint8 goes
to the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featx.backbones.placement import DTYPES
from featx.backbones.pooling import Axes, pool
from featx.records import Pooling, Precision, Preprocess

__all__ = ["Pooled", "fold_batchnorm"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Pooled(nn.Module):
    """Decoded images in, pooled rows out.

    Parameters
    ----------
    module : nn.Module
        Gives the values of nodes by name, for normalised images.
    cuts : sequence of (node, Axes, pooling)
    preprocess : Preprocess
        For mean and standard deviation.
    precision : {"fp32", "bf16", "fp16"}
        What the network computes in; normalising and pooling are in float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        cuts: Sequence[tuple[str, Axes, Pooling]],
        preprocess: Preprocess,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.network = module
        self.cuts = tuple(cuts)
        self.dtype = DTYPES[precision]
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1), persistent=False)

        self.image_size = preprocess.image_size

    def extra_repr(self) -> str:
        """Say what the modules do not: a compiled network takes images of one size only."""
        return f"image_size={self.image_size}, dtype={self.dtype}"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embed images of shape (n, H, W, 3), uint8; gives a float32 (n, dim) for each cut."""
        # (n, H, W, 3) seen as (n, 3, H, W) is channels-last already: nothing is moved.
        pixels = images.permute(0, 3, 1, 2).float().div_(255).sub_(self.mean).div_(self.std)
        outputs = self.network(pixels.to(self.dtype))
        return tuple(pool(outputs[node], axes, pooling) for node, axes, pooling in self.cuts)


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """Put each BatchNorm into the convolution before it, where nothing else reads that one's output.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, in float32; changed in place. Only what was traced can be folded.

    Returns
    -------
    nn.Module
        The same one.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    graph: fx.Graph = module.graph
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        if node.op != "call_module":
            continue
        called = module.get_submodule(node.target)
        if isinstance(called, nn.Sequential):  # a leaf of the graph, such as Conv2dNormActivation
            module.set_submodule(node.target, _fold_sequential(called))
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        # One that is called twice has two inputs, and may have one BatchNorm for each.
        if max(calls[before.target], calls[node.target]) > 1:
            continue
        fused = _fuse(module.get_submodule(str(before.target)), called)
        if fused is None:
            continue
        module.set_submodule(str(before.target), fused)
        node.replace_all_uses_with(before)
        graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _fold_sequential(block: nn.Sequential) -> nn.Sequential:
    """Fold within a block of which only the last output is seen; the block itself stays as it is."""
    folded: list[nn.Module] = []
    for child in block:
        fused = _fuse(folded[-1], child) if folded else None
        if fused is not None:
            folded[-1] = fused
        else:
            folded.append(_fold_sequential(child) if isinstance(child, nn.Sequential) else child)
    return nn.Sequential(*folded)


def _fuse(convolution: nn.Module, norm: nn.Module) -> nn.Module | None:
    if not isinstance(norm, _NORMS) or not isinstance(convolution, _CONVOLUTIONS):
        return None
    if norm.running_mean is None:
        return None
    return fuse_conv_bn_eval(convolution, norm)
