"""Stores that are directories, made without a network, and what they must hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import h5py
import numpy as np

from featx.records import ImageRecord, SkippedImage
from featx.sharding import Shard
from featx.store.directorywriter import DirectoryWriter
from featx.store.reader import FeatureStore
from featx.store.schema import IndexRow
from featx.store.userblock import SIZE, Header, pack_header
from featx.store.writer import StoreWriter


@dataclass
class Album:
    """What a source lists: names in no order, and for each the key of its rows, None for no image."""

    records: list[ImageRecord]
    keys: dict[str, int | None] = field(repr=False)

    def of(self, shard):
        return [record for record in self.records if shard is None or shard.holds(record.name)]


def album(keys=range(20), *, bad=(), twins=(), mtime_ns=5):
    """Images of all these keys, files of ``bad`` that are none, and ``twins``: the same bytes again."""
    records, names = [], {}
    for kind, numbers in (("img", keys), ("bad", bad), ("twin", twins)):
        for key in numbers:
            name = f"{(key * 7919) % 1000:03d}/{kind}-{key}.jpg"
            columns = {"camera": f"v{key}"} | ({"rare/%": "once"} if key == 3 else {})
            fields = {"label": ("ant", None, "bee\n🐝")[key % 3], "split": ("train", None)[key % 2]}
            records.append(
                ImageRecord(
                    name, group=(None, "g1")[key % 2], size=key, mtime_ns=mtime_ns, columns=columns, **fields
                )
            )
            names[name] = None if kind == "bad" else key
    order = np.random.default_rng(len(records)).permutation(len(records))
    return Album([records[place] for place in order], names)


def write(kit, path, pictures, shard=None, *, finish=True, layers=None, space=None, step=4, **options):
    """Write one shard, or one file if ``shard`` is None, in parts of ``step`` rows.

    Gives the keys that had no row, and the writer.
    """
    layers = layers or (kit.avg, kit.flat)
    rest = {"request": {"seed": 0}, "source": "photos"} | options
    if shard is None:
        writer = StoreWriter(path, space or kit.space(), layers, **rest)
    else:
        rest |= {"shard": Shard(*shard), "listing": pictures.records}
        writer = DirectoryWriter(path, space or kit.space(), layers, **rest)
    mine = pictures.of(None if shard is None else Shard(*shard))
    keys = [pictures.keys[record.name] for record in mine]
    with writer:
        todo = [key for key in dict.fromkeys(keys) if key is not None and kit.digest(key) not in writer.known]
        for start in range(0, len(todo), step):
            some = todo[start : start + step]
            writer.add(*kit.rows(some, layers), **kit.shapes(some))
            writer.flush()
        if finish:
            finish_shard(kit, writer, mine, pictures)
    return todo, writer


def finish_shard(kit, writer, mine, pictures):
    images = [
        IndexRow(record, kit.digest(pictures.keys[record.name]))
        for record in mine
        if pictures.keys[record.name] is not None
    ]
    skipped = [
        SkippedImage(record.name, kit.digest(record.name), f"no image {record.size}")
        for record in mine
        if pictures.keys[record.name] is None
    ]
    return writer.finish(images, skipped, {"seconds": 1.5, "peak_memory_bytes": 7})


def write_all(kit, path, pictures, count, **options):
    """Write every shard; gives the number of keys computed."""
    return sum(len(write(kit, path, pictures, (number, count), **options)[0]) for number in range(count))


def contents(path):
    """All that a reader gets from a store that verifies."""
    with FeatureStore(path) as store:
        store.verify()
        return {
            "names": store.names,
            "labels": store.y.tolist(),
            "splits": store.splits.tolist(),
            "groups": store.groups.tolist(),
            "columns": {name: values.tolist() for name, values in store.columns.items()},
            "sizes": store.sizes.tolist(),
            "mtimes": store.mtimes_ns.tolist(),
            "digests": [row.tobytes().hex() for row in store.digests],
            "phashes": store.phashes.tolist(),
            "widths": store.widths.tolist(),
            "heights": store.heights.tolist(),
            "modes": store.modes.tolist(),
            "skipped": store.skipped,
            "layers": {layer.name: store.X(layer.name).tolist() for layer in store.layers},
            "space": store.space.key,
            "records": store.records,
        }


def parts(root):
    return sorted((root / "shards").glob("*/part-*.h5"))


def sign(path):
    """Give changed bytes the user block that belongs to them."""
    rest = path.read_bytes()[SIZE:]
    path.write_bytes(pack_header(Header(1, len(rest), hashlib.sha256(rest).digest())) + rest)


def forge(path, change):
    """Change an index with h5py as somebody else could, with the checksum that fits."""
    with h5py.File(path, "r+") as h5:
        change(h5)
    sign(path)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
