from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest

from featx.errors import (
    DamagedStoreError,
    NotAStoreError,
    OverflowStoreError,
    SpaceMismatchError,
    StoreError,
)
from featx.records import LayerInfo
from featx.store import writer as writer_module
from featx.store.reader import FeatureStore
from featx.store.userblock import SIZE, Header, pack_header


def parts(path):
    return sorted(path.with_name(f"{path.name}.parts").glob("part-*.h5"))


def leftovers(path):
    return sorted(entry.name for entry in path.parent.iterdir() if entry != path)


def crash(kit, path, keys, **options):
    """Write parts of two rows and go away without finishing."""
    with kit.writer(path, flush_bytes=1, **options) as writer:
        for start in range(0, len(keys), 2):
            writer.add(*kit.rows(keys[start : start + 2], writer.layers))


def test_round_trip_of_everything(kit, path):
    images, skipped = kit.awkward_store(path)
    with FeatureStore(path) as store:
        assert store.records == [image.record for image in images]
        assert store.names == list(kit.awkward)
        assert [row.tobytes() for row in store.digests] == [image.digest for image in images]
        assert np.array_equal(store.phashes, kit.rows(range(6))[1])
        assert store.skipped == skipped
        assert store.y.tolist() == ["ant", "", "bee\n🐝", "ant", "", "bee\n🐝"]
        assert store.splits.tolist() == ["train", "test", ""] * 2
        assert store.groups.tolist() == ["", "g1"] * 3
        assert store.columns["camera/left %"].tolist() == [f"v{number}" for number in range(6)]
        assert store.layers == (kit.avg, kit.flat)
        assert store.space == kit.space()
        assert store.meta["request"] == {"seed": 0, "layers": ["a"]}
        assert store.meta["source"] == "photos"
        assert store.meta["seconds"] == 2.5
        assert store.meta["peak_memory_bytes"] == 9
        assert store.meta["provenance"] == {"canary": [1, 2]}
        for layer in store.layers:
            assert np.array_equal(store.X(layer.name), kit.expected(range(6), layer))
        store.verify()
    assert leftovers(path) == []


def test_a_second_writer_uses_the_parts_of_the_first(kit, path):
    crash(kit, path, list(range(6)))
    assert len(parts(path)) == 3
    assert not path.exists()
    assert kit.store(path, range(10)) == 4
    other = path.with_name("other.h5")
    kit.store(other, range(10))
    with FeatureStore(path) as resumed, FeatureStore(other) as straight:
        assert resumed.names == straight.names
        assert np.array_equal(resumed.digests, straight.digests)
        assert np.array_equal(resumed.phashes, straight.phashes)
        for layer in straight.layers:
            assert np.array_equal(resumed.X(layer.name), straight.X(layer.name))
    assert leftovers(path) == ["other.h5"]


def test_rows_are_found_in_any_order_and_over_many_small_reads(kit, path, monkeypatch):
    crash(kit, path, list(range(20)))
    monkeypatch.setattr(writer_module.gather, "__defaults__", (3 * kit.avg.dim * 2,))
    monkeypatch.setattr("featx.store.gathering._OPEN_FILES", 2)
    order = np.random.default_rng(0).permutation(20).tolist()
    kit.store(path, order)
    with FeatureStore(path) as store:
        for layer in store.layers:
            assert np.array_equal(store.X(layer.name), kit.expected(order, layer))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"flush_bytes": 1}, 5),
        ({"flush_bytes": 2 * 2 * (8 * 2 + 32)}, 3),
        ({"flush_seconds": 0.0}, 5),
    ],
)
def test_parts_are_written_when_due(kit, path, options, expected):
    with kit.writer(path, **options) as writer:
        for start in range(0, 10, 2):
            writer.add(*kit.rows(range(start, start + 2)))
    assert len(parts(path)) == expected


