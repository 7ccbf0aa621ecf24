"""From a name to a frozen network that is cut at nodes and ready to embed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from featx.backbones.catalog import Backbone, find_backbone
from featx.backbones.embedding import Cut, Network
from featx.backbones.engine import Compile
from featx.backbones.fitting import fit_weights
from featx.backbones.graph import find_node
from featx.backbones.placement import resolve_device, resolve_precision
from featx.backbones.pooling import Axes, check_pooling, default_pooling, pooled_size, possible_poolings
from featx.backbones.probing import Probe, count_flops, probe
from featx.backbones.reading import Weights, state_digest
from featx.backbones.weights import default_preprocess, resolve_weights
from featx.errors import BackboneError, UnknownNameError
from featx.records import PENULTIMATE, LayerInfo, LayerSpec, Pooling, Precision, Preprocess

__all__ = ["Network", "NodeInfo", "list_nodes", "load_classifier", "load_network"]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node of a network.

    Parameters
    ----------
    name : str
        As torchvision's ``get_graph_node_names`` prints it.
    shape : tuple of int
        For one image.
    width : int
        Number of channels, which is the length of the embedding for every pooling but ``flatten``.
    share : float
        Of the network's multiplications, up to and including this node, from 0 to 1.
    poolings : tuple of str
        What is possible, the default first.
    is_penultimate : bool
        Whether ``penultimate``, the default layer, means this node.
    """

    name: str
    shape: tuple[int, ...]
    width: int
    share: float
    poolings: tuple[Pooling, ...]
    is_penultimate: bool


def list_nodes(backbone: str) -> list[NodeInfo]:
    """List the nodes at which a backbone can be cut, in order of execution.

    The name of a module, such as ``layer2``, may be asked for as well; it means the last node inside.

    Parameters
    ----------
    backbone : str
        One of :func:`~featx.backbones.catalog.list_backbones`.

    Returns
    -------
    list of NodeInfo

    Raises
    ------
    UnknownNameError
        If there is no such backbone.

    Examples
    --------
    >>> list_nodes("pixels")[-1].shape
    (3072,)
    """
    record = find_backbone(backbone)
    read = probe(record, record.input_size)
    counts = count_flops(read, record.input_size)
    total = max(counts.values())
    penultimate = find_node(read.graph, read.graph.penultimate())
    return [
        NodeInfo(
            name=name,
            shape=axes.shape,
            width=axes.width,
            share=counts[name] / total if total else 1.0,
            poolings=_default_first(axes),
            is_penultimate=name == penultimate,
        )
        for name, axes in read.axes.items()
    ]


def load_network(
    backbone: str | Backbone,
    *,
    weights: str | os.PathLike[str] = "default",
    layers: Sequence[LayerSpec] = (),
    precision: Precision | Literal["auto"] = "auto",
    device: str = "auto",
    seed: int = 0,
    preprocess: Preprocess | None = None,
    compile: Compile = "off",
    keep_exact: bool = False,
) -> Network:
    """Build a network, load its weights and cut it at the layers asked for.

    Nothing after the last of these nodes is kept, computed, or has to fit the weights.

    Parameters
    ----------
    backbone : str or Backbone
    weights : {"default", "none"} or path, default="default"
        As for :func:`~featx.backbones.weights.resolve_weights`.
    layers : sequence of LayerSpec, default=()
        Nodes, or modules for the last node inside them; ``penultimate`` is found, and the default.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        ``auto`` is bf16 where the hardware has matrix units for it.
    device : {"auto", "cpu", "cuda", "cuda:N", "mps"}, default="auto"
    seed : int, default=0
        For random weights.
    preprocess : Preprocess, optional
        Default: the record in the weights, or the backbone's.
    compile : {"auto", "on", "off"}, default="off"
        ``auto`` compiles once it is known that the images to come repay it.
    keep_exact : bool, default=False
        Keep the network in fp32 as well, for :meth:`Network.check_precision`.

    Returns
    -------
    Network

    Raises
    ------
    UnknownNameError
        If there is no such backbone or node.
    WeightsError
        If the weights cannot be had or do not fit.
    BackboneError
        If the network cannot be pooled as asked, or takes no images of this size.

    Examples
    --------
    >>> import numpy as np
    >>> network = load_network("pixels", device="cpu")
    >>> network.layers
    (LayerInfo(node='flatten', pool='flatten', dim=3072),)
    >>> network.embed(np.full((2, 32, 32, 3), 51, np.uint8))["flatten:flatten"][1, :3]
    array([0.2, 0.2, 0.2], dtype=float32)
    """
    record = find_backbone(backbone) if isinstance(backbone, str) else backbone
    specs = layers or (LayerSpec(PENULTIMATE),)
    return _load(record, weights, specs, precision, device, seed, preprocess, compile, keep_exact)


