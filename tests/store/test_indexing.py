"""The index of a shard, and joining those of all shards: what is missing is said, nothing is guessed."""

from __future__ import annotations

import os

import numpy as np
import pytest
from directories import album, contents, flip, forge, parts, write, write_all

from featx.errors import FeatxError
from featx.records import LayerInfo
from featx.sharding import Shard
from featx.store.directory import fingerprint, index_path, shard_index
from featx.store.indexing import join_shards, layers_attribute
from featx.store.storefile import StoreFile

PICTURES = album(range(9), bad=(30,), twins=(2,))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "photos"


def test_layers_as_an_attribute(kit):
    assert (
        layers_attribute([kit.avg, kit.flat]) == b'[["layer4.1", "avg", 5], ["classifier.4", "flatten", 3]]'
    )


def test_what_the_index_of_a_shard_holds(kit, root):
    """Its own images, where they stand in the listing, and the parts that they are in."""
    write(kit, root, PICTURES, (0, 2))
    file = StoreFile(shard_index(root, Shard(0, 2)), check=True)
    assert file.contents.kind == "index"
    assert file.contents.meta["shard"] == "0/2"
    assert file.contents.meta["listing"] == fingerprint(PICTURES.records)
    names = [record.name for record in PICTURES.records]
    mine = [names[place] for place in file.read("order/image").tolist()]
    assert mine == [os.fsdecode(name) for name in file.read("images/name")]
    assert all(Shard(0, 2).holds(name) for name in mine)
    skipped = [names[place] for place in file.read("order/skipped").tolist()]
    assert skipped == [os.fsdecode(name) for name in file.read("skipped/name")]
    listed = [root / "shards" / name for name in file.read_text("parts/name")]
    assert sorted(listed) == parts(root)
    for path, digest, rows, size in zip(
        listed, file.read("parts/digest"), file.read("parts/rows"), file.read("parts/size"), strict=True
    ):
        part = StoreFile(path, check=True)
        assert part.header.digest == digest.tobytes()
        assert (part.contents.rows, path.stat().st_size) == (rows, size)


def test_the_joined_index_names_each_part_once(kit, root):
    write_all(kit, root, album(range(9), twins=range(9)), 3)
    file = StoreFile(index_path(root), check=True)
    listed = [root / "shards" / name for name in file.read_text("parts/name")]
    assert sorted(listed) == parts(root)
    assert file.contents.meta["provenance"]["shards"] == [
        StoreFile(shard_index(root, Shard(number, 3))).header.digest.hex() for number in range(3)
    ]


class TestMissing:
    def test_every_shard_that_is_not_there(self, kit, root):
        write(kit, root, PICTURES, (1, 4))
        assert join_shards(root, 4, ()) == [f"shard {number}/4 is missing" for number in (0, 2, 3)]
        assert not index_path(root).exists()

    def test_another_space(self, kit, root):
        write(kit, root, PICTURES, (0, 2))
        _, writer = write(kit, root, PICTURES, (1, 2), space=kit.space(precision="bf16"), overwrite=True)
        assert writer.missing == ["shard 0/2 holds another space"]
        assert not index_path(root).exists()

    def test_another_listing(self, kit, root):
        for changes in ({"bad": (31,)}, {"twins": ()}):
            write(kit, root, PICTURES, (0, 2))
            other = album(**{"keys": range(9), "bad": (30,), "twins": (2,), **changes})
            assert write(kit, root, other, (1, 2))[1].missing == [
                "shard 0/2 is of another listing of the source"
            ]

    def test_other_layers(self, kit, root):
        write(kit, root, PICTURES, (0, 3))
        write(kit, root, PICTURES, (1, 3))
        _, writer = write(kit, root, PICTURES, (2, 3), layers=[kit.flat])
        assert writer.missing == ["shard 0/3 holds other layers", "shard 1/3 holds other layers"]

    def test_the_order_of_the_layers_is_no_difference(self, kit, root):
        write(kit, root, PICTURES, (0, 2))
        assert write(kit, root, PICTURES, (1, 2), layers=[kit.flat, kit.avg])[1].missing == []
        contents(root)

    def test_a_shard_without_images_has_every_layer(self, kit, root):
        pictures = album([4])
        (empty,) = [number for number in range(2) if not pictures.of(Shard(number, 2))]
        write(kit, root, pictures, (empty, 2), layers=[LayerInfo("other", "max", 2)])
        assert write(kit, root, pictures, (1 - empty, 2))[1].missing == []
        assert list(contents(root)["layers"]) == [kit.avg.name, kit.flat.name]

    def test_an_index_under_the_name_of_another_shard(self, kit, root):
        write(kit, root, PICTURES, (0, 2))
        other = shard_index(root, Shard(1, 2))
        other.parent.mkdir()
        other.write_bytes(shard_index(root, Shard(0, 2)).read_bytes())
        assert join_shards(root, 2, ()) == ["shard 1/2 is missing"]

    @pytest.mark.parametrize("where", ["head", "middle", "end"])
    def test_a_damaged_index_of_a_shard_is_named_and_never_joined(self, kit, root, where):
        write_all(kit, root, PICTURES, 2)
        before = index_path(root).read_bytes()
        victim = shard_index(root, Shard(1, 2))
        flip(
            victim,
            {"head": 3, "middle": 4 * victim.stat().st_size, "end": 8 * victim.stat().st_size - 4}[where],
        )
        index_path(root).unlink()
        assert join_shards(root, 2, ()) == ["shard 1/2 is damaged"]
        assert not index_path(root).exists()
        write(kit, root, PICTURES, (1, 2))
        assert len(before) == index_path(root).stat().st_size


