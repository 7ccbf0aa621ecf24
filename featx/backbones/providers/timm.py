"""``timm:NAME`` and ``timm:NAME.TAG``: the networks of timm, each with its own preprocessing.

timm (https://github.com/huggingface/pytorch-image-models) is imported for names with the prefix only. Sizes,
colours, interpolation and crop are read from the record that timm keeps with each tag of published weights.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, fx, nn

from featx.backbones.catalog import Backbone, register_provider
from featx.backbones.tracing import trace
from featx.errors import BackboneError, UnknownNameError, WeightsError
from featx.records import Preprocess, Resize

if TYPE_CHECKING:
    from featx.backbones.reading import Weights

_PREFIX = "timm:"
_INTERPOLATIONS: dict[str, Literal["nearest", "bilinear", "bicubic"]] = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
}
_ONLY_TENSORS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_ANYTHING = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
# Read by torch.load at each call (torch.serialization), whatever its caller asks for.


@register_provider("timm")
class Timm:
    """All of ``timm.list_models(include_tags=True)``, after ``timm:``."""

    def names(self) -> Sequence[str]:
        """Nothing to list: timm would have to be imported, and has more than a thousand networks."""
        return []

    def find(self, name: str) -> Backbone | None:
        """Read the record of a network from timm's own."""
        if not name.startswith(_PREFIX):
            return None
        model = name.removeprefix(_PREFIX)
        config = _config(model)
        preprocess = _preprocess(name, config)
        facts = _facts(model)
        return Backbone(
            name=name,
            provider="timm",
            preprocess=preprocess,
            default_preprocess=preprocess,
            default_weights=_title(config) if config.has_weights else None,
            build=partial(_build, model, facts),
            default_state=partial(_download, model),
            channels_last=facts.channels_last,
            class_token=facts.class_token,
            categories=partial(_categories, config),
            adapt_state=facts.adapt_state,
        )


