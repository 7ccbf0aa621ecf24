"""Rows that lie in parts: what a reader gets is what a store of one file would give."""

from __future__ import annotations

import gc
import shutil
import weakref

import numpy as np
import pytest
from directories import album, forge, parts, sign, write, write_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import featx.store.partrows as module
from featx.errors import DamagedStoreError, FeatxError, StoreError, UnknownNameError
from featx.store.directory import index_path
from featx.store.reader import FeatureStore

PICTURES = album(range(11), twins=(2, 5))


@pytest.fixture(scope="module")
def stores(kit, tmp_path_factory):
    """The same images in one file, in one part, and in many."""
    folder = tmp_path_factory.mktemp("stores")
    write(kit, folder / "one.h5", PICTURES)
    straight = album(range(11))
    straight.records.sort(key=lambda record: straight.keys[record.name])
    with_one_part(kit, folder / "straight", straight)
    write_all(kit, folder / "many", PICTURES, 3, step=2)
    return folder


def with_one_part(kit, path, pictures):
    _, writer = write(kit, path, album([]), (0, 1), finish=False)
    writer.listing = pictures.records
    with writer:
        writer.add(*kit.rows([pictures.keys[record.name] for record in pictures.records]))
        writer.finish(kit_images(kit, pictures), [], {})


def kit_images(kit, pictures):
    from featx.store.schema import IndexRow

    return [IndexRow(record, kit.digest(pictures.keys[record.name])) for record in pictures.records]


class TestX:
    def test_is_a_memory_map_where_one_part_holds_the_rows_in_order(self, kit, stores):
        store = FeatureStore(stores / "straight")
        assert store.n_parts == 1
        for layer in (kit.avg, kit.flat):
            values = store.X(layer.name)
            assert isinstance(values, np.memmap)
            assert not values.flags.writeable
            np.testing.assert_array_equal(values, kit.expected(range(11), layer))

    def test_is_an_array_where_many_do(self, kit, stores):
        one, many = FeatureStore(stores / "one.h5"), FeatureStore(stores / "many")
        assert many.n_parts > 3
        assert isinstance(one.X(kit.avg.name), np.memmap)
        for layer in (kit.avg, kit.flat):
            values = many.X(layer.name)
            assert not isinstance(values, np.memmap)
            assert values.flags.c_contiguous
            assert values.dtype == one.X(layer.name).dtype == np.float16
            np.testing.assert_array_equal(values, one.X(layer.name))

    @pytest.mark.parametrize("keys", [(3, 4, 5), (0, 1), (10,)])
    def test_a_run_of_rows_of_one_part_is_mapped_too(self, kit, stores, tmp_path, keys):
        pictures = album(range(11))
        pictures.records.sort(key=lambda record: pictures.keys[record.name])
        with_one_part(kit, tmp_path / "s", pictures)
        pictures.records[:] = [record for record in pictures.records if pictures.keys[record.name] in keys]
        assert write_all(kit, tmp_path / "s", pictures, 1) == 0
        values = FeatureStore(tmp_path / "s").X(kit.avg.name)
        assert isinstance(values, np.memmap)
        np.testing.assert_array_equal(values, kit.expected(keys, kit.avg))

    @pytest.mark.parametrize("keys", [(5, 4, 3), (0, 2), (1, 1)])
    def test_rows_of_one_part_in_another_order_are_not(self, kit, tmp_path, keys):
        pictures = album(range(11), twins=(1,))
        by_key = {}
        for record in pictures.records:
            by_key.setdefault(pictures.keys[record.name], []).append(record)
        with_one_part(kit, tmp_path / "s", album(range(11)))
        pictures.records[:] = [by_key[key].pop() for key in keys]
        assert write_all(kit, tmp_path / "s", pictures, 1) == 0
        np.testing.assert_array_equal(
            FeatureStore(tmp_path / "s").X(kit.avg.name), kit.expected(keys, kit.avg)
        )

    def test_is_gathered_once_while_it_is_in_use(self, kit, stores, monkeypatch):
        store = FeatureStore(stores / "many")
        first = store.X(kit.avg.name)
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 0
        assert store.X(kit.avg.name) is first
        assert store.X(kit.flat.name) is not first
        kept = weakref.ref(first)
        del first
        gc.collect()
        assert kept() is None
        np.testing.assert_array_equal(store.X(kit.avg.name), FeatureStore(stores / "one.h5").X(kit.avg.name))

    def test_a_store_without_rows_is_read_only_too(self, kit, tmp_path):
        kit.store(tmp_path / "no.h5", [])
        write_all(kit, tmp_path / "s", album([], bad=(1,)), 1)
        for name in ("no.h5", "s"):
            values = FeatureStore(tmp_path / name).X(kit.avg.name)
            assert values.shape == (0, 5)
            assert not values.flags.writeable

    def test_no_rows(self, kit, tmp_path):
        write_all(kit, tmp_path / "s", album([], bad=(1,)), 2)
        store = FeatureStore(tmp_path / "s")
        assert store.X(kit.avg.name).shape == (0, 5)
        assert store.X(kit.avg.name).dtype == np.float16
        assert store.take(kit.avg.name, []).shape == (0, 5)
        assert list(store.blocks(kit.avg.name)) == []
        with pytest.raises(IndexError):
            store.take(kit.avg.name, [0])
        store.verify()


