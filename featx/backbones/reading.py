"""Weights files: reading them without running what is in them, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featx.errors import WeightsError
from featx.records import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Weights",
    "hash_file",
    "preprocess_of",
    "read_error",
    "read_metadata",
    "read_weights",
    "state_digest",
]

_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
# DistributedDataParallel and torch.compile put these before every key.


@dataclass(frozen=True)
class Weights:
    """Weights and where they come from.

    Parameters
    ----------
    kind : {"hub", "file", "random", "embedded"}
        ``embedded`` is also said of a network that is built with its weights.
    digest : str
        SHA-256, hexadecimal: of the file's bytes, or of the state where there is no file.
    origin : str
        In words: a path, the name of a record, a seed.
    seed : int or None
        For random weights.
    size, mtime_ns : int
        Of the file: bytes, nanoseconds; -1 without one.
    state : mapping of str to Tensor, or None
        None if the network is built with its weights.
    metadata : mapping of str to str
        A safetensors file's own; ``preprocess`` and ``categories`` are JSON.
    """

    kind: Literal["hub", "file", "random", "embedded"]
    digest: str
    origin: str
    seed: int | None = None
    size: int = -1
    mtime_ns: int = -1
    state: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def identity(self) -> dict[str, Any]:
        """What stands in a space: the digest, and the seed of random weights."""
        return {"digest": self.digest} if self.seed is None else {"digest": self.digest, "seed": self.seed}


def read_weights(path: Path) -> Weights:
    """Read a weights file; see :func:`featx.backbones.weights.resolve_weights`."""
    try:
        digest, size, mtime_ns = hash_file(path)
    except OSError as error:
        raise WeightsError(
            f"Cannot read the weights {str(path)!r} ({read_error(error)}); expected 'default', 'none', or "
            "the path of a .pth or .safetensors file."
        ) from error
    metadata: Mapping[str, str] = {}
    if path.suffix == ".safetensors":
        metadata = read_metadata(path)
        from safetensors.torch import load_file

        content: object = load_file(path)
    else:
        content = _load_pickle(path)
    return Weights("file", digest, str(path), None, size, mtime_ns, _unwrap(content, path), metadata)


def read_metadata(path: Path) -> Mapping[str, str]:
    """Read the metadata of a safetensors file, without its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"Cannot read the weights {str(path)!r} ({read_error(error)}); expected a safetensors file."
        ) from error


def preprocess_of(metadata: Mapping[str, str], origin: str) -> Preprocess | None:
    """Read the ``preprocess`` record of safetensors metadata, if there is one."""
    if "preprocess" not in metadata:
        return None
    try:
        return Preprocess.from_json(json.loads(metadata["preprocess"]))
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"The preprocess record in {origin} is not readable ({read_error(error)}); "
            "expected the JSON of a Preprocess, or none."
        ) from error


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names (sorted), dtypes, shapes and bytes, hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        import torch

        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_file(path: Path) -> tuple[str, int, int]:
    """SHA-256 (hexadecimal), size in bytes and mtime in nanoseconds of a file."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest(), status.st_size, status.st_mtime_ns


def read_error(error: BaseException) -> str:
    """Give the first line of an error's text, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _load_pickle(path: Path) -> object:
    import torch

    try:
        with warnings.catch_warnings():
            # Files of other origin are warned of and then refused; one line is enough.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file fails in whatever way the unpickler meets first. Its text is not quoted: torch's
        # advice is to load the file in a way that runs the code in it.
        raise WeightsError(
            f"Cannot read the weights {str(path)!r}: they hold more than tensors, or are damaged "
            f"({type(error).__name__}). Expected a state dict saved with torch.save, or safetensors; code in "
            "a file is never run."
        ) from error


def _unwrap(content: object, path: Path) -> OrderedDict[str, Tensor]:
    import torch

    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"The weights {str(path)!r} hold {type(content).__name__}, expected a state dict.")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise WeightsError(
                f"The weights {str(path)!r} hold {type(value).__name__} under {key!r}, expected only tensors "
                "(save network.state_dict())."
            )
    state = OrderedDict(content)
    metadata = getattr(content, "_metadata", {})
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = OrderedDict((key.removeprefix(prefix), value) for key, value in state.items())
            metadata = {f"{key}.".removeprefix(prefix)[:-1]: value for key, value in metadata.items() if key}
    state._metadata = metadata  # type: ignore[attr-defined]
    return state
