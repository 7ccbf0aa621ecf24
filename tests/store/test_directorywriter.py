"""Many writers, one store: whatever order they come in, it is the store that one writer would make."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from directories import album, contents, finish_shard, flip, parts, write, write_all

import featx.store.directorywriter as module
from featx.errors import NotAStoreError, SpaceMismatchError, StoreError, StoreLockedError
from featx.records import LayerInfo
from featx.sharding import Shard
from featx.store.directory import index_path, shard_index
from featx.store.reader import FeatureStore
from featx.store.storefile import StoreFile
from featx.store.userblock import NewerFormatError

PICTURES = album(range(11), bad=(30, 31), twins=(2, 5))
N_IMAGES = 13
EXTRA = LayerInfo("layer2", "max", 4)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "photos"


@pytest.fixture
def one_file(kit, tmp_path):
    def make(pictures, **options):
        path = tmp_path / "one.h5"
        path.unlink(missing_ok=True)
        write(kit, path, pictures, **options)
        return contents(path)

    return make


class TestWhole:
    @pytest.mark.parametrize("order", [(0,), (1, 0), (0, 2, 1), (2, 0, 1), (3, 0, 2, 1)])
    def test_shards_in_any_order_equal_one_file(self, kit, root, one_file, order):
        for step, number in enumerate(order, 1):
            _, writer = write(kit, root, PICTURES, (number, len(order)))
            assert len(writer.missing) == len(order) - step
        found = contents(root)
        assert found == one_file(PICTURES)
        assert found["names"] == [
            record.name for record in PICTURES.records if PICTURES.keys[record.name] is not None
        ]
        assert [item.name for item in found["skipped"]] == [
            record.name for record in PICTURES.records if PICTURES.keys[record.name] is None
        ]
        assert sorted(found["columns"]["rare/%"]) == [""] * (N_IMAGES - 1) + ["once"]
        rows = np.array(found["layers"][kit.avg.name])
        np.testing.assert_array_equal(
            rows, kit.expected([PICTURES.keys[name] for name in found["names"]], kit.avg)
        )

    @pytest.mark.parametrize(("keys", "bad"), [(range(5), ()), ([7], ()), ([7], [8, 9])])
    def test_more_shards_than_images(self, kit, root, one_file, keys, bad):
        pictures = album(keys, bad=bad)
        assert write_all(kit, root, pictures, 6) == len(keys)
        assert contents(root) == one_file(pictures)

    def test_no_labels_splits_or_columns(self, kit, root, one_file):
        pictures = album(range(9))
        bare = [type(record)(record.name) for record in pictures.records]
        pictures.records[:] = bare
        write_all(kit, root, pictures, 2)
        found = contents(root)
        assert found == one_file(pictures)
        assert found["columns"] == {}
        assert set(found["labels"]) == {""}

    def test_what_the_index_says_of_the_whole(self, kit, root):
        write_all(kit, root, PICTURES, 2)
        with FeatureStore(root) as store:
            assert store.meta["source"] == "photos"
            assert store.meta["seconds"] == 3.0
            assert store.meta["peak_memory_bytes"] == 7
            assert "shard" not in store.meta
            assert store.n_parts == len(parts(root))
            on_disk = sum(path.stat().st_size for path in [*parts(root), index_path(root)])
            assert store.nbytes == on_disk

    def test_a_name_that_is_no_unicode(self, kit, root, tmp_path):
        pictures = album([1, 2, 3])
        records = [
            type(record)(name) for record, name in zip(pictures.records, kit.awkward[1:4], strict=True)
        ]
        pictures.keys = dict(zip(kit.awkward[1:4], (1, 2, 3), strict=True))
        pictures.records[:] = records
        write_all(kit, root, pictures, 2)
        assert contents(root)["names"] == list(kit.awkward[1:4])


class TestBefore:
    def test_no_index_before_the_last_shard(self, kit, root):
        for number in (2, 0):
            target = write(kit, root, PICTURES, (number, 3))[1]
            assert not index_path(root).exists()
            with pytest.raises(StoreError, match="not finished") as caught:
                FeatureStore(root)
            assert str(root) in str(caught.value)
        assert target.missing == ["shard 1/3 is missing"]
        write(kit, root, PICTURES, (1, 3))
        assert len(FeatureStore(root)) == N_IMAGES

    def test_finish_says_what_can_be_read(self, kit, root):
        paths = []
        for number in range(2):
            _, writer = write(kit, root, PICTURES, (number, 2), finish=False)
            with writer:
                paths.append(finish_shard(kit, writer, PICTURES.of(Shard(number, 2)), PICTURES))
        assert paths == [shard_index(root, Shard(0, 2)), root]
        own = contents(paths[0])
        mine = [record.name for record in PICTURES.of(Shard(0, 2)) if PICTURES.keys[record.name] is not None]
        assert own["names"] == mine

    def test_the_index_of_before_is_read_while_the_source_is_listed_anew(self, kit, root, one_file):
        write_all(kit, root, PICTURES, 2)
        before = contents(root)
        more = album(range(14), bad=(30, 33))
        for number in (0, 1, 2):
            assert contents(root) == before
            write(kit, root, more, (number, 4))
        assert contents(root) == before
        write(kit, root, more, (3, 4))
        assert contents(root) == one_file(more)

    def test_the_others_may_be_of_an_older_listing(self, kit, root, one_file):
        write_all(kit, root, PICTURES, 2)
        more = album(range(12))
        assert write(kit, root, more, (1, 2))[1].missing == ["shard 0/2 is of another listing of the source"]
        assert write(kit, root, more, (0, 2))[1].missing == []
        assert contents(root) == one_file(more)


class TestResume:
    @pytest.mark.parametrize("count", [1, 5])
    def test_rows_of_every_part_are_used_whoever_wrote_them(self, kit, root, one_file, count):
        first = write(kit, root, PICTURES, (0, 3), finish=False)[0]
        second = write(kit, root, PICTURES, (1, 3))[0]
        assert not set(first) & set(second) - {2, 5}
        assert first
        assert second
        assert write_all(kit, root, PICTURES, count) == 11 - len({*first, *second})
        assert contents(root) == one_file(PICTURES)

    def test_a_kill_between_both_indexes_costs_nothing(self, kit, root, one_file, monkeypatch):
        write(kit, root, PICTURES, (0, 2))

        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(module, "join_shards", killed)
            with pytest.raises(KeyboardInterrupt):
                write(kit, root, PICTURES, (1, 2))
        with pytest.raises(StoreError, match="not finished"):
            FeatureStore(root)
        todo, writer = write(kit, root, PICTURES, (0, 2))
        assert (todo, writer.missing) == ([], [])
        assert contents(root) == one_file(PICTURES)

    def test_what_a_killed_writer_left_of_a_file_is_removed(self, kit, root):
        write_all(kit, root, PICTURES, 1)
        folder = parts(root)[0].parent
        torn = [
            folder / f"part-000009-{'ab' * 16}.h5.{'cd' * 16}.tmp",
            folder / f"index.h5.{'cd' * 16}.tmp",
            root / f"index.h5.{'cd' * 16}.tmp",
        ]
        other = folder / "notes.tmp"
        for path in (*torn, other):
            path.write_bytes(b"torn")
        write(kit, root, album(range(12)), (0, 1))
        assert [path for path in torn if path.exists()] == []
        assert other.exists()

    def test_parts_are_never_numbered_twice(self, kit, root):
        write(kit, root, album(range(6)), (0, 1), step=3)
        write(kit, root, album(range(9)), (0, 1), step=2)
        assert [path.name[:11] for path in parts(root)] == [f"part-{number:06d}" for number in range(1, 5)]

    def test_images_that_went_leave_the_index_and_no_row_is_lost(self, kit, root, one_file):
        write_all(kit, root, PICTURES, 2)
        fewer = album(range(6))
        assert write_all(kit, root, fewer, 2) == 0
        assert contents(root) == one_file(fewer)
        assert write_all(kit, root, PICTURES, 3) == 0
        assert contents(root) == one_file(PICTURES)

    def test_a_damaged_part_is_put_aside_and_its_rows_are_computed(self, kit, root, one_file):
        write_all(kit, root, PICTURES, 2)
        victim = parts(root)[1]
        lost = StoreFile(victim).contents.rows
        victim.write_bytes(victim.read_bytes()[:-9])
        keys = len(set(write(kit, root, PICTURES, (0, 2))[0]) | set(write(kit, root, PICTURES, (1, 2))[0]))
        assert keys == lost
        assert victim.with_name(f"{victim.name}.damaged").exists()
        assert contents(root) == one_file(PICTURES)

    def test_a_note_says_which_part_is_not_used(self, kit, root):
        write_all(kit, root, PICTURES, 1)
        victim = parts(root)[0]
        victim.write_bytes(b"rubbish")
        _, writer = write(kit, root, PICTURES, (0, 1))
        assert len(writer.notes) == 1
        assert str(victim) in writer.notes[0]


class TestLayers:
    def test_a_layer_that_is_asked_for_later_comes_shard_by_shard(self, kit, root, one_file):
        write_all(kit, root, PICTURES, 2)
        before = contents(root)
        todo, writer = write(kit, root, PICTURES, (1, 2), layers=[EXTRA])
        assert todo
        assert writer.missing == ["shard 0/2 holds other layers"]
        assert contents(root) == before
        write(kit, root, PICTURES, (0, 2), layers=[EXTRA])
        found = contents(root)
        assert list(found["layers"]) == [EXTRA.name, kit.avg.name, kit.flat.name]
        assert found["layers"] == before["layers"] | {
            EXTRA.name: one_file(PICTURES, layers=[EXTRA])["layers"][EXTRA.name]
        }

    def test_layers_stay_when_images_are_added(self, kit, root, one_file):
        layers = [kit.avg, EXTRA]
        write_all(kit, root, PICTURES, 2, layers=[kit.avg])
        write_all(kit, root, PICTURES, 2, layers=[EXTRA])
        more = album(range(13), twins=(1,))
        assert write_all(kit, root, more, 3, layers=layers) == 2
        assert contents(root) == one_file(more, layers=layers)

    def test_a_layer_that_not_all_images_have_is_no_layer_of_the_store(self, kit, root):
        write_all(kit, root, PICTURES, 1)
        write_all(kit, root, album(range(12)), 1, layers=[kit.avg])
        assert list(contents(root)["layers"]) == [kit.avg.name]

    def test_a_layer_of_another_width_is_refused(self, kit, root):
        write_all(kit, root, PICTURES, 1)
        with pytest.raises(SpaceMismatchError, match="5 dimensions, got 6"):
            write(kit, root, PICTURES, (0, 2), layers=[LayerInfo(kit.avg.node, kit.avg.pool, 6)])


class TestOverwrite:
    @pytest.fixture
    def other(self, kit):
        return kit.space(precision="bf16")

    def test_another_space_is_refused_without_it(self, kit, root, other):
        write(kit, root, PICTURES, (0, 2))
        before = contents(shard_index(root, Shard(0, 2)))
        for shard in ((0, 2), (1, 2), (0, 1)):
            with pytest.raises(SpaceMismatchError, match=f"{root}.*precision is 'fp32' there and 'bf16' now"):
                write(kit, root, PICTURES, shard, space=other)
        assert contents(shard_index(root, Shard(0, 2))) == before

    @pytest.mark.parametrize("count", [2, 3])
    def test_another_space_takes_over_when_it_is_whole(self, kit, root, one_file, other, count):
        write_all(kit, root, PICTURES, 2)
        before, old = contents(root), parts(root)
        for number in range(count):
            assert contents(root) == before
            todo, _ = write(kit, root, PICTURES, (number, count), space=other, overwrite=True)
            assert todo
        assert contents(root) == one_file(PICTURES, space=other)
        assert not set(old) & set(parts(root))
        with FeatureStore(root) as store:
            assert store.n_parts == len(parts(root))
        write(kit, root, album(range(12)), (0, 1), space=other)

    def test_the_same_space_is_computed_anew(self, kit, root, one_file):
        write_all(kit, root, PICTURES, 2)
        old = set(parts(root))
        assert len(write(kit, root, PICTURES, (0, 1), overwrite=True)[0]) == 11
        assert contents(root) == one_file(PICTURES)
        assert not old & set(parts(root))

    def test_an_unfinished_run_of_it_is_used(self, kit, root, one_file, other):
        write_all(kit, root, PICTURES, 1)
        first = write(kit, root, PICTURES, (0, 1), finish=False, overwrite=True)[0]
        again = write(kit, root, PICTURES, (0, 1), overwrite=True)[0]
        assert (len(first), again) == (11, [])
        assert contents(root) == one_file(PICTURES)

    def test_parts_that_are_referred_to_are_never_removed(self, kit, root):
        """Shard 0 alone is made anew: the other's rows stay where they are, those of twins too."""
        write_all(kit, root, PICTURES, 2)
        for turn in range(4):
            todo, writer = write(kit, root, PICTURES, (turn % 2, 2), overwrite=True)
            assert todo
            assert writer.missing == []
            contents(root)

    def test_an_unfinished_overwrite_leaves_the_store(self, kit, root, other):
        write_all(kit, root, PICTURES, 2)
        before = contents(root)
        write(kit, root, PICTURES, (0, 2), finish=False, space=other, overwrite=True)
        assert contents(root) == before

    def test_rows_of_a_store_that_was_replaced_while_open(self, kit, root):
        """An error, and never other rows; those that were mapped before stay."""
        write_all(kit, root, PICTURES, 1)
        early, late = FeatureStore(root), FeatureStore(root)
        rows = early.X(kit.avg.name).tolist()
        write_all(kit, root, PICTURES, 1, overwrite=True)
        assert early.X(kit.avg.name).tolist() == rows
        with pytest.raises(StoreError, match="part-"):
            late.X(kit.avg.name)

    def test_forget_gives_up_what_was_found(self, kit, root, one_file):
        write_all(kit, root, PICTURES, 2)
        before = contents(root)
        _, unfinished = write(kit, root, PICTURES, (1, 2), finish=False, overwrite=True)
        with unfinished as writer:
            assert writer.known
            writer.forget()
            assert writer.known == set()
            assert contents(root) == before
            mine = PICTURES.of(Shard(1, 2))
            keys = list(dict.fromkeys(PICTURES.keys[record.name] for record in mine))
            keys = [key for key in keys if key is not None]
            writer.add(*kit.rows(keys), **kit.shapes(keys))
            assert finish_shard(kit, writer, mine, PICTURES) == root
        assert contents(root) == one_file(PICTURES)
        assert len(parts(root)) == FeatureStore(root).n_parts

    def test_forget_removes_no_part_that_another_shard_refers_to(self, kit, root):
        pictures = album(range(11), twins=range(11))
        write(kit, root, pictures, (0, 2))
        write(kit, root, album(range(11), twins=range(10)), (1, 2))  # another listing: not joined yet
        _, writer = write(kit, root, pictures, (0, 2), finish=False, overwrite=True)
        mine = pictures.of(Shard(0, 2))
        with writer:
            writer.forget()
            writer.add(*kit.rows(sorted({pictures.keys[record.name] for record in mine})))
            finish_shard(kit, writer, mine, pictures)
        FeatureStore(shard_index(root, Shard(1, 2))).require_parts()


