"""A network that can be trained: cut and pooled as the frozen one, but differentiable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featx.backbones.catalog import find_backbone
from featx.backbones.dividing import divide
from featx.backbones.network import CutNetwork, cut_network
from featx.backbones.placement import resolve_device, resolve_precision
from featx.backbones.pooling import pool
from featx.backbones.refolding import refold_batchnorm
from featx.errors import BackboneError, UnknownNameError
from featx.records import PENULTIMATE, LayerSpec, Precision, Preprocess

__all__ = ["TrainableNetwork", "load_trainable"]

_LAST = "last:"


class TrainableNetwork(nn.Module):
    """Images to pooled rows, with gradients; made by :func:`load_trainable`.

    BatchNorm stays in evaluation mode when the rest is set to training, except in unfrozen modules
    with ``train_batchnorm``; so does all that comes before the first unfrozen module.

    Attributes
    ----------
    unfrozen : tuple of str
        Modules whose parameters are trained, in order of execution.
    has_trunk : bool
        Whether something is computed before the first of them, by :meth:`trunk`.
    layer : LayerInfo
        Where the network is cut, and the length of a row.
    weights : Weights
        What it started from.
    preprocess : Preprocess
        Of the images that it expects.
    precision : {"fp32", "bf16"}
        What the forward pass computes in; parameters and pooled rows are fp32.
    device : torch.device
    notes : tuple of str
        What the user should know, one line each.
    """

    def __init__(
        self,
        part: CutNetwork,
        unfrozen: Sequence[str],
        *,
        train_batchnorm: bool,
        precision: Precision,
        device: torch.device,
    ) -> None:
        super().__init__()
        self._cut = part.cuts[0]
        self._whole = [part.read.model]  # in a list, so that it is no submodule
        self._used = part.read.graph.used(part.read.model, [self._cut.node])
        self.layer = self._cut.info
        self.weights = part.weights
        self.preprocess = part.preprocess
        self.notes = tuple(part.notes)
        self.precision = precision
        self.device = device
        modules = dict(part.read.model.named_modules())
        part.module.requires_grad_(requires_grad=False)
        for name in unfrozen:
            for parameter in modules[name].parameters(recurse=False):
                parameter.requires_grad_()
        self.unfrozen = tuple(unfrozen)
        trained = {id(modules[name]) for name in unfrozen} if train_batchnorm else set()
        refold_batchnorm(part.module, but=trained)
        self._kept = [
            module
            for module in part.module.modules()
            if isinstance(module, _BatchNorm) and id(module) not in trained
        ]
        self._module = part.module.to(device, torch.float32).to(memory_format=torch.channels_last)
        # In a list as well: they are made of the same modules.
        self._parts = list(divide(self._module) or ())
        self._plain: nn.Module
        # Past nn.Module, which would take it for a submodule.
        self.__dict__["_plain"] = self._parts[1] if self._parts else self._module
        self._compiled: Callable[..., Any] | None = None
        for name in ("mean", "std"):
            values = torch.tensor(getattr(part.preprocess, name), device=device).view(3, 1, 1)
            self.register_buffer(f"_{name}", values, persistent=False)
        self._mean: Tensor
        self._std: Tensor
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch.

        Parameters
        ----------
        images : Tensor of uint8, (n, 3, H, W)
            RGB, with H and W as in ``preprocess.image_size``, on any device.

        Returns
        -------
        Tensor of float32, (n, layer.dim)
        """
        return self.top(*self.trunk(images))

    def trunk(self, images: Tensor) -> tuple[Any, ...]:
        """Compute what does not change while the network is trained: what :meth:`top` takes."""
        with torch.no_grad(), self._autocast():
            pixels = images.to(self.device).float().div_(255).sub_(self._mean).div_(self._std)
            return self._parts[0](pixels) if self._parts else (pixels,)

    def top(self, *values: Any) -> Tensor:
        """Compute the pooled rows, (n, layer.dim), float32, from what :meth:`trunk` gives."""
        compute = self._compiled if self._compiled and self.training else self._plain
        with self._autocast():
            output = compute(*values)[self._cut.node]
        return pool(output, self._cut.axes, self.layer.pool)

    @property
    def has_trunk(self) -> bool:
        """Whether :meth:`trunk` does more than normalise."""
        return bool(self._parts)

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """Give the parameters that an unfrozen module owns itself."""
        return list(dict(self._whole[0].named_modules())[name].parameters(recurse=False))

    def compile(self, *_: Any, **__: Any) -> None:
        """Compile what is computed in training mode."""
        self.__dict__["_compiled"] = torch.compile(self._plain, dynamic=True)

    def train(self, mode: bool = True) -> TrainableNetwork:
        """Set the mode; see the class for what stays in evaluation mode."""
        super().train(mode)
        for module in self._parts[:1] + self._kept:
            module.eval()
        return self

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def to_safetensors(self) -> bytes:
        """Write the weights up to the layer under the network's own names, with the preprocessing.

        What :func:`featx.extract` reads as ``weights``.
        """
        from safetensors.torch import save

        state = self._whole[0].state_dict()
        tensors = {
            key: value.detach().cpu().contiguous().clone()
            for key, value in state.items()
            if key in self._used
        }
        return save(tensors, {"preprocess": json.dumps(self.preprocess.to_json())})


