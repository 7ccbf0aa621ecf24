"""Reading a network as a :class:`featx.backbones.graph.Graph`.

:func:`trace` reads it with torch.fx under torchvision's node names
(``torchvision.models.feature_extraction``); where the code of a network cannot be traced, by its modules.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from featx.backbones.graph import PASSED_MODULES, TRACE_ERRORS, TRACING, Graph, Visit, find_node
from featx.backbones.hooks import HookedGraph

__all__ = ["trace"]

_PASSED_FUNCTIONS = (torch.flatten, nn.functional.dropout)
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


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
        return HookedGraph(model, image_size)


class _Tracer(NodePathTracer):  # type: ignore[misc]
    """Lets other threads run their networks as they are: all calls of modules come by here meanwhile."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


class _TracedGraph:
    """torch.fx."""

    def __init__(self, model: nn.Module) -> None:
        leaves = [kind for kind in vars(torchvision.ops).values() if isinstance(kind, type)]
        tracer = _Tracer(
            autowrap_modules=(math, torchvision.ops),
            leaf_modules=[kind for kind in leaves if issubclass(kind, nn.Module)],
        )
        with TRACING:
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
            return isinstance(self._model.get_submodule(str(node.target)), PASSED_MODULES)
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


def _source(node: fx.Node) -> fx.Node | None:
    """Give the first tensor that a node reads, parameters aside."""
    return next((source for source in node.all_input_nodes if source.op != "get_attr"), None)


def _attribute(model: nn.Module, path: str) -> object:
    return operator.attrgetter(path)(model)
