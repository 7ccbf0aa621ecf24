"""A network as named nodes in order of execution, and the part of it that some nodes need.

:func:`trace` reads the network with torch.fx under torchvision's node names
(``torchvision.models.feature_extraction``). Where the code of a network cannot be traced, its modules are
the nodes, and hooks stop the forward pass after the last one asked for.
"""

from __future__ import annotations

import contextlib
import copy
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
import torchvision
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from featx.errors import BackboneError

__all__ = ["Graph", "trace"]

Visit = Callable[[str, object], None]
"""Called with the name of a node and what it gave."""

# torch.fx reports what it cannot trace as whatever the network's code happened to raise.
TRACE_ERRORS = (
    ValueError,
    TypeError,
    RuntimeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    AssertionError,
)

_PASSED_MODULES = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_PASSED_FUNCTIONS = (torch.flatten, nn.functional.dropout)
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Graph(Protocol):
    """What both ways of reading a network offer.

    ``names`` are in order of execution; ``output`` is the node that makes the network's own output.
    ``device`` is where :meth:`run` needs network and images: the meta device, unless the network's code
    looks at the values that it computes.
    """

    names: list[str]
    output: str
    device: torch.device

    def penultimate(self) -> str:
        """Name the node that feeds the last module with parameters, before flatten and dropout."""

    def inputs(self, name: str) -> Sequence[str]:
        """Names of the nodes that a node reads."""

    def run(self, model: nn.Module, images: Tensor, visit: Visit) -> None:
        """Run the whole network and show every node's value."""

    def cut(self, model: nn.Module, nodes: Sequence[str]) -> nn.Module:
        """Give a module that returns the values of nodes by name and computes nothing after them."""

    def used(self, model: nn.Module, nodes: Sequence[str]) -> set[str]:
        """Keys of the network's state that the nodes need."""


def trace(model: nn.Module, image_size: int) -> Graph:
    """Read a network.

    Parameters
    ----------
    model : nn.Module
        Set to evaluation mode, whose graph is the one that counts.
    image_size : int
        Of an input that works, in pixels; needed where tracing fails.

    Returns
    -------
    Graph

    Examples
    --------
    >>> graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)), 4)
    >>> graph.names, graph.penultimate()
    (['input', '0', '1', '2', '3'], '1')
    """
    model.eval()
    try:
        return _TracedGraph(model)
    except TRACE_ERRORS:
        return _HookedGraph(model, image_size)


def find_node(graph: Graph, name: str) -> str | None:
    """Find a node by its name, or the last node inside a module; None if there is neither."""
    if name in graph.names:
        return name
    inside = [node for node in graph.names if node.startswith(f"{name}.")]
    return inside[-1] if inside else None


