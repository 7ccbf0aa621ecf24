"""``featx-tiny``: the small network whose weights are part of the package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from featx.backbones.catalog import Backbone, register_provider
from featx.records import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from featx.backbones.reading import Weights

WEIGHTS = Path(__file__).with_name("featx_tiny.safetensors")
"""Made by ``python -m featx.demo.pretrain``; its metadata hold preprocessing and categories."""


@register_provider("embedded")
class Embedded:
    """Networks that need neither a download nor torchvision's weights."""

    def names(self) -> Sequence[str]:
        """Give the one name."""
        return ["featx-tiny"]

    def find(self, name: str) -> Backbone | None:
        """Give the record of ``featx-tiny``, read from its weights file."""
        if name != "featx-tiny":
            return None
        metadata = _metadata()
        preprocess = Preprocess.from_json(json.loads(metadata["preprocess"]))
        return Backbone(
            name=name,
            provider="embedded",
            preprocess=preprocess,
            default_preprocess=preprocess,
            default_weights="embedded",
            build=partial(_build, int(metadata["num_classes"])),
            default_state=_read,
            categories=_categories,
        )


@cache
def _metadata() -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(WEIGHTS, framework="numpy") as file:
        return dict(file.metadata())


def _categories() -> tuple[str, ...]:
    return tuple(json.loads(_metadata()["categories"]))


def _build(num_classes: int, image_size: int) -> nn.Module:  # noqa: ARG001 - takes every size
    from featx.backbones.providers.tiny import tiny_net

    return tiny_net(num_classes)


def _read() -> Weights:
    from featx.backbones.reading import read_weights

    return replace(read_weights(WEIGHTS), kind="embedded", origin=WEIGHTS.name)
