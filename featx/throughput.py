"""What this machine could do, and what held it back.

Decoding alone, the network alone, and both together are measured in turns on the same images; from the
first two follows the bound that the third is compared with.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featx.embedding import choose_preprocess, parse_layer
from featx.environment import environment
from featx.errors import FeatxError
from featx.images.decoding import POLICY, choose_policy
from featx.images.loading import default_workers
from featx.images.sources import SourceLike, list_images, open_source
from featx.images.synthetic import SyntheticSource
from featx.measuring import Feed
from featx.records import LayerSpec, Precision, Preprocess, Progress, ProgressCallback, Resize, escape_name

if TYPE_CHECKING:
    from featx.backbones.engine import Compile
    from featx.backbones.network import Network

ROUNDS = 5
"""Times that everything is measured; what is given is the median."""

GOOD_SHARE = 0.8
"""From this share of the bound on, the bound itself is what holds the machine back."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was measured, in images per second, and on what.

    Parameters
    ----------
    backbone, device : str
    precision : {"fp32", "bf16", "fp16"}
        What the network computed in.
    auto_precision : {"fp32", "bf16", "fp16"}
        What ``auto`` stands for with this network on this device.
    batch_size, workers : int
        Images per forward pass; threads that decoded and, on a CPU, computed.
    compiled : bool
        Whether the network was compiled.
    cores : int
        Processors that this process may use.
    source : str
        Where the images came from, in words.
    images, skipped : int
        Images that were measured on, again and again; images that cannot be used.
    rounds : int
        Measurements of each kind, of which the medians are given.
    decode_per_second : float
        Reading, hashing, decoding and resizing with all workers, and nothing else.
    decode_per_core : float
        The same with one worker.
    network_per_second : float
        The network alone, from decoded batches in memory to embeddings in memory.
    end_to_end_per_second : float
        Both together, as ``extract`` does it; without its start, and without writing the store.
    hardware : mapping
        Of :func:`featx.environment.environment`, with the name of the accelerator if one computed.
    decoding : str
        The policy of decoding, one of :data:`featx.images.decoding.POLICIES`.
    notes : tuple of str
        What the user should know, such as why the network was not compiled.
    """

    backbone: str
    device: str
    precision: Precision
    auto_precision: Precision
    batch_size: int
    workers: int
    compiled: bool
    cores: int
    source: str
    images: int
    skipped: int
    rounds: int
    decode_per_second: float
    decode_per_core: float
    network_per_second: float
    end_to_end_per_second: float
    hardware: Mapping[str, Any]
    decoding: str = POLICY
    notes: tuple[str, ...] = ()

    @property
    def bound(self) -> float:
        """The most that decoder and network can give together, in images per second.

        On a CPU they share the cores, so that the times of an image add up; beside an accelerator the
        slower of the two is the limit.
        """
        decode = self.cores * self.decode_per_core
        if self.device == "cpu":
            return 1 / (1 / self.network_per_second + 1 / decode)
        return min(self.network_per_second, decode)

    @property
    def share(self) -> float:
        """Of the bound, what was reached end to end; measured, so that noise may lift it above 1."""
        return self.end_to_end_per_second / self.bound

    @property
    def sentence(self) -> str:
        """What held the machine back and what to change."""
        return explain(self)

    def to_json(self) -> dict[str, Any]:
        """Plain types, with what follows from the measured numbers."""
        derived = {"bound_per_second": self.bound, "share": self.share, "sentence": self.sentence}
        return dataclasses.asdict(self) | derived


def measure_throughput(
    source: SourceLike | None = None,
    *,
    backbone: str = "featx-tiny",
    weights: str | os.PathLike[str] = "default",
    layers: Sequence[str | LayerSpec] = (),
    preprocess: str | Preprocess | None = None,
    resize: Resize | None = None,
    image_size: int | None = None,
    precision: Precision | Literal["auto"] = "auto",
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    workers: int | Literal["auto"] = "auto",
    compile: Compile = "auto",
    fast_decode: bool = False,
    images: int = 200,
    seconds: float = 16.0,
    on_progress: ProgressCallback | None = None,
) -> Throughput:
    """Measure what this machine can do with a network, and what it does.

    Parameters
    ----------
    source : path, sequence or ndarray, optional
        See :func:`featx.images.sources.open_source`. Default: photo-like JPEGs of 500×375 pixels, rendered
        in memory. Files are read once before anything is measured, so that no disk is.
    backbone : str, default="featx-tiny"
        One of :func:`featx.list_backbones`.
    weights, layers, preprocess, resize, image_size, precision, device, batch_size, workers, fast_decode
        As for :func:`featx.extract`. The speed does not depend on the values of the weights: ``"none"``
        needs no download.
    compile : {"auto", "on", "off"}
        ``on`` compiles first, as many thousands of images would repay; ``auto`` takes what was compiled
        before.
    images : int, default=200
        Number of images that are rendered, or taken at equal distances from the source.
    seconds : float, default=16.0
        Time for measuring. Before come the images and the network; a slow network takes longer, since
        everything is measured once at least.
    on_progress : callable, optional
        Called with a :class:`featx.records.Progress`.

    Returns
    -------
    Throughput

    Raises
    ------
    SourceError
        If no image can be used.
    BackboneError, WeightsError, UnknownNameError
        If there is no such network.

    Examples
    --------
    >>> import featx
    >>> found = featx.measure_throughput(backbone="pixels", device="cpu", images=4, seconds=0.05)
    >>> found.source, found.images, found.bound < found.network_per_second
    ('4 synthetic JPEGs of 500×375', 4, True)
    """
    if images < 1 or not seconds > 0:
        raise FeatxError(f"Got images={images} and seconds={seconds:g}; expected at least 1 and more than 0.")
    opened = SyntheticSource(images) if source is None else open_source(source)
    listed = list_images(opened)
    places = np.linspace(0, len(listed) - 1, min(images, len(listed))).round().astype(int)

    # Late, because it loads torch.
    from featx.backbones import load_network

    network = load_network(
        backbone,
        weights=weights,
        layers=[parse_layer(layer) for layer in layers],
        precision=precision,
        device=device,
        preprocess=choose_preprocess(backbone, weights, preprocess, resize, image_size),
        compile=compile,
    )
    threads = default_workers() if workers == "auto" else workers
    decoding = choose_policy(fast_decode)
    feed = Feed(network, opened, [listed[place] for place in places], batch_size, threads, decoding)

    # Of a round, decoder, single decoder and network take a share each, both together two.
    slot = seconds / (5 * ROUNDS + 2)
    size = feed.warm_up(slot)
    phases: dict[str, Callable[[], float]] = {
        "decode": lambda: feed.decode(threads, slot),
        "decode_one": lambda: feed.decode(1, slot),
        "network": lambda: feed.network_alone(size, slot),
        "end_to_end": lambda: feed.end_to_end(2 * slot),
    }
    rates: dict[str, list[float]] = {name: [] for name in phases}
    report = on_progress or (lambda _step: None)
    started = time.perf_counter()
    for finished in range(1, ROUNDS + 1):
        for place, (name, phase) in enumerate(phases.items()):
            done = (finished - 1) * len(phases) + place
            report(Progress("measure", done, ROUNDS * len(phases), "measurements"))
            rates[name].append(phase())
        needed_for_another = (time.perf_counter() - started) / finished * (finished + 1)
        if needed_for_another > 1.25 * seconds:
            break
    report(Progress("measure", finished * len(phases), finished * len(phases), "measurements"))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return Throughput(
        backbone=network.backbone.name,
        device=network.device,
        precision=network.precision,
        auto_precision=_auto_precision(network),
        batch_size=size,
        workers=threads,
        compiled=network.engine.is_compiled,
        cores=default_workers(),
        source=opened.kind if source is None else f"{opened.kind}, {escape_name(opened.location)}",
        images=len(feed.records),
        skipped=feed.skipped,
        rounds=len(rates["network"]),
        decode_per_second=medians["decode"],
        decode_per_core=medians["decode_one"],
        network_per_second=medians["network"],
        end_to_end_per_second=medians["end_to_end"],
        hardware=_hardware(network),
        decoding=decoding,
        notes=tuple(network.notes),
    )


def _auto_precision(network: Network) -> Precision:
    import torch

    from featx.backbones.placement import resolve_precision

    # A network without parameters has nothing to be rounded, and stays in fp32.
    if network.backbone.provider == "pixels":
        return "fp32"
    return resolve_precision("auto", torch.device(network.device))


def _hardware(network: Network) -> dict[str, Any]:
    import torch

    facts = environment()
    if network.device.startswith("cuda"):
        facts["accelerator"] = torch.cuda.get_device_name(torch.device(network.device))
    return facts


def explain(found: Throughput) -> str:
    """Say in one sentence what held the machine back and what to change."""
    decode, network = found.cores * found.decode_per_core, found.network_per_second
    on_cpu = found.device == "cpu"
    if found.share < GOOD_SHARE:
        if found.workers < found.cores:
            return f"Only {found.workers} of {found.cores} cores were at work: use `--workers auto`."
        return (
            f"{1 - found.share:.0%} of what the bound allows was lost where decoder and network wait for "
            f"each other or for other programs: stop those, or try `--batch-size {2 * found.batch_size}`."
        )
    if decode <= network:
        faster = ", or `--fast-decode` for JPEGs much larger than the input" * (found.decoding == POLICY)
        return (
            f"Decoding held it back ({found.cores} cores decode {decode:.0f} images/s, the network could "
            f"take {network:.0f}): use more cores, or store the images smaller{faster}."
        )
    remedies = ["a smaller backbone", "an earlier `--layer`"]
    if on_cpu and not found.compiled:
        remedies.insert(0, "`--compile on`")
    if found.precision == "fp32" != found.auto_precision:
        remedies.insert(0, f"`--precision auto` ({found.auto_precision} here)")
    remedies.append("a GPU" if on_cpu else f"`--batch-size {2 * found.batch_size}`")
    return (
        f"The network held it back (alone it gives {network:.0f} images/s, the decoder {decode:.0f}): use "
        f"{', '.join(remedies[:-1])}, or {remedies[-1]}."
    )
