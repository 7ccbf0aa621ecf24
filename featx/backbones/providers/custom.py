"""``custom:package.module:function``: the user's own network, built by a function of theirs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from featx.backbones.catalog import IMAGENET_MEAN, IMAGENET_STD, Backbone, register_provider
from featx.errors import BackboneError
from featx.records import Preprocess

if TYPE_CHECKING:
    from torch import nn

_PREFIX = "custom:"
_RECORD = Preprocess(
    resize="crop",
    resize_size=256,
    image_size=224,
    interpolation="bilinear",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)


@register_provider("custom")
class Custom:
    """A function without arguments that returns a ``torch.nn.Module`` with its weights loaded."""

    def names(self) -> Sequence[str]:
        """Nothing to list: the networks are the user's."""
        return []

    def find(self, name: str) -> Backbone | None:
        """Give a record with ImageNet's usual preprocessing; nothing is imported yet."""
        if not name.startswith(_PREFIX):
            return None
        module, colon, function = name.removeprefix(_PREFIX).partition(":")
        if not (colon and module and function.isidentifier()):
            raise BackboneError(f"Got the backbone {name!r}, expected 'custom:package.module:function'.")
        return Backbone(
            name=name,
            provider="custom",
            preprocess=_RECORD,
            default_preprocess=_RECORD,
            default_weights="as the function returns them",
            build=partial(_build, name, module, function),
        )


def _build(name: str, module: str, function: str, image_size: int) -> nn.Module:  # noqa: ARG001
    from torch import nn

    try:
        builder = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BackboneError(
            f"The backbone {name!r} cannot be imported ({error}). Check the name, and that PYTHONPATH "
            "holds the folder of the module."
        ) from error
    network = builder()
    if not isinstance(network, nn.Module):
        raise BackboneError(
            f"The backbone {name!r} returned {type(network).__name__}, expected a torch.nn.Module."
        )
    return network
