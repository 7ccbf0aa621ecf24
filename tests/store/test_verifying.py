"""Whatever happens to a file of a directory store, it is named, and nothing is given in its place."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
from directories import album, contents, flip, forge, parts, sign, write_all

from featx.errors import DamagedStoreError, FeatxError, StoreError
from featx.records import Progress
from featx.store.directory import index_path
from featx.store.reader import FeatureStore
from featx.store.storefile import StoreFile
from featx.store.userblock import PART_REMEDY, NewerFormatError

PICTURES = album(range(13), bad=(30,), twins=(2, 5))
FLIPS = 60


@pytest.fixture(scope="module")
def good(kit, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "photos"
    write_all(kit, path, PICTURES, 2, step=3)
    return path


@pytest.fixture
def root(good, tmp_path):
    return shutil.copytree(good, tmp_path / "photos")


def problems(root):
    try:
        with FeatureStore(root) as store:
            store.verify()
    except DamagedStoreError as error:
        return list(error.problems)
    return []


def swap(kit, root, victim):
    """Another part of as many rows and bytes: only the checksum tells."""
    size = victim.stat().st_size
    other = next(path for path in parts(root) if path != victim and path.stat().st_size == size)
    shutil.copyfile(other, victim)


def of_another_space(kit, root, victim):
    place = root.with_name("other")
    write_all(kit, place, PICTURES, 2, space=kit.space(precision="bf16"))
    shutil.copyfile(parts(place)[0], victim)


FAULTS = {
    "missing": lambda kit, root, victim: victim.unlink(),
    "truncated": lambda kit, root, victim: victim.write_bytes(victim.read_bytes()[:-100]),
    "empty": lambda kit, root, victim: victim.write_bytes(b""),
    "longer": lambda kit, root, victim: victim.write_bytes(victim.read_bytes() + b"\0"),
    "rubbish": lambda kit, root, victim: victim.write_bytes(b"x" * victim.stat().st_size),
    "swapped": swap,
    "another space": of_another_space,
    "newer": lambda kit, root, victim: flip(victim, 8 * 9),
    "a directory": lambda kit, root, victim: (victim.unlink(), victim.mkdir()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_that_is_not_as_it_was(kit, root, fault):
    before, victim = contents(root), parts(root)[0]
    FAULTS[fault](kit, root, victim)
    with FeatureStore(root) as store:
        assert store.names == before["names"]
        for read in (
            lambda: store.X(kit.avg.name),
            lambda: store.take(kit.flat.name, range(len(store))),
            lambda: list(store.blocks(kit.avg.name)),
            store.verify,
        ):
            with pytest.raises(FeatxError) as caught:
                read()
            assert str(victim) in str(caught.value)
            assert "\n" not in str(caught.value)
        found = problems(root)
        assert len(found) == 1
        assert str(victim) in found[0]


REMEDIES = {"missing": "put it back, or run", "swapped": "put that one back", "newer": "update featx"}


@pytest.mark.parametrize("fault", [*FAULTS, "flipped", "not finite"])
def test_what_to_do_about_a_part_is_said_once(kit, root, fault):
    victim = parts(root)[0]
    if fault == "not finite":
        not_finite(kit, root, victim)
    elif fault == "flipped":
        flip(victim, 8 * victim.stat().st_size - 3)
    else:
        FAULTS[fault](kit, root, victim)
    (found,) = problems(root)
    remedy = REMEDIES.get(fault, "is not the part" if fault == "another space" else PART_REMEDY)
    assert remedy in found
    assert found.count(";") == 1
    assert "extract it again" not in found
    if remedy is not PART_REMEDY:
        assert PART_REMEDY not in found


def not_finite(kit, root, victim):
    """A part that was written so, with an index that means it."""
    with FeatureStore(root) as old:
        number = old._rows.names.index(f"{victim.parent.name}/{victim.name}")

    def change(h5):
        h5[f"features/{kit.flat.name}"][0, 0] = np.inf

    forge(victim, change)
    digest = victim.read_bytes()[24:56]

    def agree(h5):
        h5["parts/digest"][number] = np.frombuffer(digest, np.uint8)

    forge(index_path(root), agree)


def test_rows_of_the_other_parts_can_be_read_even_so(kit, root):
    before, victim = contents(root), parts(root)[0]
    with FeatureStore(root) as store:
        number = store._rows.names.index(f"{victim.parent.name}/{victim.name}")
        good = np.flatnonzero(store._rows.places(store.layers[0])[:, 0] != number)
    victim.unlink()
    with FeatureStore(root) as store:
        rows = store.take(kit.avg.name, good)
        np.testing.assert_array_equal(rows, np.array(before["layers"][kit.avg.name])[good])


@pytest.mark.parametrize("fault", ["missing", "truncated", "empty", "rubbish"])
def test_a_glance_is_enough_for_what_is_short_or_gone(kit, root, fault):
    FeatureStore(root).require_parts()
    victim = parts(root)[0]
    FAULTS[fault](kit, root, victim)
    if fault == "rubbish":
        FeatureStore(root).require_parts()
        return
    with pytest.raises(StoreError, match=str(victim)):
        FeatureStore(root).require_parts()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_run_computes_what_is_lost(kit, root, fault):
    before, victim = contents(root), parts(root)[0]
    with h5py.File(victim) as h5:
        lost = len(h5["rows/digest"])
    FAULTS[fault](kit, root, victim)
    if fault == "newer":
        with pytest.raises(NewerFormatError, match=str(victim)):
            write_all(kit, root, PICTURES, 2)
        assert victim.exists()
        return
    if fault == "a directory":
        with pytest.raises(FeatxError, match=str(victim)):
            FeatureStore(root).require_parts()
        victim.rmdir()
    assert write_all(kit, root, PICTURES, 2) == lost
    assert contents(root) == before


class TestVerify:
    def test_names_every_problem(self, kit, root):
        first, second, third, *_, last = parts(root)
        first.unlink()
        flip(second, 8 * second.stat().st_size - 3)
        third.write_bytes(third.read_bytes()[:600])

        def not_finite(h5):
            h5[f"features/{kit.flat.name}"][0, 0] = np.nan

        forge(last, not_finite)
        found = problems(root)
        assert len(found) == 4
        for path, text in zip((first, second, third, last), found, strict=True):
            assert str(path) in text
        with pytest.raises(DamagedStoreError, match=r"part-.*; and 3 more$"), FeatureStore(root) as store:
            store.verify()

    def test_a_value_that_is_not_finite(self, kit, root):
        victim = parts(root)[0]
        not_finite(kit, root, victim)
        assert [text for text in problems(root) if "not finite" in text and str(victim) in text]

    def test_a_damaged_index_is_the_one_thing_to_be_said(self, kit, root):
        flip(index_path(root), 8 * index_path(root).stat().st_size - 3)
        parts(root)[0].unlink()
        found = problems(root)
        assert len(found) == 1
        assert str(index_path(root)) in found[0]

    def test_a_name_that_stands_twice(self, kit, root):
        def change(h5):
            h5["images/name"][0] = h5["images/name"][1]

        forge(index_path(root), change)
        assert any("a name stands twice" in text for text in problems(root))

    def test_says_how_far_it_is(self, kit, root):
        steps: list[Progress] = []
        with FeatureStore(root) as store:
            store.verify(steps.append)
            assert steps[-1].done == steps[-1].total == store.nbytes
            assert len(steps) > store.n_parts
        done = [step.done for step in steps]
        assert done == sorted(set(done))
        assert {(step.stage, step.unit, step.total) for step in steps} == {("verify", "bytes", done[-1])}


def test_flipped_bits_are_found_wherever_they_are(kit, root):
    """In the index, in all the parts that it refers to, and in the indexes of the shards."""
    files = [index_path(root), *parts(root), *root.glob("shards/*/index.h5")]
    assert len(files) == 8
    generator = np.random.default_rng(60)
    missed = []
    for turn in range(FLIPS):
        path = files[turn % len(files)]
        bit = int(generator.integers(8 * path.stat().st_size))
        flip(path, bit)
        try:
            found = problems(root)
        except FeatxError as error:  # other than damaged: the magic is gone
            found = [str(error)]
        if len(found) != 1 or str(path) not in found[0]:
            missed.append((path.name, bit, found))
        flip(path, bit)
    assert missed == []
    assert problems(root) == []


def test_a_part_that_is_signed_again_is_not_the_one_that_was_meant(kit, root):
    victim = parts(root)[0]
    flip(victim, 8 * StoreFile(victim).contents.regions[0].offset)
    sign(victim)
    (found,) = problems(root)
    assert f"{victim} is not the part" in found
