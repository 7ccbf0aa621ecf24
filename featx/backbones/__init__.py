"""Frozen networks: find one, load its weights, cut it at nodes, pool, embed.

``catalog`` names the networks without importing torch; ``weights`` reads weights, always with a digest;
``network`` puts both together. Each file in ``providers`` brings one family of networks.
"""
