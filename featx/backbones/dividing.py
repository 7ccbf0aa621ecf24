"""A network whose beginning is frozen, as two: what never changes, and what is trained."""

from __future__ import annotations

import torch
from torch import fx, nn

__all__ = ["divide"]


def divide(module: nn.Module) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """Divide a traced network where the first parameters are that require a gradient.

    Parameters
    ----------
    module : nn.Module
        Traced, with one input.

    Returns
    -------
    trunk, top : GraphModule, or None
        ``top(*trunk(x))`` is ``module(x)``, with the same modules and tensors. None if the network was
        not traced, or nothing before the first trained module has anything to compute.

    Examples
    --------
    >>> network = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    >>> _ = network.get_submodule("0").requires_grad_(False)
    >>> trunk, top = divide(network)
    >>> x = torch.ones(1, 3)
    >>> bool((top(*trunk(x)) == network(x)).all()), trunk(x)[0].shape
    (True, torch.Size([1, 4]))
    """
    if not isinstance(module, fx.GraphModule):
        return None
    graph: fx.Graph = module.graph
    trained: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "output" or any(source in trained for source in node.all_input_nodes):
            trained.add(node)
        elif node.op == "call_module":
            parameters = module.get_submodule(str(node.target)).parameters()
            if any(parameter.requires_grad for parameter in parameters):
                trained.add(node)
        elif node.op == "get_attr" and _requires_grad(module, str(node.target)):
            trained.add(node)
    handed = [
        node
        for node in graph.nodes
        if node not in trained and node.op != "get_attr" and any(user in trained for user in node.users)
    ]
    if not handed or all(node.op == "placeholder" for node in handed):
        return None
    return _trunk(module, trained, handed), _top(module, trained, handed)


def _trunk(module: fx.GraphModule, trained: set[fx.Node], handed: list[fx.Node]) -> fx.GraphModule:
    part, copied = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in module.graph.nodes:
        if node not in trained:
            copied[node] = part.node_copy(node, copied.__getitem__)
    part.output(tuple(copied[node] for node in handed))
    return _build(module, part)


def _top(module: fx.GraphModule, trained: set[fx.Node], handed: list[fx.Node]) -> fx.GraphModule:
    part, copied = fx.Graph(), dict[fx.Node, fx.Node]()
    for number, node in enumerate(handed):
        copied[node] = part.placeholder(f"handed_{number}")
    for node in module.graph.nodes:
        if node not in copied and (node in trained or node.op == "get_attr"):
            copied[node] = part.node_copy(node, copied.__getitem__)
    return _build(module, part)


def _build(module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    part = fx.GraphModule(module, graph)
    part.graph.eliminate_dead_code()
    # Built once more, because only what the graph names is taken over.
    return fx.GraphModule(module, part.graph)


def _requires_grad(module: nn.Module, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    return isinstance(value, torch.Tensor) and value.requires_grad
