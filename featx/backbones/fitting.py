"""Weights into a network: strict for the part that is used, and the rest is said."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from featx.backbones.reading import Weights, read_error
from featx.errors import WeightsError

__all__ = ["fit_weights"]

_SIZE_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[([^\]]*)\]\) from checkpoint, "
    r"the shape in current model is torch\.Size\(\[([^\]]*)\]\)"
)


def fit_weights(model: nn.Module, weights: Weights, used: Collection[str], name: str) -> list[str]:
    """Put weights into a network, strictly for the part that is used.

    Parameters
    ----------
    model : nn.Module
        Its parameters are replaced, so that it may have been built on the meta device.
    weights : Weights
        With a state.
    used : collection of str
        Keys of the network's state that are needed.
    name : str
        The network's name, for the messages.

    Returns
    -------
    list of str
        One line for what did not fit and was not needed.

    Raises
    ------
    WeightsError
        If a needed key is missing or mis-shaped, or a key belongs nowhere.
    """
    assert weights.state is not None
    state: OrderedDict[str, Any] = OrderedDict(weights.state)
    # Some modules rename keys by the version that saved them, and MNASNet demands one.
    metadata = getattr(weights.state, "_metadata", None) or {
        "": {"version": getattr(model, "_version", None)}
    }
    state._metadata = metadata  # type: ignore[attr-defined]
    misshaped: dict[str, str] = {}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        for key, got, expected in _SIZE_MISMATCH.findall(str(error)):
            misshaped[key] = f"{key} is ({got}), expected ({expected})"
            state.pop(key, None)
        try:
            missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
        except RuntimeError:
            raise WeightsError(
                f"The weights {weights.origin} do not fit {name!r} ({read_error(error)})."
            ) from error
    # BatchNorm's counter is used in training only, and old files do not have it.
    absent = [key for key in missing if not key.endswith("num_batches_tracked") and key not in misshaped]
    faults = {
        "missing": [key for key in absent if key in used],
        "mis-shaped": [text for key, text in misshaped.items() if key in used],
        "unexpected": [key for key in unexpected if not _is_beside(key, model, used)],
    }
    if any(faults.values()):
        listed = "; ".join(f"{what}: {_shorten(keys)}" for what, keys in faults.items() if keys)
        raise WeightsError(
            f"The weights {weights.origin} do not fit {name!r} ({listed}). Give the weights of this network, "
            "or choose the backbone that they belong to."
        )
    ignored = [*misshaped.values(), *unexpected, *(f"{key} is not there" for key in absent)]
    if not ignored:
        return []
    return [f"Weights after the last node asked for were not used, and do not fit: {_shorten(ignored)}."]


def _is_beside(key: str, model: nn.Module, used: Collection[str]) -> bool:
    """Whether a key lies under a module of the network that the used part does not touch."""
    modules = dict(model.named_modules())
    owner = key
    while owner:
        owner = owner.rpartition(".")[0]
        if owner and owner in modules:
            return not any(name.startswith(f"{owner}.") for name in used)
    return False


def _shorten(items: Iterable[str], limit: int = 4) -> str:
    """Write ``a, b, c, d and 12 more``."""
    listed = list(items)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
