"""The image itself as an embedding: the reference that every pretrained network has to beat."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featx.backbones.catalog import Backbone, register_provider
from featx.records import Preprocess

if TYPE_CHECKING:
    from torch import nn

_RECORD = Preprocess(
    resize="squash",
    resize_size=32,
    image_size=32,
    interpolation="bilinear",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


@register_provider("pixels")
class Pixels:
    """``pixels``: 32×32 RGB in [0, 1], 3072 numbers an image, channel by channel."""

    def names(self) -> Sequence[str]:
        """Give the one name."""
        return ["pixels"]

    def find(self, name: str) -> Backbone | None:
        """Give the record of ``pixels``."""
        if name != "pixels":
            return None
        return Backbone(
            name="pixels",
            provider="pixels",
            preprocess=_RECORD,
            default_preprocess=_RECORD,
            default_weights=None,
            build=_build,
            trainable=False,
        )


def _build(image_size: int) -> nn.Module:  # noqa: ARG001 - every size is flattened alike
    from torch import nn

    return nn.Sequential(OrderedDict(flatten=nn.Flatten()))