def test_identical_images_keep_a_row_each(kit, path):
    keys = ["a", "b", "a", "c", "a"]
    assert kit.store(path, keys) == 3
    with FeatureStore(path) as store:
        assert len(store) == 5
        assert np.array_equal(store.X("layer4.1"), kit.expected(keys, kit.avg))


def test_a_row_added_twice_does_no_harm(kit, path):
    with kit.writer(path) as writer:
        writer.add(*kit.rows([1, 2]))
        writer.add(*kit.rows([2, 3]))
        writer.finish(kit.images([3, 2, 1]), [], {})
    with FeatureStore(path) as store:
        assert np.array_equal(store.X("layer4.1"), kit.expected([3, 2, 1], kit.avg))


def test_new_images_only_add_their_rows(kit, path):
    assert kit.store(path, range(5)) == 5
    assert kit.store(path, [7, 3, 4, 8, 3]) == 2
    with FeatureStore(path) as store:
        assert np.array_equal(store.X("classifier.4"), kit.expected([7, 3, 4, 8, 3], kit.flat))
        store.verify()


def test_a_layer_is_added_and_the_others_kept(kit, path):
    kit.store(path, range(5), [kit.avg])
    assert kit.store(path, range(5), [kit.flat]) == 5
    with FeatureStore(path) as store:
        assert set(store.layers) == {kit.avg, kit.flat}
        for layer in store.layers:
            assert np.array_equal(store.X(layer.name), kit.expected(range(5), layer))
    # Both layers are known now, so nothing is left to compute.
    assert kit.store(path, range(5)) == 0


def test_a_layer_that_not_all_images_have_is_not_kept(kit, path):
    kit.store(path, range(5), [kit.avg])
    kit.store(path, range(6), [kit.flat])
    with FeatureStore(path) as store:
        assert store.layers == (kit.flat,)


def test_known_needs_every_layer(kit, path):
    crash(kit, path, [0, 1], layers=[kit.avg])
    crash(kit, path, [1, 2], layers=[kit.flat])
    with kit.writer(path) as writer:
        assert writer.known == {kit.digest(1)}
    with kit.writer(path, [kit.avg]) as writer:
        assert writer.known == {kit.digest(0), kit.digest(1)}


def test_seconds_are_those_of_the_rows_that_are_used(kit, path):
    """Half of the rows found, and nothing twice, however often it runs."""
    kit.store(path, range(10))  # in 1.5 s, as it says
    for _ in range(3):
        with kit.writer(path) as writer:
            writer.finish(kit.images(range(10)), [], {"seconds": 0.0})
        assert FeatureStore(path).meta["seconds"] == pytest.approx(1.5)
    with kit.writer(path) as writer:
        writer.add(*kit.rows(range(10, 15)))
        writer.finish(kit.images(range(5, 15)), [], {"seconds": 2.0})
    assert FeatureStore(path).meta["seconds"] == pytest.approx(0.75 + 2.0)


def test_a_source_that_is_mostly_gone_costs_no_rows(kit, path):
    kit.store(path, range(250))
    before = path.read_bytes()
    with pytest.raises(
        StoreError, match=r"rows of 150 of its 250 images, which photos does not have.*--overwrite"
    ):
        kit.store(path, range(100))
    assert path.read_bytes() == before
    kit.store(path, range(130))
    assert len(FeatureStore(path)) == 130
    kit.store(path, range(20), overwrite=True)
    assert len(FeatureStore(path)) == 20


def test_rows_of_other_images_stay_in_their_parts(kit, path):
    """A run of another source, after a kill, finishes; what the first had computed is still there."""
    crash(kit, path, list(range(6)))
    with kit.writer(path) as writer:
        writer.finish(kit.images([0, 1, 2]), [], {})
        assert "2 parts with rows of images that photos does not have stay in" in writer.notes[-1]
    assert len(parts(path)) == 2
    path.unlink()
    assert kit.store(path, range(2, 6)) == 0
    assert leftovers(path) == []