@pytest.mark.parametrize("kind", ["one.h5", "straight", "many"])
class TestTake:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
    @given(index=st.lists(st.integers(-11, 10), max_size=30))
    def test_any_rows(self, kit, stores, kind, index):
        with FeatureStore(stores / kind) as store:
            values = store.take(kit.avg.name, index)
            assert values.shape == (len(index), 5)
            assert not isinstance(values, np.memmap)
            np.testing.assert_array_equal(values, np.asarray(store.X(kit.avg.name))[index])

    @pytest.mark.parametrize("index", [[0, 99], [-99], np.array([13], np.uint8), [2**62], [-(2**63)]])
    def test_a_row_that_is_not_there(self, kit, stores, kind, index):
        with pytest.raises(IndexError, match=str(index[-1])), FeatureStore(stores / kind) as store:
            store.take(kit.avg.name, index)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
    @given(mask=st.lists(st.booleans(), min_size=13, max_size=13))
    def test_a_mask(self, kit, stores, kind, mask):
        with FeatureStore(stores / kind) as store:
            mask = mask[: len(store)]
            expected = np.asarray(store.X(kit.avg.name))[np.array(mask)]
            np.testing.assert_array_equal(store.take(kit.avg.name, mask), expected)
            np.testing.assert_array_equal(store.take(kit.avg.name, np.array(mask)), expected)

    @pytest.mark.parametrize(
        ("index", "match"),
        [
            ([True, False], "mask of length 2"),
            (np.array([], bool), "mask of length 0"),
            ([1.5], "float64 values"),
            ([1.0], "float64 values"),
            (np.array([]), "float64 values"),
            ([None], "object values"),
            (["1"], "U1 values"),
            ([2**70], "object values"),
            ([[0, 1], [1, 0]], r"shape \(2, 2\)"),
            ([[]], r"shape \(1, 0\)"),
            (3, r"shape \(\)"),
            (np.array([2**64 - 1], np.uint64), "row 18446744073709551615 was"),
        ],
    )
    def test_what_selects_no_rows(self, kit, stores, kind, index, match):
        with pytest.raises(IndexError, match=match), FeatureStore(stores / kind) as store:
            store.take(kit.avg.name, index)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
    def test_integers_of_any_type(self, kit, stores, kind, dtype):
        with FeatureStore(stores / kind) as store:
            values = store.take(kit.avg.name, np.array([2, 0], dtype))
            np.testing.assert_array_equal(values, np.asarray(store.X(kit.avg.name))[[2, 0]])

    @pytest.mark.parametrize("rows", [0, -3])
    def test_blocks_of_no_rows(self, kit, stores, kind, rows):
        with FeatureStore(stores / kind) as store:
            with pytest.raises(ValueError, match=f"blocks of {rows} rows, expected 1 or more"):
                store.blocks(kit.avg.name, rows)
            with pytest.raises(UnknownNameError):
                store.blocks("layer9")

    def test_is_a_copy(self, kit, stores, kind):
        with FeatureStore(stores / kind) as store:
            values = store.take(kit.avg.name, [1, 2])
            values[:] = 0
            assert store.take(kit.avg.name, [1, 2]).any()

    @pytest.mark.parametrize("rows", [1, 4, 11, 1000])
    def test_blocks(self, kit, stores, kind, rows):
        with FeatureStore(stores / kind) as store:
            blocks = list(store.blocks(kit.avg.name, rows))
            assert {len(block) for block in blocks[:-1]} <= {rows}
            assert 0 < len(blocks[-1]) <= rows
            np.testing.assert_array_equal(np.concatenate(blocks), store.X(kit.avg.name))

    def test_a_closed_store(self, kit, stores, kind):
        store = FeatureStore(stores / kind)
        kept = store.X(kit.avg.name)
        store.close()
        for call in (
            lambda: store.X(kit.avg.name),
            lambda: store.X(kit.flat.name),
            lambda: store.take(kit.avg.name, [0]),
            lambda: list(store.blocks(kit.avg.name)),
            store.verify,
            lambda: store.names,
        ):
            with pytest.raises(StoreError, match="has been closed"):
                call()
        assert np.isfinite(kept).all()


