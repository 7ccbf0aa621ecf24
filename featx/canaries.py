"""Before rows are added to others: a few images are embedded again and compared with their rows.

What identifies a space is written down; what computes it is not all known: another build of torch,
another processor, a custom network whose code was changed. Where these give other numbers, old and
new rows must not stand side by side.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from featx.embedding import embed
from featx.environment import environment
from featx.errors import DriftError, ImageError
from featx.images.loading import digest_of
from featx.images.sources import Source
from featx.records import ImageRecord, Precision
from featx.store.partswriter import PartsWriter
from featx.store.rounding import share_lost

if TYPE_CHECKING:
    from featx.backbones.network import Network

__all__ = ["CANARIES", "TOLERANCE", "check_drift"]

CANARIES = 4
"""Images that are embedded again."""

MOST_READ = 1000
"""Files that are read to find them, where no index tells whose rows there are."""

TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
"""Relative L2 distance at which two computations of one row are no longer the same.

One network in fp32 differs by 2e-7 between batch sizes and by nothing between torch 2.11 and 2.15 on
one processor; bf16 differs from fp32 by up to 6e-2 (MobileNetV2, ImageNet weights, 24 photos), which
bounds what another order of summation can do; fp16 has three bits more. Another image, other weights
or another decoder's colours are far beyond.
"""


def check_drift(
    network: Network,
    source: Source,
    records: Sequence[ImageRecord],
    writer: PartsWriter,
    trusted: Mapping[str, tuple[int, int, bytes]],
) -> None:
    """Embed a few images whose rows are known, and compare; does nothing where none is known.

    Parameters
    ----------
    network : Network
        What will compute the new rows; or, where only layers are added, the same cut at an old one.
    source, records : Source, sequence of ImageRecord
        Where the images are.
    writer : PartsWriter
        Entered; holds the rows.
    trusted : mapping of name to (size, mtime_ns, digest)
        Digests that need no reading.

    Raises
    ------
    DriftError
        If a row differs beyond :data:`TOLERANCE`.
    """
    canaries = _choose(source, records, writer.partly_known(network.layers), trusted)
    worst = 0.0
    stream = embed(network, source, canaries, decoding=writer.space.decoding)
    for batch in stream:
        if not batch.indices:
            continue
        for layer in network.layers:
            has_row, rows = writer.stored(layer, batch.digests)
            computed = batch.features[layer.name][has_row]
            again, there = computed.astype(np.float64), rows.astype(np.float64)
            norm = np.maximum(np.linalg.norm(again, axis=1), np.linalg.norm(there, axis=1))
            distance = np.linalg.norm(again - there, axis=1)
            # Rounding to the stored dtype is no drift.
            beyond = np.divide(distance, norm, out=np.zeros_like(norm), where=norm > 0)
            worst = max(worst, float((beyond - share_lost(computed, rows.dtype)).max(initial=0)))
    limit = TOLERANCE[network.precision]
    if worst > limit:
        raise DriftError(
            f"{writer.path} holds rows that are computed differently now: {len(canaries)} of its images, "
            f"embedded again, differ by up to {worst:.2g} (relative L2; {network.precision} may differ by "
            f"{limit:g}).{_versions(writer)} Choose another output, or replace it with --overwrite"
        )


def _choose(
    source: Source,
    records: Sequence[ImageRecord],
    known: set[bytes],
    trusted: Mapping[str, tuple[int, int, bytes]],
) -> list[ImageRecord]:
    """Choose images all over the source, the same ones every time."""
    if not known:
        return []
    chosen: list[ImageRecord] = []
    read = 0
    for index in random.Random(0).sample(range(len(records)), min(len(records), 10 * MOST_READ)):
        record = records[index]
        size, mtime_ns, digest = trusted.get(record.name, (-1, -1, b""))
        if not digest or (record.size, record.mtime_ns) != (size, mtime_ns):
            if read == MOST_READ:
                continue
            read += 1
            try:
                digest = digest_of(source.read(record))
            except (OSError, ImageError):  # it will be heard of when its turn comes
                continue
        if digest in known:
            chosen.append(record)
            if len(chosen) == CANARIES:
                break
    return chosen


def _versions(writer: PartsWriter) -> str:
    """Say which versions differ, where the store remembers them."""
    then, now = dict(writer.earlier_versions), environment()["versions"]
    changed = [
        f"{name} {then[name]} there, {now.get(name, 'none')} here"
        for name in sorted(then)
        if then[name] != now.get(name)
    ]
    return f" Versions: {'; '.join(changed)}." if changed else ""
