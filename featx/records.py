"""The small frozen records that flow from room to room.

Nothing here computes; every room may import this module, and it imports none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FORMAT_VERSION = 1
"""Version of the store format, part of every space."""

PENULTIMATE = "penultimate"
"""Stands for the node before a network's classifier, whatever its name."""

SPLITS = ("train", "val", "test")
"""The names a split can have in a store; ``""`` means that the source names none."""

Resize = Literal["crop", "squash", "pad"]
Precision = Literal["fp32", "bf16", "fp16"]
StoreDtype = Literal["float16", "float32"]
Pooling = Literal["avg", "max", "gem", "cls", "flatten"]

Pixels = NDArray[np.uint8]
"""RGB pixels: (H, W, 3) for one image, (n, H, W, 3) for a batch."""


def escape_name(name: str) -> str:
    r"""Make a file name printable on one line: control characters and stray bytes are escaped.

    Examples
    --------
    >>> escape_name("ants/bad\nname.jpg")
    'ants/bad\\nname.jpg'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name
    )


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source, without its pixels.

    Parameters
    ----------
    name : str
        Path relative to the source, ``/``-separated, as :func:`os.fsdecode` gives it, so that any
        bytes a file system allows survive the round trip.
    label, split, group : str or None
        The class, one of :data:`SPLITS`, and what must stay together (a patient, a site).
    size : int
        Encoded size in bytes, -1 if unknown.
    mtime_ns : int
        Time of the last change in nanoseconds, -1 if unknown.
    columns : mapping of str to str
        Any other columns that the source carries.
    """

    name: str
    label: str | None = None
    split: str | None = None
    group: str | None = None
    size: int = -1
    mtime_ns: int = -1
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that could not be used, and why (``digest`` is ``b""`` if it could not be read)."""

    name: str
    digest: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Preprocess:
    """From a decoded image to the network's input; all of it changes the numbers.

    Parameters
    ----------
    resize : {"crop", "squash", "pad"}
        ``crop``: the shorter side to ``resize_size``, then the central square of ``image_size``
        (torchvision's ``ImageClassification``); ``squash``: straight to the square; ``pad``: the
        longer side to ``image_size``, the rest filled with the mean colour.
    resize_size, image_size : int
        In pixels.
    interpolation : {"nearest", "bilinear", "bicubic"}
        Always with antialiasing, as Pillow has it.
    mean, std : tuple of 3 floats
        Subtracted and divided by, on the scale from 0 to 1.
    """

    resize: Resize
    resize_size: int
    image_size: int
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        """Plain types, for the space and for files."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """Undo :meth:`to_json`."""
        return cls(**{**data, "mean": tuple(data["mean"]), "std": tuple(data["std"])})


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A layer that was asked for: a node of the network and, if named, how to pool it."""

    node: str
    pool: Pooling | None = None


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer as it stands in a store: dataset ``NODE:POOL`` of shape (n, ``dim``)."""

    node: str
    pool: Pooling
    dim: int

    @property
    def name(self) -> str:
        """``NODE:POOL``, the name of the dataset."""
        return f"{self.node}:{self.pool}"

    @property
    def parts(self) -> tuple[LayerInfo, ...]:
        """The layer itself; see :class:`JoinedLayer`."""
        return (self,)

    def to_json(self) -> dict[str, Any]:
        """Plain types, for :func:`layer_from_json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class JoinedLayer:
    """Several layers of one network side by side, as one: ``A+B``.

    Examples
    --------
    >>> joined = JoinedLayer((LayerInfo("layer3", "avg", 256), LayerInfo("flatten", "flatten", 512)))
    >>> joined.name, joined.dim
    ('layer3:avg+flatten:flatten', 768)
    """

    parts: tuple[LayerInfo, ...]

    @property
    def name(self) -> str:
        """Names of the parts, joined by ``+``."""
        return "+".join(part.name for part in self.parts)

    @property
    def dim(self) -> int:
        """Columns of all parts."""
        return sum(part.dim for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain types, for :func:`layer_from_json`."""
        return {"parts": [part.to_json() for part in self.parts]}


Layer = LayerInfo | JoinedLayer
"""What a head is fitted on."""


def layer_from_json(data: Mapping[str, Any]) -> Layer:
    """Undo ``to_json`` of a layer.

    Examples
    --------
    >>> layer_from_json({"node": "layer3", "pool": "avg", "dim": 256}).name
    'layer3:avg'
    """
    if "parts" in data:
        return JoinedLayer(tuple(LayerInfo(**part) for part in data["parts"]))
    return LayerInfo(**data)


@dataclass(frozen=True, slots=True)
class Space:
    """Everything, besides the image and the layer, that changes the numbers of an embedding.

    Two stores hold comparable rows exactly if their :attr:`key` is the same.

    Parameters
    ----------
    provider, backbone : str
        Where the network comes from and its name there.
    weights : mapping
        ``{"digest": hex}``; for random weights also ``{"seed": int}``.
    preprocess : mapping
        :meth:`Preprocess.to_json`.
    decoding : str
        Version of the decoding policy (:data:`featx.images.decoding.POLICY`).
    precision : {"fp32", "bf16", "fp16"}
        The dtype the network computed in.
    store_dtype : {"float16", "float32"}
        The dtype of the stored rows.
    format : int
        Version of the store format.
    """

    provider: str
    backbone: str
    weights: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    decoding: str
    precision: Precision
    store_dtype: StoreDtype
    format: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Undo :meth:`to_json`."""
        return cls(**data)

    @property
    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no white space, ASCII."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @property
    def key(self) -> str:
        """SHA-256 of :attr:`canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @property
    def is_reference(self) -> bool:
        """Whether nothing was learned: raw pixels, or a network with random weights."""
        return self.provider == "pixels" or "seed" in self.weights

    def differences(self, other: Space) -> dict[str, tuple[Any, Any]]:
        """Fields that differ, dotted for nested ones, with both values (own value first)."""
        # By their JSON, as the key: a tuple is a list there, and 1, 1.0, true and nothing are four things.
        mine, theirs = _leaves(json.loads(self.canonical)), _leaves(json.loads(other.canonical))
        return {
            ".".join(path): (mine.get(path), theirs.get(path))
            for path in sorted(mine.keys() | theirs.keys())
            if path not in mine or path not in theirs or json.dumps(mine[path]) != json.dumps(theirs[path])
        }


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """How near embeddings are to those computed in fp32, on a few images.

    Parameters
    ----------
    precision : {"bf16", "fp16"}
        What was tried.
    images : int
    cosine_median, cosine_worst : float
        Of the rows of the layer that bears it worst.
    """

    precision: Precision
    images: int
    cosine_median: float
    cosine_worst: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast images were embedded, and what held them back; in images per second.

    Parameters
    ----------
    images_per_second : float
        From the first image to the last, without starting and finishing.
    decode_per_second, network_per_second : float
        What decoder or network would have given alone, from the time that each took.
    bound_per_second : float
        The most that both together could give, had nothing waited.
    sentence : str
        What held it back, and what to change.
    """

    images_per_second: float
    decode_per_second: float
    network_per_second: float
    bound_per_second: float
    sentence: str

    @property
    def share(self) -> float:
        """Of the bound, what was reached."""
        return self.images_per_second / self.bound_per_second


@dataclass(frozen=True, slots=True)
class ExtractionSummary:
    """What one run of ``extract`` did.

    ``computed`` counts the images that went through the network, ``reused`` those that did not need
    to (known already, or the same bytes as another), ``skipped`` those that cannot be used;
    ``seconds`` is wall time, ``notes`` holds one line for each thing that people should hear of,
    ``removed`` counts the images of the earlier store that the source does not have any more, and
    ``speed`` is None where nothing was computed.
    """

    computed: int
    reused: int
    skipped: int
    seconds: float
    notes: tuple[str, ...] = ()
    removed: int = 0
    speed: Speed | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was predicted for one image: classes and probabilities, the most probable first.

    An image that could not be used has neither, and says why in ``error``.
    """

    name: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a long job, handed to the caller's callback.

    ``total`` is None while it is not known; ``unit`` is the plural of what is counted; ``note`` says how
    it goes, such as the loss of a training.
    """

    stage: str
    done: int
    total: int | None
    unit: str = "images"
    note: str = ""


ProgressCallback = Callable[[Progress], None]
"""What long jobs call with a :class:`Progress`; None means that nobody listens."""


def _leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Give everything that is no object, or an empty one, by the names that lead to it."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {name: leaf for key, below in value.items() for name, leaf in _leaves(below, (*path, key)).items()}