def load_classifier(
    backbone: str | Backbone,
    *,
    weights: str | os.PathLike[str] = "default",
    precision: Precision | Literal["auto"] = "auto",
    device: str = "auto",
    preprocess: Preprocess | None = None,
    compile: Compile = "off",
) -> Network:
    """Load a network whole, for the classes it was trained on.

    Parameters
    ----------
    backbone, weights, precision, device, preprocess, compile
        As for :func:`load_network`.

    Returns
    -------
    Network
        With one layer, the scores before the softmax, and with ``categories``.

    Raises
    ------
    BackboneError
        If the names of the classes are not known.

    Examples
    --------
    >>> load_classifier("pixels")
    Traceback (most recent call last):
    featx.errors.BackboneError: The classes of 'pixels' are not known. Use a backbone with named classes.
    """
    record = find_backbone(backbone) if isinstance(backbone, str) else backbone
    network = _load(record, weights, None, precision, device, 0, preprocess, compile)
    names = network.weights.metadata.get("categories")
    categories = tuple(json.loads(names)) if names else record.categories() if record.categories else None
    if categories is None or len(categories) != network.layers[0].dim:
        raise BackboneError(
            f"The classes of {record.name!r} are not known. Use a backbone with named classes."
        )
    network.categories = categories
    return network


def _load(
    backbone: Backbone,
    spec: str | os.PathLike[str],
    layers: Sequence[LayerSpec] | None,
    precision: Precision | Literal["auto"],
    device: str,
    seed: int,
    preprocess: Preprocess | None,
    compile: Compile = "off",
    keep_exact: bool = False,
) -> Network:
    target = resolve_device(device)
    part = cut_network(backbone, spec, layers, seed=seed, preprocess=preprocess)
    exact: Precision = "fp32"
    if precision != "auto" or any(True for _ in part.module.parameters()):
        exact = resolve_precision(precision, target)
    return Network(
        backbone,
        part.weights,
        part.module,
        part.cuts,
        precision=exact,
        device=target,
        preprocess=part.preprocess,
        notes=part.notes,
        compile=compile,
        keep_exact=keep_exact,
    )


@dataclass(frozen=True)
class CutNetwork:
    """A network with its weights, cut at layers: what is frozen to embed, or trained on.

    Parameters
    ----------
    read : Probe
        The whole network; its part up to the last layer shares the tensors of ``module``.
    module : nn.Module
        Gives the values of the cuts' nodes by name, for normalised images.
    cuts : list of Cut
    weights : Weights
        Without their state, which the network has taken over.
    preprocess : Preprocess
    notes : list of str
    """

    read: Probe
    module: nn.Module
    cuts: list[Cut]
    weights: Weights
    preprocess: Preprocess
    notes: list[str]


def cut_network(
    backbone: Backbone,
    spec: str | os.PathLike[str],
    layers: Sequence[LayerSpec] | None,
    *,
    seed: int,
    preprocess: Preprocess | None,
) -> CutNetwork:
    """Build a network, load its weights and cut it; ``layers`` None means its own output."""
    record = preprocess or default_preprocess(backbone, spec)
    # Before the weights, so that a wrong name costs no download.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        read = probe(backbone, record.image_size)
    if layers is None:
        node = read.graph.output
        cuts = [_choose(backbone, read, LayerSpec(node, "flatten"))]
    else:
        cuts = list({cut.info: cut for cut in (_choose(backbone, read, spec) for spec in layers)}.values())
    nodes = list(dict.fromkeys(cut.node for cut in cuts))

    weights = resolve_weights(backbone, spec, seed=seed, image_size=record.image_size)
    notes: list[str] = []
    if weights.state is None:
        digest = state_digest(read.model.state_dict())
        weights = Weights("embedded", digest, weights.origin)
    else:
        state = backbone.adapt_state(weights.state) if backbone.adapt_state else weights.state
        notes = fit_weights(
            read.model,
            dataclasses.replace(weights, state=state),
            read.graph.used(read.model, nodes),
            backbone.name,
        )
    module = read.graph.cut(read.model, nodes)
    return CutNetwork(read, module, cuts, dataclasses.replace(weights, state=None), record, notes)


def _choose(backbone: Backbone, read: Probe, spec: LayerSpec) -> Cut:
    """Find the node and the pooling of a layer."""
    name = read.graph.penultimate() if spec.node == PENULTIMATE else spec.node
    node = find_node(read.graph, name)
    if node is None:
        raise UnknownNameError(
            "node", name, read.graph.names, f"`featx layers {backbone.name}` lists them all."
        )
    if node not in read.axes:
        raise BackboneError(
            f"The node {name!r} of {backbone.name!r} gives no numbers image by image, so there is nothing to "
            f"pool. `featx layers {backbone.name}` lists the nodes that do."
        )
    axes = read.axes[node]
    pooling = default_pooling(axes) if spec.pool is None else check_pooling(spec.pool)
    if pooling not in possible_poolings(axes):
        raise BackboneError(
            f"The node {name!r} of {backbone.name!r}, of shape {axes.shape}, has no pooling {pooling!r}. "
            f"Possible: {', '.join(possible_poolings(axes))}."
        )
    return Cut(LayerInfo(name, pooling, pooled_size(axes, pooling)), node, axes)


def _default_first(axes: Axes) -> tuple[Pooling, ...]:
    first = default_pooling(axes)
    return (first, *(pooling for pooling in possible_poolings(axes) if pooling != first))