class TestJoining:
    def test_twice_is_once(self, kit, root):
        write_all(kit, root, PICTURES, 2)
        before = index_path(root).stat()
        assert join_shards(root, 2, ()) == []
        after = index_path(root).stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)

    def test_indexes_of_other_numbers_of_shards_go_and_their_parts_stay(self, kit, root):
        write_all(kit, root, PICTURES, 3)
        before, old = contents(root), parts(root)
        assert write_all(kit, root, PICTURES, 2) == 0
        assert contents(root) == before
        assert parts(root) == old
        assert sorted(path.parent.name for path in root.glob("shards/*/index.h5")) == ["0-of-2", "1-of-2"]

    def test_only_obsolete_parts_that_nothing_refers_to_go(self, kit, root):
        write_all(kit, root, PICTURES, 1)
        used = parts(root)
        spare = used[0].with_name(f"part-000099-{'0' * 32}.h5")
        spare.write_bytes(b"old")
        other = used[0].with_name(f"part-000098-{'0' * 32}.h5")
        other.write_bytes(b"not named")
        assert join_shards(root, 1, [spare, *used, root / "gone.h5"]) == []
        assert parts(root) == sorted([*used, other])

    def test_nothing_obsolete_goes_while_a_shard_is_missing(self, kit, root):
        write(kit, root, PICTURES, (0, 2))
        assert join_shards(root, 2, parts(root))
        assert parts(root)
        write(kit, root, PICTURES, (1, 2))
        contents(root)

    def test_a_column_of_one_shard_is_empty_in_the_others(self, kit, root):
        assert sum("rare/%" in record.columns for record in PICTURES.records) == 1
        write_all(kit, root, PICTURES, 3)
        found = contents(root)
        for name, value in zip(found["names"], found["columns"]["rare/%"], strict=True):
            assert value == ("once" if PICTURES.keys[name] == 3 and "img" in name else "")

    def test_a_forged_order_gives_no_store_that_verifies_wrongly(self, kit, root):
        """Positions may be anything; names, digests and rows still belong together."""
        write(kit, root, PICTURES, (0, 2))

        def change(h5):
            h5["order/image"][...] = np.int64(-(2**62))

        forge(shard_index(root, Shard(0, 2)), change)
        write(kit, root, PICTURES, (1, 2))
        try:
            found = contents(root)
        except FeatxError:
            return
        for name, row in zip(found["names"], found["layers"][kit.avg.name], strict=True):
            np.testing.assert_array_equal(row, kit.expected([PICTURES.keys[name]], kit.avg)[0])