def test_a_digest_that_ends_in_zeros_is_itself(kit, path):
    digests = np.zeros((2, 32), np.uint8)
    digests[1, 0] = 1
    features = kit.rows([0, 1])[2]
    with kit.writer(path, flush_bytes=1) as writer:
        writer.add(digests, np.zeros(2, np.uint64), features)
    with kit.writer(path) as writer:
        assert writer.known == {row.tobytes() for row in digests}


@pytest.mark.parametrize(
    ("change", "field", "values"),
    [
        ({"backbone": "other"}, "backbone", ("'net'", "'other'")),
        ({"weights": {"digest": "cd", "seed": 3}}, "weights.seed", ("None", "3")),
        ({"preprocess": {"mean": [0.5, 0.5, 0.5], "image_size": 9}}, "preprocess.image_size", ("8", "9")),
        ({"decoding": "2"}, "decoding", ("'1'", "'2'")),
        ({"precision": "bf16"}, "precision", ("'fp32'", "'bf16'")),
        ({"store_dtype": "float32"}, "store_dtype", ("'float16'", "'float32'")),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_space_is_refused_with_both_values(kit, path, change, field, values, finished):
    if finished:
        kit.store(path, [1, 2])
    else:
        crash(kit, path, [1, 2])
    before = path.read_bytes() if finished else None
    text = f"{field} is {values[0]} there and {values[1]} now"
    with pytest.raises(SpaceMismatchError, match=text) as caught, kit.writer(path, space=kit.space(**change)):
        pass
    assert "--overwrite" in str(caught.value)
    assert "another output" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert finished is path.exists()
    if finished:
        assert path.read_bytes() == before
    else:
        assert len(parts(path)) == 1


def test_overwrite_replaces_a_store_of_another_space(kit, path):
    kit.store(path, range(5))
    new = kit.space(backbone="other")
    assert kit.store(path, range(3), space=new, overwrite=True) == 3
    with FeatureStore(path) as store:
        assert store.space == new
        assert len(store) == 3


def test_overwrite_resumes_its_own_unfinished_run(kit, path):
    kit.store(path, range(5))
    new = kit.space(backbone="other")
    crash(kit, path, [0, 1], space=new, overwrite=True)
    assert kit.store(path, range(3), space=new, overwrite=True) == 1


def test_overwrite_removes_parts_of_another_space(kit, path):
    crash(kit, path, [0, 1])
    with kit.writer(path, space=kit.space(backbone="other"), overwrite=True) as writer:
        assert writer.known == set()
        assert "another space and was removed" in writer.notes[0]
    assert parts(path) == []


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(1000)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_file_is_never_touched(kit, path, content, overwrite):
    path.write_bytes(content)
    with pytest.raises(NotAStoreError, match="is no featx store; choose another output"):
        kit.writer(path, overwrite=overwrite).__enter__()
    assert path.read_bytes() == content
    assert leftovers(path) == []


def test_a_directory_is_not_replaced(kit, path):
    path.mkdir()
    with pytest.raises(NotAStoreError, match="no featx store"):
        kit.writer(path, overwrite=True).__enter__()


def test_a_part_is_no_output(kit, path):
    crash(kit, path, [0, 1])
    part = parts(path)[0]
    before = part.read_bytes()
    with pytest.raises(NotAStoreError, match="a part of another store"):
        kit.writer(part, overwrite=True).__enter__()
    assert part.read_bytes() == before


def test_a_value_beyond_float16_names_the_remedy(kit, path):
    digests, phashes, features = kit.rows([1, 2])
    features["layer4.1:avg"][1, 2] = 70000.0
    with kit.writer(path) as writer:
        text = "layer4.1:avg.*reaches 70000, out of the range of float16.*--store-dtype float32"
        with pytest.raises(OverflowStoreError, match=text):
            writer.add(digests, phashes, features)
        writer.flush()
        assert parts(path) == []
    with kit.writer(path, space=kit.space(store_dtype="float32")) as writer:
        writer.add(digests, phashes, features)
        writer.finish(kit.images([1, 2]), [], {})
    with FeatureStore(path) as store:
        assert store.X("layer4.1").dtype == np.float32
        assert store.X("layer4.1")[1, 2] == 70000.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(kit, path, value):
    digests, phashes, features = kit.rows([1])
    features["classifier.4:flatten"][0, 0] = value
    with kit.writer(path) as writer, pytest.raises(StoreError, match="NaN or infinity"):
        writer.add(digests, phashes, features)


def test_rows_of_a_wrong_shape_or_layer_are_refused(kit, path):
    digests, phashes, features = kit.rows([1, 2])
    with kit.writer(path) as writer:
        with pytest.raises(StoreError, match=r"expected \(2, 5\)"):
            writer.add(digests, phashes, features | {"layer4.1:avg": np.zeros((2, 4), np.float32)})
        with pytest.raises(StoreError, match="Got rows of the layers"):
            writer.add(digests, phashes, {"layer4.1:avg": features["layer4.1:avg"]})
        with pytest.raises(StoreError, match=r"expected \(k, 32\)"):
            writer.add(digests[:, :31], phashes, features)


def test_an_image_without_a_row_is_named(kit, path):
    with kit.writer(path) as writer:
        writer.add(*kit.rows([1]))
        with pytest.raises(StoreError, match=r"1 of 2 images, such as 'img001-2\.jpg'"):
            writer.finish(kit.images([1, 2]), [], {})
    assert not path.exists()
    assert len(parts(path)) == 1


def test_a_name_twice_and_text_that_hdf5_would_cut_are_refused(kit, path):
    one = kit.images([1])[0]
    with kit.writer(path) as writer:
        writer.add(*kit.rows([1]))
        with pytest.raises(StoreError, match="stands twice"):
            writer.finish([one, one], [], {})
        cut = one._replace(record=type(one.record)("a.jpg", label="a\0b"))
        with pytest.raises(StoreError, match="NUL"):
            writer.finish([cut], [], {})
        with pytest.raises(StoreError, match="has 3 bytes"):
            writer.finish([one._replace(digest=b"abc")], [], {})


@pytest.mark.parametrize("name", ["a/b", ""])
def test_a_layer_that_hdf5_would_split_is_refused(kit, path, name):
    with pytest.raises(StoreError, match="cannot be named"):
        kit.writer(path, [LayerInfo(name, "avg", 2)])


def test_a_layer_twice_or_none_is_refused(kit, path):
    with pytest.raises(StoreError, match="named twice"):
        kit.writer(path, [kit.avg, kit.avg])
    with pytest.raises(StoreError, match="at least one layer"):
        kit.writer(path, [])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, OverflowStoreError])