def test_maps_are_bounded_and_rows_right_even_so(kit, stores, monkeypatch):
    """A store of thousands of parts must not use up the maps that a process may have."""
    monkeypatch.setattr(module, "_OPEN_MAPS", 2)
    with FeatureStore(stores / "many") as store, FeatureStore(stores / "one.h5") as one:
        assert store.n_parts > 2
        for _ in range(2):
            for layer in (kit.avg, kit.flat):
                np.testing.assert_array_equal(store.X(layer.name), one.X(layer.name))
        assert len(store._rows._maps) == 2


class TestForged:
    @pytest.fixture
    def root(self, stores, tmp_path):
        return shutil.copytree(stores / "many", tmp_path / "photos")

    def refused(self, kit, root, match=""):
        with pytest.raises(FeatxError, match=match) as caught, FeatureStore(root) as store:
            store.X(kit.avg.name)
        assert str(root) in str(caught.value)
        with pytest.raises(FeatxError), FeatureStore(root) as store:
            store.take(kit.avg.name, range(len(store)))
        with pytest.raises(FeatxError), FeatureStore(root) as store:
            store.verify()

    @pytest.mark.parametrize(
        "place", [(0, 99), (99, 0), (-1, 0), (0, -1), (2**62, 0), (0, 2**62), (-(2**63), -(2**63))]
    )
    def test_a_place_outside_the_parts(self, kit, root, place):
        def change(h5):
            h5[f"places/{kit.avg.name}"][3] = place

        forge(index_path(root), change)
        self.refused(kit, root, "points outside its parts")

    def test_more_rows_than_a_part_has(self, kit, root):
        def change(h5):
            h5["parts/rows"][...] = 1000
            h5[f"places/{kit.avg.name}"][:, 1] = 999

        forge(index_path(root), change)
        self.refused(kit, root, "is not the part")

    @pytest.mark.parametrize("name", ["../../secret.h5", "/etc/passwd", "", "0-of-2/../x", "0-of-2"])
    def test_a_part_elsewhere(self, kit, root, tmp_path, name):
        (tmp_path / "secret.h5").write_bytes(parts(root)[0].read_bytes())

        def change(h5):
            h5["parts/name"][0] = name

        forge(index_path(root), change)
        self.refused(kit, root, "is no name of a part")

    def test_rows_of_another_image_are_found_by_verify(self, kit, root):
        def change(h5):
            places = h5[f"places/{kit.avg.name}"]
            places[[0, 1]] = places[:2][::-1]

        forge(index_path(root), change)
        with pytest.raises(DamagedStoreError, match="a row of another one"), FeatureStore(root) as store:
            store.verify()

    def test_a_layer_that_the_parts_lack(self, kit, root):
        def change(h5):
            h5.attrs["layers"] = h5.attrs["layers"].replace("layer4.1", "layer4.9")
            h5.move(f"places/{kit.avg.name}", "places/layer4.9:avg")

        forge(index_path(root), change)
        with FeatureStore(root) as store:
            with pytest.raises(DamagedStoreError, match=r"does not hold the layer 'layer4\.9:avg'"):
                store.X("layer4.9")
            with pytest.raises(DamagedStoreError, match=r"layer4\.9"):
                store.verify()
            assert store.X(kit.flat.name).shape == (13, 3)

    def test_parts_of_another_space(self, kit, root):
        """Only the index says so: the parts are those that it names."""
        space = kit.space(precision="bf16")

        def change(h5):
            h5.attrs["space"], h5.attrs["space_key"] = space.canonical, space.key

        forge(index_path(root), change)
        self.refused(kit, root, "does not hold the layer")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda h5: h5.attrs.__delitem__("layers"), "layers"),
            (lambda h5: h5.attrs.__setitem__("layers", "[]"), "layers"),
            (lambda h5: h5.attrs.__setitem__("layers", '[["a/b", "avg", 2]]'), "layers"),
            (lambda h5: h5.attrs.__setitem__("layers", '{"a": 1}'), "layers"),
            (lambda h5: h5.__delitem__("parts"), r"lacks \['parts'\]"),
            (lambda h5: h5["parts"].__delitem__("size"), r"lacks \['size'\]"),
            (lambda h5: h5["places"].__delitem__("layer4.1:avg"), r"lacks \['layer4.1:avg'\]"),
            (lambda h5: h5["places"].create_dataset("more", data=np.zeros((13, 2), "<i8")), "has"),
        ],
    )
    def test_another_structure(self, kit, root, change, match):
        forge(index_path(root), change)
        with pytest.raises(DamagedStoreError, match=match) as caught:
            FeatureStore(root)
        assert str(root) in str(caught.value)

    def test_an_index_that_is_signed_again_opens(self, kit, root):
        sign(index_path(root))
        with FeatureStore(root) as store:
            store.verify()
