"""Every classification network of torchvision, with the weights of its hub.

Preprocessing, categories and layout are read from torchvision's own weights records.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import torch
from torchvision import models

from featx.backbones.catalog import Backbone, register_provider
from featx.errors import WeightsError
from featx.records import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from featx.backbones.reading import Weights

_OLD_DENSENET_KEY = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$"
)
# Published DenseNet weights write `norm.1` where the network has `norm1` (torchvision.models.densenet).


@register_provider("torchvision")
class Torchvision:
    """All of ``torchvision.models.list_models(module=torchvision.models)``."""

    def names(self) -> Sequence[str]:
        """List the classification networks."""
        return _names()

    def find(self, name: str) -> Backbone | None:
        """Read the record of a network from its weights enum."""
        if name not in _names():
            return None
        weights = models.get_model_weights(name)
        default = weights["DEFAULT"]
        first = weights["IMAGENET1K_V1"] if "IMAGENET1K_V1" in weights.__members__ else default
        is_vit = name.startswith("vit_")
        return Backbone(
            name=name,
            provider="torchvision",
            preprocess=_preprocess(first),
            default_preprocess=_preprocess(default),
            default_weights=str(default),
            build=partial(_build, name),
            default_state=partial(_download, name, default),
            channels_last=name.startswith("swin_"),
            class_token=is_vit,
            categories=partial(tuple, default.meta["categories"]),
            adapt_state=_rename_densenet if name.startswith("densenet") else None,
        )


@cache
def _names() -> list[str]:
    return list(models.list_models(module=models))


def _preprocess(weights: models.WeightsEnum) -> Preprocess:
    transform = weights.transforms()
    return Preprocess(
        resize="crop",
        resize_size=transform.resize_size[0],
        image_size=transform.crop_size[0],
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def find_record(name: str, backbone: str) -> Preprocess | None:
    """Find the record of published weights: ``ResNet50_Weights.IMAGENET1K_V2``, or its last part."""
    try:
        if "." in name:
            return _preprocess(models.get_weight(name))
        return _preprocess(models.get_model_weights(backbone)[name])
    except (ValueError, KeyError, AttributeError):
        return None


def _build(name: str, image_size: int) -> nn.Module:
    """Lay the network out as the hub's builder does when it is given weights."""
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # The published weights expect another normalisation, which the network then does itself, and
        # init_weights must be said, or torchvision warns.
        options = {"transform_input": True, "aux_logits": True, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": image_size}
    elif name.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size)}
    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


def _download(name: str, weights: models.WeightsEnum) -> Weights:
    from featx.backbones.reading import Weights, hash_file, read_error

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    try:
        # torch.hub says what it downloads on stdout, where predictions and JSON go.
        with contextlib.redirect_stdout(sys.stderr):
            state = weights.get_state_dict(
                progress=sys.stderr.isatty(), check_hash=True, weights_only=True, map_location="cpu"
            )
        digest, size, mtime_ns = hash_file(path)
    except (OSError, HTTPException) as error:
        raise WeightsError(
            f"The weights {weights} of {name!r} could not be downloaded ({read_error(error)}). "
            f"Give a local file with `--weights FILE`, or use `--backbone featx-tiny`, which is embedded."
        ) from error
    except Exception as error:
        raise WeightsError(
            f"The downloaded weights {path} are damaged ({read_error(error)}). Delete the file and try again."
        ) from error
    return Weights("hub", digest, str(weights), None, size, mtime_ns, state)


def _rename_densenet(state: Mapping[str, Any]) -> dict[str, Any]:
    return {_OLD_DENSENET_KEY.sub(r"\1\2", key): value for key, value in state.items()}