class TestLocks:
    def test_one_writer_a_shard(self, kit, root):
        _, first = write(kit, root, PICTURES, (0, 2), finish=False)
        _, second = write(kit, root, PICTURES, (1, 2), finish=False)
        with first, second:
            with pytest.raises(StoreLockedError, match="0-of-2"):
                write(kit, root, PICTURES, (0, 2))
            finish_shard(kit, first, PICTURES.of(first.shard), PICTURES)
            finish_shard(kit, second, PICTURES.of(second.shard), PICTURES)
        assert len(FeatureStore(root)) == N_IMAGES
        write(kit, root, PICTURES, (0, 2))

    def test_readers_never_wait(self, kit, root):
        write_all(kit, root, PICTURES, 2)
        before = contents(root)
        _, writer = write(kit, root, album(range(14)), (0, 2), finish=False)
        with writer:
            assert contents(root) == before


class TestForeign:
    def test_a_directory_of_other_files_is_not_touched(self, kit, root):
        root.mkdir()
        (root / "diary.txt").write_text("dear diary")
        for options in ({}, {"overwrite": True}):
            with pytest.raises(NotAStoreError, match=f"{root} holds other files"):
                write(kit, root, PICTURES, (0, 1), **options)
        assert [path.name for path in root.rglob("*")] == ["diary.txt"]

    @pytest.mark.parametrize("kind", ["foreign", "one file", "part"])
    def test_a_directory_with_another_index_is_not_touched(self, kit, root, tmp_path, kind):
        root.mkdir()
        if kind == "foreign":
            index_path(root).write_bytes(b"\x89HDF\r\n\x1a\nsomebody else's")
        elif kind == "one file":
            kit.store(index_path(root))
        else:
            write(kit, tmp_path / "other", PICTURES, (0, 1))
            shutil.copyfile(parts(tmp_path / "other")[0], index_path(root))
        before = index_path(root).read_bytes()
        for options in ({}, {"overwrite": True}):
            with pytest.raises(NotAStoreError, match=str(root)):
                write(kit, root, PICTURES, (0, 2), **options)
        assert [path.name for path in root.rglob("*")] == ["index.h5"]
        assert index_path(root).read_bytes() == before

    def test_what_mkdir_left_before_a_kill_is_ours(self, kit, root):
        (root / "shards").mkdir(parents=True)
        write_all(kit, root, PICTURES, 1)
        assert len(FeatureStore(root)) == N_IMAGES

    def test_a_part_under_another_name_makes_no_index_that_nobody_reads(self, kit, root, one_file):
        write_all(kit, root, PICTURES, 1)
        parts(root)[0].rename(parts(root)[0].with_name("part-000001-restored.h5"))
        assert write(kit, root, PICTURES, (0, 1))[0]
        assert contents(root) == one_file(PICTURES)

    def test_a_file_is_no_directory(self, kit, path):
        kit.store(path)
        before = path.read_bytes()
        for options in ({}, {"overwrite": True}):
            with pytest.raises(NotAStoreError, match=f"{path} exists and is no directory"):
                write(kit, path, PICTURES, (0, 2), **options)
        assert path.read_bytes() == before

    def test_an_empty_directory_will_do(self, kit, root):
        root.mkdir()
        write_all(kit, root, PICTURES, 1)
        assert len(FeatureStore(root)) == N_IMAGES

    def test_a_symbolic_link_stays_one(self, kit, root, tmp_path, one_file):
        (tmp_path / "link").symlink_to(root)
        root.mkdir()
        write_all(kit, tmp_path / "link", PICTURES, 2)
        assert (tmp_path / "link").is_symlink()
        assert contents(tmp_path / "link") == contents(root) == one_file(PICTURES)

    def test_a_store_that_moved_is_read_and_added_to(self, kit, root, tmp_path, one_file):
        write_all(kit, root, PICTURES, 2)
        shutil.move(root, tmp_path / "moved")
        more = album(range(12))
        assert write_all(kit, tmp_path / "moved", more, 2) == 1
        assert contents(tmp_path / "moved") == one_file(more)

    def test_a_damaged_index_of_a_shard_is_made_anew(self, kit, root, one_file):
        write_all(kit, root, PICTURES, 2)
        own = shard_index(root, Shard(0, 2))
        own.write_bytes(own.read_bytes()[:-7])
        todo, writer = write(kit, root, PICTURES, (0, 2))
        assert todo == []
        assert str(own) in writer.notes[0]
        assert contents(root) == one_file(PICTURES)

    def test_the_damaged_index_of_another_shard_is_named(self, kit, root):
        write_all(kit, root, PICTURES, 2)
        own = shard_index(root, Shard(1, 2))
        flip(own, 8 * own.stat().st_size - 1)
        assert write(kit, root, album(range(12)), (0, 2))[1].missing == ["shard 1/2 is damaged"]

    def test_the_index_of_a_newer_featx_is_let_alone(self, kit, root):
        write(kit, root, PICTURES, (0, 2))
        own = shard_index(root, Shard(0, 2))
        flip(own, 8 * 9)
        before = own.read_bytes()
        for options in ({}, {"overwrite": True}):
            with pytest.raises(NewerFormatError, match=str(own)):
                write(kit, root, PICTURES, (0, 2), **options)
        assert own.read_bytes() == before

    @pytest.mark.parametrize(
        "left", ["index.h5.lock", f"index.h5.{'0a' * 16}.tmp", f"index.h5.lock.{'0a' * 16}.tmp", "README.txt"]
    )
    def test_what_lies_beside_the_shards_before_the_index_does_no_harm(self, kit, root, left):
        """A join that is under way, or was killed; people's notes."""
        write(kit, root, PICTURES, (0, 2))
        (root / left).write_bytes(b"{}")
        with pytest.raises(StoreError, match="not finished"):
            FeatureStore(root)
        write(kit, root, PICTURES, (1, 2))
        assert len(FeatureStore(root)) == N_IMAGES
