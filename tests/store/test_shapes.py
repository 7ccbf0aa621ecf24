"""Sizes and modes of images: kept from the first part to the last export, and missing from older files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from directories import album, contents, forge, parts, write, write_all

from featx.errors import DamagedStoreError, StoreError
from featx.sharding import Shard
from featx.store.directory import index_path, shard_index
from featx.store.indexing import join_shards
from featx.store.reader import FeatureStore
from featx.store.rowindex import RowSource
from featx.store.shapes import SHAPE_FIELDS, Shapes
from featx.store.unfinished import describe_unfinished

PICTURES = album(range(9), bad=(30,), twins=(2,))


def forget(file, group):
    """Make a file as it was written before sizes and modes were kept."""

    def change(h5):
        for name in SHAPE_FIELDS:
            del h5[group][name]

    forge(file, change)


def found(path):
    with FeatureStore(path) as store:
        store.verify()
        return list(zip(store.widths.tolist(), store.heights.tolist(), store.modes.tolist(), strict=True))


def expected(kit, keys, *, unknown=()):
    shapes = kit.shapes(keys)
    rows = zip(shapes["widths"], shapes["heights"], shapes["modes"], strict=True)
    return [(0, 0, "") if key in unknown else row for key, row in zip(keys, rows, strict=True)]


def file_parts(path):
    return sorted(path.with_name(f"{path.name}.parts").glob("part-*.h5"))


def leave(kit, path, keys):
    """Go away after a part."""
    with kit.writer(path) as writer:
        writer.add(*kit.rows(keys), **kit.shapes(keys))


class TestValues:
    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (([1, 2],), r"Got widths of shape \(2,\), expected \(3,\)"),
            ((None, [[1], [2], [3]]), r"Got heights of shape \(3, 1\), expected \(3,\)"),
            ((None, None, ["RGB"]), r"Got modes of shape \(1,\)"),
            ((None, None, ["é"] * 3), "Got modes that are not of type"),
            ((["wide"] * 3,), "Got widths that are not of type uint32"),
            (([-1] * 3,), "Got widths that are not of type uint32"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, arguments, match):
        with pytest.raises(StoreError, match=match):
            Shapes.of(3, *arguments)

    def test_a_writer_refuses_it_too_and_takes_no_row(self, kit, path):
        with kit.writer(path) as writer:
            with pytest.raises(StoreError, match=r"Got widths of shape \(2,\), expected \(3,\)"):
                writer.add(*kit.rows(range(3)), widths=[1, 2])
            writer.flush()
        assert not file_parts(path)

    def test_sixteen_bytes_an_image(self):
        assert sum(column.nbytes for column in Shapes.of(1000)) == 16_000

    def test_what_is_added_is_copied(self, kit, path):
        widths = np.array([5, 6], np.uint32)
        with kit.writer(path) as writer:
            writer.add(*kit.rows([0, 1]), widths=widths)
            widths[:] = 0
            writer.finish(kit.images([0, 1]), [], {})
        assert FeatureStore(path).widths.tolist() == [5, 6]


class TestOneFile:
    def test_they_come_back(self, kit, path):
        keys = [3, 1, 2, 1, 8, 9, 10]
        kit.store(path, keys)
        assert found(path) == expected(kit, keys)
        assert len({mode for _, _, mode in found(path)}) > 1
        with h5py.File(path) as h5:
            assert h5["images/width"].dtype == h5["images/height"].dtype == np.uint32
            assert h5["images/mode"].dtype == "S8"
            assert h5["images/mode"][0] == kit.shapes([3])["modes"][0].encode()

    def test_what_is_not_given_is_unknown(self, kit, path):
        with kit.writer(path) as writer:
            writer.add(*kit.rows([0, 1]))
            writer.finish(kit.images([0, 1]), [], {})
        assert found(path) == [(0, 0, "")] * 2

    def test_a_store_without_images(self, kit, path):
        kit.store(path, [])
        assert found(path) == []
        assert FeatureStore(path).modes.dtype == object

    def test_rows_of_an_interrupted_run_keep_theirs(self, kit, path):
        leave(kit, path, [0, 1, 2])
        source = RowSource.open(file_parts(path)[0], check=True)
        assert source.shapes.widths.tolist() == kit.shapes([0, 1, 2])["widths"]
        assert kit.store(path, [4, 2, 3, 0, 1]) == 2
        assert found(path) == expected(kit, [4, 2, 3, 0, 1])

    def test_rows_of_a_finished_store_keep_theirs(self, kit, path):
        kit.store(path, range(5))
        assert kit.store(path, [7, 3, 0]) == 1
        assert found(path) == expected(kit, [7, 3, 0])

    def test_a_store_taken_out_of_a_store_has_them(self, kit, path, tmp_path):
        kit.store(path, range(5))
        with FeatureStore(path) as store:
            store.export(tmp_path / "out.h5")
        assert found(tmp_path / "out.h5") == expected(kit, range(5))


class TestOlderFiles:
    def test_a_store_is_read_and_whole(self, kit, path, tmp_path):
        kit.store(path, range(4))
        before = contents(path)
        forget(path, "images")
        assert found(path) == [(0, 0, "")] * 4
        nothing = {"widths": [0] * 4, "heights": [0] * 4, "modes": [""] * 4}
        assert contents(path) == before | nothing
        with FeatureStore(path) as store:
            store.export(tmp_path / "out.npz")
            store.export(tmp_path / "out.h5")
        assert found(tmp_path / "out.h5") == [(0, 0, "")] * 4

    def test_a_store_is_added_to(self, kit, path):
        kit.store(path, range(4))
        forget(path, "images")
        assert kit.store(path, range(6)) == 2
        assert found(path) == expected(kit, range(6), unknown=range(4))

    def test_parts_of_an_interrupted_run_are_used(self, kit, path):
        leave(kit, path, [0, 1, 2])
        forget(file_parts(path)[0], "rows")
        leave(kit, path, [3, 4])
        assert describe_unfinished(path, check=True).rows == 5
        assert kit.store(path, [4, 5, 0, 2, 3]) == 1
        assert found(path) == expected(kit, [4, 5, 0, 2, 3], unknown=range(3))

    def test_a_layer_that_is_added_brings_them(self, kit, path):
        kit.store(path, range(4), [kit.avg])
        forget(path, "images")
        assert kit.store(path, range(4), [kit.flat]) == 4
        assert found(path) == expected(kit, range(4))

    def test_a_layer_that_is_added_brings_them_wherever_it_stands(self, kit, path):
        kit.store(path, range(4), [kit.avg])
        forget(path, "images")
        assert kit.store(path, range(4), [kit.avg, kit.flat]) == 4
        assert found(path) == expected(kit, range(4))

    def test_parts_of_a_directory_are_used(self, kit, tmp_path):
        root = tmp_path / "photos"
        write(kit, root, PICTURES, (0, 2), finish=False)
        old = parts(root)
        for part in old:
            forget(part, "rows")
        assert write_all(kit, root, PICTURES, 2) > 0
        keys = [PICTURES.keys[record.name] for record in PICTURES.records]
        keys = [key for key in keys if key is not None]
        unknown = {
            key
            for key in keys
            if any(kit.digest(key) in map(bytes, RowSource.open(part, check=True).digests) for part in old)
        }
        assert 0 < len(unknown) < len(set(keys))
        assert found(root) == expected(kit, keys, unknown=unknown)

    def test_indexes_of_shards_are_joined(self, kit, tmp_path):
        root = tmp_path / "photos"
        write_all(kit, root, PICTURES, 2)
        before = contents(root)
        for number in (0, 1):
            forget(shard_index(root, Shard(number, 2)), "images")
            index_path(root).unlink()
            assert join_shards(root, 2, ()) == []
            there = contents(root)
            known = [width > 0 for width in there["widths"]]
            assert any(known) is (number == 0)
            assert there["widths"] == [
                width * one for width, one in zip(before["widths"], known, strict=True)
            ]
            assert there["modes"] == [mode * one for mode, one in zip(before["modes"], known, strict=True)]
            assert there | {name: before[name] for name in ("widths", "heights", "modes")} == before

    def test_an_index_is_read(self, kit, tmp_path):
        root = tmp_path / "photos"
        write_all(kit, root, PICTURES, 2)
        forget(index_path(root), "images")
        assert set(found(root)) == {(0, 0, "")}


class TestDirectories:
    def test_all_shards_have_theirs(self, kit, tmp_path):
        root = tmp_path / "photos"
        write_all(kit, root, PICTURES, 3)
        keys = [PICTURES.keys[record.name] for record in PICTURES.records]
        assert found(root) == expected(kit, [key for key in keys if key is not None])

    def test_rows_of_an_interrupted_run_keep_theirs(self, kit, tmp_path):
        root = tmp_path / "photos"
        write(kit, root, PICTURES, (0, 1), finish=False)
        assert write(kit, root, PICTURES, (0, 1))[0] == []
        keys = [PICTURES.keys[record.name] for record in PICTURES.records]
        assert found(root) == expected(kit, [key for key in keys if key is not None])


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda group: group.__delitem__("mode"), r"/images lacks \['mode'\]"),
            (
                lambda group: (group.__delitem__("width"), group.__delitem__("mode")),
                r"lacks \['mode', 'width'\]",
            ),
            (lambda group: replace(group, "width", np.zeros(4, "<i4")), "width is of type int32, expected"),
            (lambda group: replace(group, "height", np.zeros(3, "<u4")), r"\[3, 4\] rows"),
            (lambda group: replace(group, "mode", np.zeros(4, "S9")), "mode is of type text of 9 bytes"),
            (lambda group: replace(group, "mode", np.zeros((4, 1), "S8")), "expected 1 dimensions"),
            (
                lambda group: replace(group, "mode", h5py.ExternalLink("/etc/passwd", "/x")),
                "/images/mode is an external link",
            ),
        ],
    )
    def test_what_is_not_of_this_format(self, kit, path, change, match):
        kit.store(path, range(4))
        forge(path, lambda h5: change(h5["images"]))
        with pytest.raises(DamagedStoreError, match=match):
            FeatureStore(path)

    def test_a_part_that_lacks_some(self, kit, path):
        leave(kit, path, [0, 1])
        (part,) = file_parts(path)
        forge(part, lambda h5: h5["rows"].__delitem__("height"))
        with pytest.raises(DamagedStoreError, match=r"/rows lacks \['height'\]"):
            RowSource.open(part, check=True)

    def test_a_mode_that_is_no_ascii_does_no_harm(self, kit, path, tmp_path):
        kit.store(path, range(4))
        forge(path, lambda h5: replace(h5["images"], "mode", np.array([b"\xff\x1b[2J"] * 4, "S8")))
        with FeatureStore(path) as store:
            assert store.modes.tolist() == ["\udcff\x1b[2J"] * 4
            store.verify()
            store.export(tmp_path / "out.npz")
            store.export(tmp_path / "out.h5")
        assert FeatureStore(tmp_path / "out.h5").shapes.modes[0] == b"\xff\x1b[2J"


def replace(group, name, data):
    del group[name]
    group[name] = data