class _TracedGraph:
    """torch.fx."""

    def __init__(self, model: nn.Module) -> None:
        leaves = [kind for kind in vars(torchvision.ops).values() if isinstance(kind, type)]
        tracer = NodePathTracer(
            autowrap_modules=(math, torchvision.ops),
            leaf_modules=[kind for kind in leaves if issubclass(kind, nn.Module)],
        )
        self._graph: fx.Graph = tracer.trace(model)
        self._model = model
        self._names: dict[fx.Node, str] = dict(tracer.node_to_qualname)
        self._names = {node: name for node, name in self._names.items() if node.op != "output"}
        self._nodes = {name: node for node, name in self._names.items()}
        self.names = list(self._nodes)
        self.device = torch.device("meta")
        self._end = next(iter(self._graph.output_node().all_input_nodes))
        self.output = self._names[self._end]

    def penultimate(self) -> str:
        node: fx.Node | None = self._end
        while node is not None and not self._has_parameters(node):
            node = _source(node)
        if node is None:
            return self.output
        before = _source(node)
        if before is None or before.op == "placeholder":
            return self.output
        while self._is_passed(before):
            source = _source(before)
            if source is None or source.op == "placeholder":
                break
            before = source
        return self._layer_name(before)

    def inputs(self, name: str) -> Sequence[str]:
        return [self._names[node] for node in self._nodes[name].all_input_nodes if node in self._names]

    def run(self, model: nn.Module, images: Tensor, visit: Visit) -> None:
        names = self._names

        class Shown(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                value = super().run_node(n)
                if n in names:
                    visit(names[n], value)
                return value

        module = fx.GraphModule(model, self._graph)
        Shown(module, graph=self._graph).run(images)

    def cut(self, model: nn.Module, nodes: Sequence[str]) -> nn.Module:
        # Later nodes are left out before dead code is: assertions inside them count as alive and would
        # keep all that they look at.
        waiting = set(nodes)
        part = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        values: dict[str, fx.Node] = {}
        for node in self._graph.nodes:
            copied[node] = part.node_copy(node, copied.__getitem__)
            name = self._names.get(node, "")
            if name not in waiting:
                continue
            waiting.discard(name)
            # What follows may work in place (ReLU, `out += identity`) and would overwrite the value.
            values[name] = part.call_method("clone", (copied[node],)) if waiting else copied[node]
            if not waiting:
                break
        part.output(values)
        module = fx.GraphModule(model, part)
        module.graph.eliminate_dead_code()
        # Built once more, because only what the graph names is taken over.
        return fx.GraphModule(model, module.graph).eval()

    def used(self, model: nn.Module, nodes: Sequence[str]) -> set[str]:
        return set(self.cut(model, nodes).state_dict())

    def _has_parameters(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return any(True for _ in self._model.get_submodule(str(node.target)).parameters())
        return node.op != "placeholder" and any(
            source.op == "get_attr" and isinstance(_attribute(self._model, str(source.target)), nn.Parameter)
            for source in node.all_input_nodes
        )

    def _is_passed(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self._model.get_submodule(str(node.target)), _PASSED_MODULES)
        if node.op == "call_method":
            return node.target == "flatten"
        if node.target is operator.getitem:
            # A slice of a tensor, such as `x[:, 0]`, the class token; not one of several results.
            return isinstance(node.args[1], tuple)
        return node.target in _PASSED_FUNCTIONS

    def _layer_name(self, node: fx.Node) -> str:
        """Name a layer that is written as several operations by its module, as if it were one."""
        name = self._names[node]
        owner = name.rpartition(".")[0]
        if node.op == "call_module" or not owner or find_node(self, owner) != name:
            return name
        bases = type(self._model.get_submodule(owner)).__mro__
        is_layer = any(b.__module__.startswith("torch.nn.modules") and b not in _CONTAINERS for b in bases)
        return owner if is_layer else name


class _HookedGraph:
    """Modules as nodes, for networks whose code cannot be traced."""

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
        modules = dict(self._model.named_modules())
        leaves = [name for name in self.names if not any(True for _ in modules[name].children())]
        scored = [name for name in leaves if any(True for _ in modules[name].parameters())]
        if not scored or scored[-1] == leaves[0]:
            return self.output
        # Where a function, such as torch.flatten, made the input, no module gave it: the last one before did.
        before = self._inputs.get(scored[-1], leaves[leaves.index(scored[-1]) - 1])
        while isinstance(modules[before], _PASSED_MODULES) and before in self._inputs:
            before = self._inputs[before]
        return before

    def inputs(self, name: str) -> Sequence[str]:
        return [self._inputs[name]] if name in self._inputs else []

    def run(self, model: nn.Module, images: Tensor, visit: Visit) -> None:
        self._run(model, images, visit, lambda *_: None)

    def cut(self, model: nn.Module, nodes: Sequence[str]) -> nn.Module:
        return _Stopped(model, nodes).eval()

    def used(self, model: nn.Module, nodes: Sequence[str]) -> set[str]:
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


def _source(node: fx.Node) -> fx.Node | None:
    """Give the first tensor that a node reads, parameters aside."""
    return next((source for source in node.all_input_nodes if source.op != "get_attr"), None)


def _attribute(model: nn.Module, path: str) -> object:
    return operator.attrgetter(path)(model)