@dataclass(frozen=True)
class _Facts:
    """What only the network itself tells.

    ``sized`` says whether its builder is told the size of the images, ``untraceable`` that its graph would be
    wrong; ``headless`` names the place of the classifier where there is none, and ``width`` is that of what
    comes out there.
    """

    class_token: bool
    channels_last: bool
    sized: bool
    untraceable: bool
    headless: str | None
    width: int

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the classifier of no classes."""
        if self.headless is None:
            return dict(state)
        return {**state, f"{self.headless}.none.weight": torch.empty(0, self.width)}


class _Embedding(nn.Module):
    """Makes what passes a node of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class _NoClasses(nn.Module):
    """The scores of no classes: where a network ends in its embedding, something has to end it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise BackboneError(
            f"The backbone {name!r} needs timm, which cannot be imported ({error}). Install it with "
            "`pip install timm`."
        ) from error
    return timm


@cache
def _known() -> frozenset[str]:
    models = _timm(_PREFIX).models
    return frozenset(models.list_models()) | frozenset(models.list_models(include_tags=True))


def _config(model: str) -> Any:
    """Give timm's record of a network and tag; without a tag that of timm's default one."""
    timm = _timm(_PREFIX + model)
    if model not in _known():
        raise UnknownNameError(
            "backbone",
            _PREFIX + model,
            [_PREFIX + known for known in _known()],
            "`timm.list_models(include_tags=True)` lists them all.",
        )
    return timm.models.get_pretrained_cfg(model) or timm.models.PretrainedCfg(architecture=model)


def _title(config: Any) -> str:
    return ".".join(part for part in (config.architecture, config.tag) if part)


def _preprocess(name: str, config: Any) -> Preprocess:
    """Translate what ``timm.data.create_transform`` would make of a record.

    Two things have no counterpart, and the nearest is taken: squashed images of which timm cuts the border
    off (``crop_pct`` below 1) keep it, and padded ones fill the square.
    """
    data = _timm(name).data.resolve_data_config(pretrained_cfg=config.to_dict())
    channels, height, width = data["input_size"]
    if channels != 3 or height != width:
        raise BackboneError(
            f"{name!r} takes {channels} channels of {height}×{width} pixels, expected 3 and a square. "
            "Choose another backbone."
        )
    if data["interpolation"] not in _INTERPOLATIONS:
        raise BackboneError(
            f"{name!r} wants the interpolation {data['interpolation']!r}, expected one of "
            f"{', '.join(_INTERPOLATIONS)}. Choose another backbone."
        )
    modes: dict[str, Resize] = {"squash": "squash", "border": "pad"}
    resize = modes.get(data["crop_mode"], "crop")
    return Preprocess(
        resize=resize,
        resize_size=math.floor(height / data["crop_pct"]) if resize == "crop" else height,
        image_size=height,
        interpolation=_INTERPOLATIONS[data["interpolation"]],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


@cache
def _facts(model: str) -> _Facts:
    """Look at the network, built without memory for its parameters where that can be."""
    create = partial(_timm(_PREFIX + model).create_model, model)
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                network: Any = create()
        except RuntimeError:
            # The first versions 1.0 of timm look at tensors while they build transformers.
            network = create()
    config = _config(model)
    end = network.get_classifier() if hasattr(network, "get_classifier") else None
    places = [name for name, module in network.named_modules() if module is end]
    return _Facts(
        class_token=getattr(network, "cls_token", None) is not None
        and getattr(network, "num_prefix_tokens", 1) == 1,
        channels_last=getattr(network, "output_fmt", "NCHW") == "NHWC",
        sized=bool(config.fixed_input_size),
        untraceable=_makes_constants(network, config.input_size[-1]),
        headless=places[0] if places and isinstance(end, nn.Identity) else None,
        width=getattr(network, "head_hidden_size", network.num_features),
    )


def _build(model: str, facts: _Facts, image_size: int) -> nn.Module:
    options = {"img_size": image_size} if facts.sized else {}
    create = partial(_timm(_PREFIX + model).create_model, model, **options)
    network: nn.Module = create()
    if any(table.is_meta for table in _tables(network)):
        # Torch's function modes, such as the one that keeps parameters off memory, belong to one thread.
        with ThreadPoolExecutor(1) as executor:
            network = executor.submit(create).result()
    if facts.untraceable:
        next(network.children()).register_forward_pre_hook(_refuse_tracing)
    if facts.headless is not None:
        # The penultimate node is looked for before the last weights, which here are part of the embedding.
        end = OrderedDict[str, nn.Module](embedding=_Embedding(), none=_NoClasses(facts.width))
        network.set_submodule(facts.headless, nn.Sequential(end))
    return network


def _tables(network: nn.Module) -> list[Tensor]:
    """Give what no weights hold: positions of pairs of patches, masks of windows, rotations."""
    kept = network.state_dict().keys()
    return [buffer for name, buffer in network.named_buffers() if name not in kept]


def _makes_constants(network: nn.Module, image_size: int) -> bool:
    """Whether torch.fx takes what is computed from the tables for constants, which stay on one device."""
    if not _tables(network):
        return False
    trace(network, image_size)
    # The tracer puts them there (torch.fx.Tracer.create_arg).
    return hasattr(network, "_tensor_constant0")


def _refuse_tracing(_: nn.Module, args: tuple[object, ...]) -> None:
    """Leave a network to hooks."""
    if any(isinstance(value, fx.Proxy) for value in args):
        raise TypeError("the tables of this network would be traced as constants")


def _download(model: str) -> Weights:
    """Let timm fetch its weights and fit them, since many are published in another layout."""
    from featx.backbones.reading import Weights, read_error, state_digest

    config = _config(model)
    name = _PREFIX + model
    if not config.has_weights:
        raise WeightsError(
            f"timm has no weights for {name!r}. Give a local file with `--weights FILE`, or use "
            "`--weights none` for random ones."
        )
    try:
        # Progress and advice of the hub go where ours do.
        with contextlib.redirect_stdout(sys.stderr), _tensors_only():
            network: nn.Module = _timm(name).create_model(model, pretrained=True)
    except (OSError, HTTPException) as error:
        raise WeightsError(
            f"The weights {_title(config)} of {name!r} could not be downloaded ({read_error(error)}). "
            f"Give a local file with `--weights FILE`, or use `--backbone featx-tiny`, which is embedded."
        ) from error
    except Exception as error:
        # A damaged file fails in whatever way its reader meets first.
        raise WeightsError(
            f"timm could not read the weights {_title(config)} of {name!r} ({read_error(error)}). Delete "
            "them from the cache of the hub and try again, or give a local file with `--weights FILE`."
        ) from error
    state = network.state_dict()
    size = sum(tensor.nbytes for tensor in state.values())
    return Weights("hub", state_digest(state), _title(config), None, size, -1, state)


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Have torch refuse files that hold code, which some versions of timm would let it run."""
    before = {key: os.environ.pop(key, None) for key in (_ONLY_TENSORS, _ANYTHING)}
    os.environ[_ONLY_TENSORS] = "1"
    try:
        yield
    finally:
        del os.environ[_ONLY_TENSORS]
        os.environ.update({key: value for key, value in before.items() if value is not None})


def _categories(config: Any) -> tuple[str, ...] | None:
    """Name the classes of the subsets of ImageNet, which timm tells by their number."""
    data = _timm(_title(config)).data
    subset = data.infer_imagenet_subset({"num_classes": config.num_classes})
    return None if subset is None else tuple(data.ImageNetInfo(subset).label_descriptions())