def test_rows_in_memory_survive_an_interruption(kit, path, error):
    def interrupted():
        with kit.writer(path) as writer:
            writer.add(*kit.rows([1, 2]))
            raise error

    with pytest.raises(error):
        interrupted()
    assert len(parts(path)) == 1
    assert leftovers(path) == ["photos.h5.parts"]
    assert kit.store(path, [1, 2, 3]) == 1


def test_rows_that_cannot_be_kept_do_not_hide_the_first_error(kit, path, monkeypatch):
    def broken():
        with kit.writer(path) as writer:
            writer.add(*kit.rows([1, 2]))
            monkeypatch.setattr("featx.store.partswriter.write_part", full)
            raise ValueError("first")

    def full(*args, **kwargs):
        raise StoreError("Cannot write: full")

    with pytest.raises(ValueError, match="first") as caught:
        broken()
    assert "were dropped: Cannot write: full" in caught.value.__notes__[0]
    assert leftovers(path) == []


def test_a_writer_that_did_nothing_leaves_nothing(kit, path):
    with kit.writer(path):
        pass
    assert leftovers(path) == []


def test_a_damaged_part_is_put_aside_and_computed_again(kit, path):
    crash(kit, path, list(range(6)))
    victim = parts(path)[1]
    with h5py.File(victim) as h5:
        value = h5["features/layer4.1:avg"].id.get_offset()
    data = bytearray(victim.read_bytes())
    data[value] ^= 1  # HDF5 alone would not notice
    victim.write_bytes(data)
    parts(path)[2].write_bytes(b"")
    with kit.writer(path) as writer:
        assert writer.known == {kit.digest(0), kit.digest(1)}
        assert len(writer.notes) == 2
        assert victim.name in writer.notes[0]
    assert len(parts(path)) == 1
    assert kit.store(path, range(6)) == 4
    with FeatureStore(path) as store:
        assert np.array_equal(store.X("layer4.1"), kit.expected(range(6), kit.avg))
    assert leftovers(path) == []


