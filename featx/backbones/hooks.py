"""Reading and cutting networks whose code cannot be traced: their modules are the nodes.

Hooks stop the forward pass after the last module that was asked for.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from featx.backbones.graph import PASSED_MODULES, TRACE_ERRORS, Visit
from featx.errors import BackboneError

__all__ = ["HookedGraph"]


class HookedGraph:
    """Modules as nodes.

    Parameters
    ----------
    model : nn.Module
    image_size : int
        Of an input that works, in pixels.
    """

    def __init__(self, model: nn.Module, image_size: int) -> None:
        self._model = model
        self.device = torch.device("meta")
        try:
            self._read(copy.deepcopy(model).to("meta"), image_size)
        except TRACE_ERRORS:
            state = model.state_dict().values()
            if any(tensor.is_meta for tensor in state):
                raise
            # Values can be looked at only where they are computed.
            self.device = next((tensor.device for tensor in state), torch.device("cpu"))
            self._read(model, image_size)
        self.output = self.names[-1]

    def _read(self, model: nn.Module, image_size: int) -> None:
        self.names: list[str] = []
        self._inputs: dict[str, str] = {}
        made: list[tuple[object, str]] = []  # holds the tensors, so that no id is used twice

        def visit(name: str, value: object) -> None:
            made.append((value, name))
            self.names.append(name)

        def enter(name: str, value: object) -> None:
            sources = [maker for tensor, maker in made if tensor is value]
            if sources:
                self._inputs.setdefault(name, sources[-1])

        self._run(model, torch.zeros(2, 3, image_size, image_size, device=self.device), visit, enter)

    def penultimate(self) -> str:
        """Name the module that feeds the last one with parameters."""
        modules = dict(self._model.named_modules())
        leaves = [name for name in self.names if not any(True for _ in modules[name].children())]
        scored = [name for name in leaves if any(True for _ in modules[name].parameters())]
        if not scored or scored[-1] == leaves[0]:
            return self.output
        # Where a function, such as torch.flatten, made the input, no module gave it: the last one before did.
        before = self._inputs.get(scored[-1], leaves[leaves.index(scored[-1]) - 1])
        while isinstance(modules[before], PASSED_MODULES) and before in self._inputs:
            before = self._inputs[before]
        return before

    def inputs(self, name: str) -> Sequence[str]:
        """Name the module whose result a module takes, where one made it."""
        return [self._inputs[name]] if name in self._inputs else []

    def run(self, model: nn.Module, images: Tensor, visit: Visit) -> None:
        """Run the whole network and show what every module gave at its first call."""
        self._run(model, images, visit, lambda *_: None)

    def cut(self, model: nn.Module, nodes: Sequence[str]) -> nn.Module:
        """Give the network with hooks that end its forward pass."""
        return _Stopped(model, nodes).eval()

    def used(self, model: nn.Module, nodes: Sequence[str]) -> set[str]:
        """Keys of the state of all but the modules that are run later only."""
        end = max(self.names.index(name) for name in nodes)
        modules = dict(model.named_modules())
        later = {name for name in self.names[end + 1 :] if not any(True for _ in modules[name].children())}
        return {key for key in model.state_dict() if key.rpartition(".")[0] not in later}

    def _run(self, model: nn.Module, images: Tensor, visit: Visit, enter: Visit) -> None:
        seen: set[str] = set()

        def watch(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
            def before(_: nn.Module, args: tuple[object, ...]) -> None:
                if args:
                    enter(name, args[0])

            def after(_: nn.Module, __: object, value: object) -> None:
                if name not in seen:
                    seen.add(name)
                    visit(name, value)

            return before, after

        handles = []
        for name, module in _submodules(model):
            before, after = watch(name)
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            with torch.no_grad():
                model(images)
        finally:
            for handle in handles:
                handle.remove()


class _Stop(Exception):
    """Leaves the forward pass; no error, all that was asked for is there."""


class _Stopped(nn.Module):
    """A network whose forward pass ends after the last of some modules, at their first call."""

    def __init__(self, model: nn.Module, nodes: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._nodes = tuple(nodes)

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        values: dict[str, Tensor] = {}

        def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
            def hook(_: nn.Module, __: object, value: Tensor) -> None:
                if name not in values:
                    values[name] = value.clone()  # what follows may work in place
                if len(values) == len(self._nodes):
                    raise _Stop

            return hook

        handles = [self.model.get_submodule(name).register_forward_hook(watch(name)) for name in self._nodes]
        try:
            with contextlib.suppress(_Stop):
                self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        missing = [name for name in self._nodes if name not in values]
        if missing:
            raise BackboneError(
                f"The network did not run its module {missing[0]!r} for these images, expected it for all. "
                "Choose a node that every image passes."
            )
        return values


def _submodules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if name)
