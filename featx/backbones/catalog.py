"""The catalog of backbones: what can be named, and what is known about it before it is built.

Providers register themselves with :func:`register_provider`. Their modules are imported only when a name
may be theirs, so that looking up an embedded network imports neither torch nor torchvision.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from featx.errors import UnknownNameError
from featx.records import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from featx.backbones.reading import Weights

__all__ = ["Backbone", "Provider", "find_backbone", "list_backbones", "register_provider"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_BUILT_IN = ("embedded", "pixels", "custom", "torchvision", "timm")
# Cheap ones first: a name that an early provider knows never imports the later ones.

_providers: dict[str, Provider] = {}


@dataclass(frozen=True)
class Backbone:
    """What is known about a network before it is built.

    Parameters
    ----------
    name : str
        The name as it was asked for, unique among all providers.
    provider : str
        The name of the provider, part of every space.
    preprocess : Preprocess
        The record for weights that carry none: a file, or random ones.
    default_preprocess : Preprocess
        The record of the default weights.
    default_weights : str or None
        What ``weights="default"`` means, in words; None where there is none.
    build : callable
        ``build(image_size)`` gives the network with random weights from torch's global generator, laid out
        as the default weights want it.
    default_state : callable or None
        Loads the default weights; None where the network is built with them.
    channels_last : bool
        Where the channels of a map are, should probing two sizes be impossible.
    class_token : bool
        Whether token sequences begin with a class token.
    trainable : bool
        Whether there are weights at all that could be random or read from a file.
    categories : callable or None
        Gives the names of the classes, in the order of the network's outputs.
    adapt_state : callable or None
        Renames keys of published weights to those of the network.
    """

    name: str
    provider: str
    preprocess: Preprocess
    default_preprocess: Preprocess
    default_weights: str | None
    build: Callable[[int], nn.Module] = field(repr=False, compare=False)
    default_state: Callable[[], Weights] | None = field(default=None, repr=False, compare=False)
    channels_last: bool = False
    class_token: bool = False
    trainable: bool = True
    categories: Callable[[], tuple[str, ...] | None] | None = field(default=None, repr=False, compare=False)
    adapt_state: Callable[[Mapping[str, Any]], dict[str, Any]] | None = field(
        default=None, repr=False, compare=False
    )

    @property
    def input_size(self) -> int:
        """Height and width of the network's input by default, in pixels."""
        return self.preprocess.image_size

    @property
    def is_built_with_weights(self) -> bool:
        """Whether ``build`` gives the weights too, so that what it makes must be kept."""
        return self.trainable and self.default_state is None


class Provider(Protocol):
    """What a provider offers; one instance is registered under its name."""

    def names(self) -> Sequence[str]:
        """Names that can be listed."""

    def find(self, name: str) -> Backbone | None:
        """Give the record, or None if the name is not this provider's."""


ProviderType = TypeVar("ProviderType", bound=type[Provider])


def register_provider(name: str) -> Callable[[ProviderType], ProviderType]:
    """Register a provider class (built without arguments) under a name.

    Parameters
    ----------
    name : str
        The provider's name, as it stands in spaces.

    Raises
    ------
    ValueError
        If the name is taken.

    Examples
    --------
    >>> @register_provider("nothing")
    ... class Nothing:
    ...     def names(self):
    ...         return []
    ...     def find(self, name):
    ...         return None
    >>> register_provider("nothing")(Nothing)
    Traceback (most recent call last):
    ValueError: A provider named 'nothing' is registered already.
    """

    def register(provider: ProviderType) -> ProviderType:
        if name in _providers:
            raise ValueError(f"A provider named {name!r} is registered already.")
        _providers[name] = provider()
        return provider

    return register


def list_backbones() -> list[str]:
    """Name every backbone that needs no prefix, sorted.

    Returns
    -------
    list of str
        Not listed, because their number has no end: ``timm:NAME`` and ``custom:package.module:function``.

    Examples
    --------
    >>> {"featx-tiny", "pixels", "resnet50"} <= set(list_backbones())
    True
    """
    return sorted(name for provider in _all_providers() for name in provider.names())


def find_backbone(name: str) -> Backbone:
    """Look a backbone up by its name.

    Parameters
    ----------
    name : str
        One of :func:`list_backbones`, ``timm:NAME``, or ``custom:package.module:function``.

    Returns
    -------
    Backbone

    Raises
    ------
    UnknownNameError
        If no provider knows the name; the text lists near ones.

    Examples
    --------
    >>> find_backbone("pixels").input_size
    32
    """
    for provider in _all_providers():
        backbone = provider.find(name)
        if backbone is not None:
            return backbone
    raise UnknownNameError("backbone", name, list_backbones(), "`featx backbones` lists them all.")


def _all_providers() -> Iterator[Provider]:
    """Go through the providers, importing the module of a built-in one only when its turn has come."""
    for name in _BUILT_IN:
        if name not in _providers:
            importlib.import_module(f"featx.backbones.providers.{name}")
        yield _providers[name]
    for name, provider in list(_providers.items()):
        if name not in _BUILT_IN:
            yield provider
