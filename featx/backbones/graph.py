"""A network as named nodes in order of execution, and the part of it that some nodes need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["PASSED_MODULES", "TRACE_ERRORS", "TRACING", "Graph", "Visit", "find_node"]

TRACING = threading.RLock()
"""Held while torch.fx, or what is built on it, traces a network: it replaces methods of every module in the
process meanwhile, and two that do so at once would not put the right ones back."""

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

PASSED_MODULES = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
"""Between the last layer of a network and the classifier, and no layer themselves."""


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


def find_node(graph: Graph, name: str) -> str | None:
    """Find a node by its name, or the last node inside a module; None if there is neither."""
    if name in graph.names:
        return name
    inside = [node for node in graph.names if node.startswith(f"{name}.")]
    return inside[-1] if inside else None
