"""The images that stores were made from, found again and seen to be the same; without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from featx.dataset import LabelledSet
from featx.errors import DatasetError, FeatxError, ImageError, SourceError, WeightsError
from featx.images.loading import digest_of
from featx.images.sources import Source, SourceLike, list_images, open_source
from featx.records import ImageRecord, Progress, ProgressCallback, escape_name
from featx.store.reader import FeatureStore

__all__ = ["Originals", "counted", "find_originals", "refuse_changed"]

_NAMED = 5
"""Images that an error names."""


@dataclass(frozen=True, slots=True)
class Originals:
    """The source of the images, opened, and its record of each image of the labelled set, in that order."""

    source: Source
    records: tuple[ImageRecord, ...]


def find_originals(
    data: LabelledSet,
    wanted: Iterable[int],
    source: SourceLike | None = None,
    on_progress: ProgressCallback | None = None,
) -> Originals:
    """Find the images of the stores again, and see that they are the same.

    An image whose size and time of change are those that the store noted is taken for the same here;
    the bytes of all are compared when they are decoded.

    Parameters
    ----------
    data : LabelledSet
    wanted : iterable of int
        The stores of the rows, whose networks could be fine-tuned.
    source : path or Source, optional
        Where the images lie; where the store says by default.
    on_progress : callable, optional

    Raises
    ------
    DatasetError
        If there is no network to fine-tune.
    SourceError
        If images are gone, or others than those of the stores.
    WeightsError
        If the file of a network's weights is gone.
    """
    stores = [data.stores[index] for index in dict.fromkeys(wanted)]
    learned = [store for store in stores if not store.space.is_reference]
    if not learned:
        raise DatasetError(
            "There is no network to fine-tune: every store holds a reference (raw pixels or random weights); "
            "add the store of a pretrained network, or leave out --finetune."
        )
    for store in learned:
        _refuse_untrainable(store)
    first = data.stores[0]
    location = str(learned[0].meta["source"])
    try:
        opened = open_source(source if source is not None else location)
        records = {record.name: record for record in list_images(opened)}
    except (SourceError, ImageError) as error:
        raise SourceError(
            f"The images that fine-tuning needs are not there: {error} ({escape_name(str(learned[0].path))} "
            f"was made from {escape_name(location)}; if they have moved, say where to with --source DIR)."
        ) from error
    missing = [name for name in data.names if name not in records]
    if missing:
        raise SourceError(
            f"{counted(missing)} of {escape_name(str(first.path))} not in {escape_name(opened.location)}: "
            f"{_named(missing)}. Put them back, say with --source DIR where all of them lie, or extract "
            "again."
        )
    found = tuple(records[name] for name in data.names)
    changed = []
    for index, (record, stored) in enumerate(zip(found, first.records, strict=True)):
        if record.size < 0 or (record.size, record.mtime_ns) != (stored.size, stored.mtime_ns):
            if not _has_digest(opened, record, data.digests[index].tobytes()):
                changed.append(record.name)
            if on_progress is not None:
                on_progress(Progress("compare images", index + 1, len(found)))
    refuse_changed(changed, first, opened)
    return Originals(opened, found)


def _refuse_untrainable(store: FeatureStore) -> None:
    """Refuse a store whose network is not known here, or whose file of weights is gone."""
    path = escape_name(str(store.path))
    if store.space.provider == "import":
        raise DatasetError(
            f"{path} was imported: the network that made it ({store.space.backbone}) is not here to be "
            "fine-tuned; use `featx extract`, or leave out --finetune."
        )
    spec = store.meta["request"]["weights"]["spec"]
    if spec != "default" and not Path(spec).is_file():
        raise WeightsError(
            f"{path} was made with the weights {escape_name(spec)}, which are not there; put the file back, "
            "or extract again with --weights FILE."
        )


def _has_digest(source: Source, record: ImageRecord, digest: bytes) -> bool:
    try:
        return digest_of(source.read(record)) == digest
    except (OSError, FeatxError):  # gone, or no image any more
        return False


def refuse_changed(names: Sequence[str], store: FeatureStore, source: Source) -> None:
    """Refuse images that are not those of the store, by their names.

    Raises
    ------
    SourceError
        If there are any.
    """
    if names:
        raise SourceError(
            f"{counted(names)} in {escape_name(source.location)} not the same, byte for byte, as those that "
            f"{escape_name(str(store.path))} was made from: {_named(names)}. Extract again, or put them back."
        )


def counted(names: Sequence[str]) -> str:
    """Begin a sentence about so many images.

    Examples
    --------
    >>> counted(["a.png"]), counted(["a.png", "b.png"])
    ('1 image is', '2 images are')
    """
    return "1 image is" if len(names) == 1 else f"{len(names):,} images are"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(escape_name(name) for name in names[:_NAMED]) + more
