"""Where the files of a directory store lie, what is one, and what is said of those that are none."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from directories import album, contents, parts, write, write_all
from hypothesis import given
from hypothesis import strategies as st

import featx
from featx.errors import NotAStoreError, StoreError
from featx.images.folders import FolderSource
from featx.records import ImageRecord
from featx.sharding import Shard
from featx.store.directory import (
    fingerprint,
    index_path,
    is_directory_store,
    list_parts,
    list_shards,
    part_path,
    shard_directory,
    shard_index,
    unfinished,
)
from featx.store.reader import FeatureStore

PICTURES = album(range(7), bad=(30,))
PART = f"0-of-2/part-000001-{'0a' * 16}.h5"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "photos"


class TestPlaces:
    def test_names(self, root):
        assert index_path(root) == root / "index.h5"
        assert shard_directory(root, Shard(3, 16)) == root / "shards" / "3-of-16"
        assert shard_index(root, Shard(0, 1)) == root / "shards" / "0-of-1" / "index.h5"

    def test_shards_are_listed_by_number(self, root):
        for name in ("10-of-12", "2-of-12", "0-of-2", "12-of-12", "0-of-0", "x-of-2", "1-of-2.old", "of"):
            (root / "shards" / name).mkdir(parents=True)
        assert list_shards(root) == [Shard(0, 2), Shard(2, 12), Shard(10, 12)]
        assert list_shards(root / "nowhere") == []

    def test_parts_of_all_shards_are_listed_and_nothing_else(self, kit, root):
        write_all(kit, root, PICTURES, 2)
        folder = shard_directory(root, Shard(0, 2))
        for name in ("part-000001-x.h5.damaged", f"part-000002-x.h5.{'0' * 32}.tmp", "notes.txt"):
            (folder / name).write_bytes(b"")
        assert sorted(list_parts(root)) == parts(root)
        assert len(list_parts(root)) >= 2

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda root: None, False),
            (lambda root: root.write_bytes(b"x"), False),
            (lambda root: (root / "shards" / "train").mkdir(parents=True), False),
            (lambda root: (root / "shards" / "0-of-1").mkdir(parents=True), True),
        ],
    )
    def test_what_is_a_store(self, root, make, expected):
        make(root)
        assert is_directory_store(root) is expected

    def test_the_path_of_a_part(self, root):
        assert part_path(root / "shards", PART) == root / "shards" / PART

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "part-000001-" + "0a" * 16 + ".h5",
            f"../{PART}",
            f"/{PART}",
            f"0-of-2/../{PART}",
            f"0-of-2/../../x/part-000001-{'0a' * 16}.h5",
            PART + "\n",
            PART.replace("/", "\\"),
            PART.replace("0a", "0A"),
            PART.replace(".h5", ".h5.damaged"),
            "0-of-2/index.h5",
            f"0-of-2/part-1-{'0a' * 16}.h5",
        ],
    )
    def test_a_name_that_leads_elsewhere_is_refused(self, root, name):
        with pytest.raises(StoreError, match=f"{root} is refused"):
            part_path(root / "shards", name)

    @given(st.text())
    def test_no_name_leads_out(self, name):
        shards = Path("/store/shards")
        try:
            path = part_path(shards, name)
        except StoreError:
            return
        assert os.path.normpath(path) == str(path)
        assert path.parent.parent == shards


RECORDS = st.builds(
    ImageRecord,
    st.text(),
    st.none() | st.text(),
    st.none() | st.sampled_from(["train", "test"]),
    st.none() | st.text(),
    st.integers(-1, 2**40),
    st.integers(-1, 2**62),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
)


@given(st.lists(RECORDS, max_size=4), st.lists(RECORDS, max_size=4))
def test_listings_have_one_fingerprint_exactly_if_they_are_the_same(one, other):
    """But for the times of change, which copies on other machines do not share."""
    one, other = (
        [replace(record, mtime_ns=time) for record in records] for time, records in ((1, one), (2, other))
    )
    plain = [replace(record, mtime_ns=1) for record in other]
    assert (fingerprint(one) == fingerprint(other)) is (one == plain)
    assert fingerprint(one) == fingerprint(list(one))
    assert (fingerprint([*one, *other]) == fingerprint([*other, *one])) is ([*one, *plain] == [*plain, *one])


def test_the_order_of_columns_is_no_difference():
    one, other = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    assert fingerprint([ImageRecord("x", columns=one)]) == fingerprint([ImageRecord("x", columns=other)])


def test_a_name_of_stray_bytes_has_a_fingerprint():
    assert fingerprint([ImageRecord("\udcff")]) != fingerprint([ImageRecord("\udcfe")])


class TestUnfinished:
    def test_says_which_shards_are_missing(self, kit, root):
        write(kit, root, PICTURES, (1, 3))
        write(kit, root, PICTURES, (0, 3), finish=False)
        with pytest.raises(StoreError, match=f"{root} is not finished: .*0/3.*2/3.*--shard I/N") as caught:
            FeatureStore(root)
        assert "1/3" not in str(caught.value)

    def test_says_that_nothing_is_finished(self, kit, root):
        write(kit, root, PICTURES, (0, 3), finish=False)
        with pytest.raises(StoreError, match=f"{root} is not finished: ") as caught:
            FeatureStore(root)
        assert all(f"{number}/3" in str(caught.value) for number in range(3))

    def test_says_what_is_missing(self, root):
        text = str(unfinished(root, ["shard 0/2 is missing", "shard 1/2 holds other layers"]))
        assert "shard 0/2 is missing; shard 1/2 holds other layers" in text


class TestOpening:
    def test_a_directory_that_is_no_store(self, root):
        root.mkdir()
        with pytest.raises(StoreError, match=str(root)):
            FeatureStore(root)
        (root / "diary.txt").write_text("dear diary")
        with pytest.raises(NotAStoreError, match=f"{root} exists and is a directory, no featx store"):
            FeatureStore(root)

    def test_other_peoples_index(self, root):
        root.mkdir()
        index_path(root).write_bytes(b"\x89HDF\r\n\x1a\nkeras")
        with pytest.raises(NotAStoreError, match=str(root)):
            FeatureStore(root)

    def test_the_ways_to_name_one(self, kit, root, tmp_path, monkeypatch):
        write_all(kit, root, PICTURES, 2)
        before = contents(root)
        (tmp_path / "link").symlink_to(root)
        (tmp_path / "chain").symlink_to("link")
        for path in (f"{root}/", f"{root}//", tmp_path / "link", f"{tmp_path}/chain/", root / "index.h5"):
            assert contents(path) == before, path
        monkeypatch.chdir(tmp_path)
        assert contents("photos") == before
        monkeypatch.chdir(root)
        assert contents(".") == contents("index.h5") == before

    def test_the_index_of_one_shard_alone(self, kit, root):
        write(kit, root, PICTURES, (0, 2))
        with FeatureStore(shard_index(root, Shard(0, 2))) as store:
            mine = [r.name for r in PICTURES.of(Shard(0, 2)) if PICTURES.keys[r.name] is not None]
            assert store.names == mine
            store.verify()
            assert (
                store.X(kit.flat.name).tolist()
                == kit.expected([PICTURES.keys[name] for name in mine], kit.flat).tolist()
            )

    def test_a_part_alone_is_no_store(self, kit, root):
        write_all(kit, root, PICTURES, 1)
        with pytest.raises(NotAStoreError, match="is one part of a store"):
            FeatureStore(parts(root)[0])

    def test_a_store_outlives_a_change_of_directory(self, kit, root, monkeypatch):
        write_all(kit, root, PICTURES, 2)
        monkeypatch.chdir(root.parent)
        stores = [FeatureStore(root.name), FeatureStore(f"{root.name}/index.h5")]
        monkeypatch.chdir("/")
        for store in stores:
            assert store.X(kit.avg.name).shape == (7, 5)

    def test_a_link_to_the_index(self, kit, root, tmp_path):
        write_all(kit, root, PICTURES, 2)
        (tmp_path / "link.h5").symlink_to(index_path(root))
        assert contents(tmp_path / "link.h5") == contents(root)

    def test_an_export_does_not_replace_its_own_files(self, kit, root, tmp_path):
        write_all(kit, root, PICTURES, 2)
        (tmp_path / "link").symlink_to(root)
        before = contents(root)
        for path in (index_path(root), parts(root)[0], tmp_path / "link" / "index.h5"):
            for opened in (root, tmp_path / "link", index_path(root)):
                with pytest.raises(StoreError, match="is the store itself"):
                    FeatureStore(opened).export(path, overwrite=True)
        assert contents(root) == before

    def test_a_dangling_link(self, root):
        root.symlink_to(root.with_name("nowhere"))
        with pytest.raises(StoreError, match="no store"):
            FeatureStore(root)

    def test_shards_that_cannot_be_listed(self, root):
        root.mkdir()
        (root / "shards").write_text("a file")
        with pytest.raises(StoreError, match=f"{root}/shards"):
            FeatureStore(root)


def test_a_store_among_the_images_is_no_class(kit, make_photos):
    """Finished or not, and its parts directory neither."""
    photos = make_photos(splits={"": 2})
    before = list(FolderSource(photos))
    write(kit, photos / "store", PICTURES, (0, 2))
    write_all(kit, photos / "ants" / "deep", PICTURES, 1)
    assert list(FolderSource(photos)) == before
    assert {record.label for record in before} == {"ants", "bees"}
    write(kit, photos / "store", PICTURES, (1, 2))
    assert list(FolderSource(photos)) == before


def test_a_store_among_split_folders_is_no_split(kit, make_photos):
    photos = make_photos(splits={"train": 1, "test": 1})
    before = list(FolderSource(photos))
    write_all(kit, photos / "store", PICTURES, 1)
    assert list(FolderSource(photos)) == before
    assert FolderSource(photos).kind == "split folders"


def test_a_store_is_opened_by_its_path_like_any_other(kit, root):
    write_all(kit, root, PICTURES, 1)
    assert len(featx.FeatureStore(os.fspath(root))) == 7