def load_trainable(
    backbone: str,
    *,
    weights: str | os.PathLike[str] = "default",
    layer: LayerSpec | None = None,
    unfreeze: str = "all",
    train_batchnorm: bool = False,
    precision: Precision | Literal["auto"] = "auto",
    device: str = "auto",
    seed: int = 0,
    preprocess: Preprocess | None = None,
) -> TrainableNetwork:
    """Build a network, load its weights, cut it at a layer and unfreeze its end.

    Parameters
    ----------
    backbone, weights, device, seed, preprocess
        As for :func:`~featx.backbones.network.load_network`.
    layer : LayerSpec, optional
        Where to cut; the penultimate node by default.
    unfreeze : str, default="all"
        ``all``; ``last:K`` for the last K modules that own parameters; or a node or module, from which
        on everything is trained.
    train_batchnorm : bool, default=False
        Whether BatchNorm of unfrozen modules uses and learns the statistics of batches.
    precision : {"auto", "fp32", "bf16"}, default="auto"
        Of the forward pass.

    Returns
    -------
    TrainableNetwork
        In evaluation mode.

    Raises
    ------
    BackboneError
        If there is nothing to train, or the precision cannot be trained in.
    UnknownNameError
        If there is no such backbone, layer or module.
    WeightsError
        If the weights cannot be had or do not fit.

    Examples
    --------
    >>> network = load_trainable("featx-tiny", unfreeze="layer4", device="cpu")
    >>> network.layer.dim
    256
    >>> [name for name, parameter in network.named_parameters() if parameter.requires_grad][0]
    '_module.layer4.conv1.weight'
    """
    target = resolve_device(device)
    exact = resolve_precision(precision, target)
    if exact == "fp16":
        raise BackboneError("Training in fp16 is not possible; expected auto, fp32 or bf16.")
    record = find_backbone(backbone)
    part = cut_network(record, weights, (layer or LayerSpec(PENULTIMATE),), seed=seed, preprocess=preprocess)
    unfrozen = _unfrozen(backbone, part, unfreeze)
    return TrainableNetwork(part, unfrozen, train_batchnorm=train_batchnorm, precision=exact, device=target)


def _unfrozen(backbone: str, part: CutNetwork, unfreeze: str) -> list[str]:
    """Names of the modules to train."""
    cut = part.cuts[0]
    names = part.read.graph.names
    used = part.read.graph.used(part.read.model, [cut.node])
    owners = {key.rpartition(".")[0] for key, _ in part.read.model.named_parameters() if key in used}
    order = {owner: _position(names, owner) for owner in owners}
    # By name among equals: a module that is not a node of its own stands where its parts begin.
    modules = sorted(owners, key=lambda owner: (order[owner], owner))
    if not modules:
        raise BackboneError(
            f"{backbone!r} has no parameters up to {cut.info.node!r}, so there is nothing to fine-tune; "
            "choose another backbone or layer."
        )
    if unfreeze == "all":
        return modules
    if unfreeze.startswith(_LAST):
        count = unfreeze.removeprefix(_LAST)
        if not count.isdecimal() or not 1 <= int(count) <= len(modules):
            raise BackboneError(
                f"Got unfreeze {unfreeze!r}, expected last:K with K from 1 to {len(modules)}, the modules of "
                f"{backbone!r} with parameters up to {cut.info.node!r}."
            )
        return modules[-int(count) :]
    start = next((i for i, name in enumerate(names) if _is_inside(name, unfreeze)), None)
    if start is None:
        hint = f"Or all, or last:K; `featx layers {backbone}` lists the nodes."
        raise UnknownNameError("node to unfreeze", unfreeze, names, hint)
    chosen = [name for name in modules if order[name] >= start]
    if not chosen:
        raise BackboneError(
            f"Nothing from {unfreeze!r} to {cut.info.node!r}, where {backbone!r} is cut, has parameters; "
            "unfreeze an earlier node."
        )
    return chosen


def _position(names: Sequence[str], module: str) -> int:
    """Where a module first takes part; modules inside a node stand at that node."""
    return next(
        (i for i, name in enumerate(names) if _is_inside(name, module) or _is_inside(module, name)), 0
    )


def _is_inside(name: str, module: str) -> bool:
    return not module or name == module or name.startswith(f"{module}.")
