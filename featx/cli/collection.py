"""What the audit of a store's images found, in words; shared by ``featx info`` and ``featx extract``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from featx.report.wording import many

if TYPE_CHECKING:
    from featx.collection import Collection
    from featx.collection.findings import Near, Range, Sizes
    from featx.store.reader import FeatureStore

SHOWN = 5
"""Examples of each finding that are named."""

SHOWN_NAMES = 2
"""Names in each of them."""


def audit_store(store: FeatureStore) -> Collection:
    """Look over the images of a store; reads its index and no embedding."""
    from featx.collection import audit_collection

    return audit_collection(
        store.names,
        store.digests,
        store.phashes,
        store.y,
        store.splits,
        widths=store.widths,
        heights=store.heights,
        modes=store.modes,
        skipped=[image.reason for image in store.skipped],
    )


def collection_words(found: Collection) -> dict[str, str]:
    """Say what was found, a line each; of what is not there, nothing."""
    copies, near = found.duplicates, found.near_duplicates
    lines: dict[str, str] = {}
    if copies.images:
        text = many(copies.images, "image repeats the bytes of another", "images repeat the bytes of others")
        lines["duplicates"] = f"{text} ({many(copies.groups, 'group')})"
    if found.conflicts.count:
        lines["conflicts"] = _conflicts(found.conflicts.count)
    if found.across_splits.count:
        lines["across splits"] = _across_splits(found.across_splits.count)
    if near.count:
        lines["near-duplicates"] = _near(near)
    if not lines:
        lines["collection"] = "no duplicates" if near.complete else "no duplicates were found"
    if found.sizes is not None:
        lines["sizes"] = _sizes(found.sizes)
    if found.modes:
        lines["modes"] = ", ".join(f"{mode} {count}" for mode, count in found.modes.items())
    return lines


def collection_examples(found: Collection) -> Iterator[str]:
    """Name some images of each finding, a line each; names are as they are."""
    for names in found.duplicates.examples[:SHOWN]:
        yield f"same bytes: {_listed(names)}"
    for what, several in (("labels", found.conflicts), ("splits", found.across_splits)):
        for same in several.examples[:SHOWN]:
            named = [f"{name} ({value})" for name, value in zip(same.names, same.values, strict=True)]
            yield f"several {what}: {_listed(named)}"
    for one in found.near_duplicates.examples[:SHOWN]:
        yield f"nearly alike: {' ~ '.join(one.names)}"


def collection_notes(found: Collection) -> list[str]:
    """Say what would mislead whoever fits or scores on these images, a line each."""
    near, least = found.near_duplicates.across_splits, _least(found.near_duplicates)
    lines = (
        (found.conflicts.count, _conflicts(found.conflicts.count)),
        (found.across_splits.count, _across_splits(found.across_splits.count)),
        (near, f"{least}{many(near, 'near-duplicate stands', 'near-duplicates stand')} across splits"),
    )
    return [line for count, line in lines if count]


def _conflicts(count: int) -> str:
    return many(count, "image stands under several labels", "images stand under several labels")


def _across_splits(count: int) -> str:
    return many(count, "image stands in several splits", "images stand in several splits")


def _near(near: Near) -> str:
    pieces = [many(near.count, "pair or group", "pairs or groups")]
    if near.across_splits:
        pieces.append(f"{near.across_splits:,} across splits")
    if near.across_labels:
        pieces.append(f"{near.across_labels:,} across labels")
    return f"{_least(near)}{many(near.images, 'image')} look nearly like another ({', '.join(pieces)})"


def _least(near: Near) -> str:
    return "" if near.complete else "at least "


def _sizes(sizes: Sizes) -> str:
    if sizes.different == 1:
        text = f"all {sizes.width.min}×{sizes.height.min} pixels"
    else:
        text = f"width {_range(sizes.width)}, height {_range(sizes.height)} pixels"
        text += f"; {sizes.different:,} different"
    if sizes.small:
        text += f"; {many(sizes.small, 'image')} with a side under 32"
    return text + (f"; {sizes.unknown:,} not known" if sizes.unknown else "")


def _range(values: Range) -> str:
    if values.min == values.max:
        return f"{values.min}"
    return f"{values.min} to {values.max} (median {values.median:g})"


def _listed(names: Sequence[str]) -> str:
    return " = ".join(names[:SHOWN_NAMES]) + (" and more" if len(names) > SHOWN_NAMES else "")
