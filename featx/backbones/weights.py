"""Weights from the hub, a local file, the package or a seed; always with a digest.

No pickle is executed: ``.pth`` files are read with ``weights_only=True``, everything else is safetensors.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from featx.backbones.catalog import find_backbone, list_backbones
from featx.backbones.reading import Weights, preprocess_of, read_metadata, read_weights, state_digest
from featx.errors import UnknownNameError, WeightsError
from featx.records import Preprocess

if TYPE_CHECKING:
    from featx.backbones.catalog import Backbone

__all__ = ["Weights", "default_preprocess", "find_preprocess", "resolve_weights"]


def resolve_weights(
    backbone: Backbone,
    spec: str | os.PathLike[str] = "default",
    *,
    seed: int = 0,
    image_size: int | None = None,
) -> Weights:
    """Load weights for a backbone.

    Parameters
    ----------
    backbone : Backbone
    spec : {"default", "none"} or path
        The backbone's own weights; random ones; or a ``.safetensors`` file, or one that
        ``torch.load(weights_only=True)`` reads. ``{"state_dict": …}``, ``{"model": …}`` and ``module.``
        prefixes are unwrapped.
    seed : int, default=0
        For ``"none"``; torch's global generator is left as it was.
    image_size : int, optional
        In pixels, for networks whose random weights depend on it; default the backbone's own.

    Returns
    -------
    Weights

    Raises
    ------
    WeightsError
        If they cannot be downloaded or read, or the backbone has none.

    Examples
    --------
    >>> from featx.backbones.catalog import find_backbone
    >>> resolve_weights(find_backbone("pixels")).digest[:8]  # of nothing
    'e3b0c442'
    """
    if not backbone.trainable:
        if spec != "default":
            raise WeightsError(
                f"Got weights {os.fspath(spec)!r} for {backbone.name!r}, which has none; "
                "leave the weights at 'default'."
            )
        return Weights("embedded", state_digest({}), "no weights", state={})
    if spec == "none":
        return _random_weights(backbone, seed, image_size or backbone.input_size)
    if spec == "default":
        # Without a loader the network is built with its weights, and network.py takes the digest.
        return backbone.default_state() if backbone.default_state else Weights("embedded", "", backbone.name)
    return read_weights(Path(spec))


def find_preprocess(name: str, backbone: Backbone) -> Preprocess:
    """Find a preprocessing record by name.

    Parameters
    ----------
    name : str
        A backbone, whose record for files is meant; or published weights, as
        ``ResNet50_Weights.IMAGENET1K_V2``, or ``IMAGENET1K_V2`` for those of ``backbone``.
    backbone : Backbone

    Raises
    ------
    UnknownNameError
        If there is no such record.

    Examples
    --------
    >>> from featx.backbones.catalog import find_backbone
    >>> find_preprocess("IMAGENET1K_V2", find_backbone("resnet50")).resize_size
    232
    """
    from featx.backbones.providers.torchvision import find_record

    with suppress(UnknownNameError):
        return find_backbone(name).preprocess
    record = find_record(name, backbone.name)
    if record is None:
        raise UnknownNameError(
            "preprocessing record",
            name,
            list_backbones(),
            "Give a backbone, or published weights such as ResNet50_Weights.IMAGENET1K_V2.",
        )
    return record


def default_preprocess(backbone: Backbone, spec: str | os.PathLike[str] = "default") -> Preprocess:
    """Give the preprocessing that belongs to the weights, without loading them.

    Parameters
    ----------
    backbone : Backbone
    spec : {"default", "none"} or path
        As for :func:`resolve_weights`.

    Returns
    -------
    Preprocess
        The weights' own record; for a file that carries none and for random weights the backbone's.

    Raises
    ------
    WeightsError
        If the record in a file is damaged.

    Examples
    --------
    >>> from featx.backbones.catalog import find_backbone
    >>> default_preprocess(find_backbone("pixels")).resize
    'squash'
    """
    if spec == "default":
        return backbone.default_preprocess
    if spec == "none" or Path(spec).suffix != ".safetensors":
        return backbone.preprocess
    return preprocess_of(read_metadata(Path(spec)), os.fspath(spec)) or backbone.preprocess


def _random_weights(backbone: Backbone, seed: int, image_size: int) -> Weights:
    if backbone.is_built_with_weights:
        raise WeightsError(
            f"Got weights 'none' for {backbone.name!r}, which is built with its own; use 'default' or a file."
        )
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = backbone.build(image_size).state_dict()
    size = sum(tensor.nbytes for tensor in state.values())
    return Weights("random", state_digest(state), f"random, seed {seed}", seed, size, -1, state)