def test_a_part_of_a_newer_format_is_not_put_aside(kit, path):
    crash(kit, path, [0, 1])
    part = parts(path)[0]
    data = part.read_bytes()[SIZE:]
    part.write_bytes(pack_header(Header(2, len(data), bytes(32))) + data)
    with pytest.raises(DamagedStoreError, match=r"newer than 1.*update featx"):
        kit.writer(path).__enter__()
    assert part.exists()


def test_a_damaged_store_is_not_added_to(kit, path):
    kit.store(path, range(4))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedStoreError, match=r"SHA-256.*--overwrite"):
        kit.writer(path).__enter__()
    assert path.read_bytes() == data
    assert kit.store(path, range(4), overwrite=True) == 4


def test_what_a_killed_writer_left_is_removed(kit, path):
    crash(kit, path, [0, 1])
    (path.parent / f"{path.name}.{'0' * 32}.tmp").write_bytes(b"half")
    (parts(path)[0].parent / "part-000002-ab.h5.0123.tmp").write_bytes(b"half")
    (path.parent / "photos.h5x.0123.tmp").write_bytes(b"not ours")
    kit.store(path, [0, 1])
    assert leftovers(path) == ["photos.h5x.0123.tmp"]


def test_parts_left_by_a_kill_after_the_rename_do_no_harm(kit, path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writer_module.StoreWriter, "_remove_parts", lambda self: None)
        kit.store(path, range(4))
    assert len(parts(path)) == 1
    assert kit.store(path, range(5)) == 1
    assert leftovers(path) == []
    with FeatureStore(path) as store:
        assert np.array_equal(store.X("layer4.1"), kit.expected(range(5), kit.avg))


def test_a_link_is_written_through(kit, path, tmp_path):
    target = tmp_path / "elsewhere.h5"
    kit.store(target, range(3))
    path.symlink_to(target)
    kit.store(path, range(4))
    assert path.is_symlink()
    with FeatureStore(target) as store:
        assert len(store) == 4


def test_missing_directories_are_made(kit, tmp_path):
    deep = tmp_path / "a" / "b" / "photos.h5"
    kit.store(deep, range(2))
    with FeatureStore(deep) as store:
        assert len(store) == 2


def test_a_store_without_images(kit, path):
    kit.store(path, [])
    with FeatureStore(path) as store:
        assert store.names == []
        assert store.X("layer4.1").shape == (0, 5)
        assert store.records == []
        store.verify()


def test_a_long_request_is_kept(kit, path):
    writer = kit.writer(path)
    writer.request = {"long": "x" * 200_000}
    with writer:
        writer.add(*kit.rows([1]))
        writer.finish(kit.images([1]), [], {})
    with FeatureStore(path) as store:
        assert store.meta["request"] == writer.request
        assert json.dumps(store.meta)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_names_the_path(kit, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="where you may write"):
            kit.writer(tmp_path / "photos.h5").__enter__()
    finally:
        tmp_path.chmod(0o700)
