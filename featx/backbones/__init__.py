"""Frozen networks: find one, load its weights, cut it at nodes, pool, embed.

``catalog`` names the networks without importing torch; ``weights`` reads weights, always with a digest;
``network`` puts both together. Each file in ``providers`` brings one family of networks. What needs torch
is imported from here, where it is used: it is loaded then (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featx.imports import collector_paused

if TYPE_CHECKING:
    from featx.backbones.network import list_nodes, load_classifier, load_network

__all__ = ["list_nodes", "load_classifier", "load_network"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with collector_paused():
        import featx.backbones.network as network
    return getattr(network, name)
