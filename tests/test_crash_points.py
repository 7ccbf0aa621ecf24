"""Every crash point of an extraction: cut it off after each call that changes the disk, and resume."""

from __future__ import annotations

import pickle
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from crashdisk import crash_states, rebuild
from crashing import (
    CANARIES,
    Server,
    digest,
    digests_inside,
    digests_seen,
    fill,
    final_file,
    left_over,
    snapshot,
)

from featx.errors import FeatxError
from featx.sharding import parse_shard

STORE = Path("out/photos.h5")
FEW = {f"{'ants' if key % 2 else 'bees'}/{key:02}.png": key for key in range(9)} | {"ants/twin.png": 3}
MORE = (
    {name: key for name, key in FEW.items() if key not in (0, 4)}
    | {"bees/renamed.png": 4, "ants/01.png": 50, "bees/broken.png": None}
    | {f"ants/{key}.png": key for key in range(20, 29)}
)
CLAIM = re.compile(r".*[0-9a-f]+-[0-9a-f]+\.lock")
"""Named after the inode of a dead lock, by which the next run finds it; no rebuilt disk has that inode."""

MODELS = {
    "kill",
    "torn write",
    "only what was synced",
    "names without contents",
    "names with zeros",
    "contents without names",
    "one name before the others",
}


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and passes descriptors on")


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture
def crashes(server, tmp_path):
    return Crashes(server, tmp_path)


class Crashes:
    """Extractions whose disk is cut off at every point, one folder of pictures for all of them."""

    def __init__(self, server, base, store=STORE):
        self.server, self.base, self.store = server, base, store
        self.source, self.disk = base / "photos", base / "disk"
        self.disk.mkdir()

    def extract(self, names, **options):
        """Run to the end; gives what a reader then finds, None if other shards are missing."""
        fill(self.source, names)
        self.server.run("extract", source=self.source, store=self.disk / self.store, options=options)
        path = self.disk / self.store
        return snapshot(path) if final_file(path).exists() else None

    def record(self, names, **options):
        """Run to the end and record the calls; gives the disk before and the calls."""
        fill(self.source, names)
        log = self.base / "log"
        where = {"source": self.source, "store": self.disk / self.store, "root": self.disk, "log": log}
        self.server.run("record", options=options, **where)
        return pickle.loads(log.read_bytes())

    def check(self, names, old=None, *, rows_of_old=True, **options):
        """Crash an extraction at every point: count the points, the different states and the faults.

        ``old`` is what readers found before; ``rows_of_old`` says whether its rows must be used. If
        not, the run replaces what stands there, and once its own store stands, so will the next.
        """
        before, operations = self.record(names, **options)
        new = snapshot(self.disk / self.store)
        mine = parse_shard(options.get("shard", "0/1"))
        wanted = {digest(key) for name, key in names.items() if key is not None and mine.holds(name)}
        counts = Counter(operations=len(operations))
        kept, states = {}, self.base / "states"
        states.mkdir()
        for tree, model, committed, late in self._states(before, operations, rows_of_old):
            counts["late"] += late
            counts["points"] += 1
            counts[model] += 1
            key = (frozenset(tree.items()), frozenset(committed))
            if key in kept:
                continue
            root = states / f"{len(kept):05}"
            kept[key] = (root, model, committed & wanted)
            rebuild(tree, root)
            counts["unopenable"] += not self._opens(root / self.store, old, new)
        counts["states"] = len(kept)
        events = self.server.run(
            "resume", source=self.source, store=self.store, states=states, options=options, alarm=900
        )
        firsts = {}
        for root, model, committed in kept.values():
            faults = self._faults(root / self.store, _of(events, root.name), new, wanted, committed)
            counts.update(faults.keys())
            for fault, detail in faults.items():
                firsts.setdefault(fault, f"{fault} in state {root.name} ({model}): {detail}")
        self.firsts = "\n".join(firsts.values())
        shutil.rmtree(states)
        return counts

    def _states(self, before, operations, rows_of_old):
        """Trees, each with the digests whose rows stood in a file that was synced, name and all.

        And whether a finished file was not yet synced when the next one was begun, or at the end.
        """
        final = final_file(self.store).name
        inside, committed = {}, frozenset()
        for count, model, tree, disk in crash_states(before, operations):
            late = False
            if model == "kill":  # the first that has the whole call
                files = disk.stores(durable=True)
                if count == len(operations) or operations[count][0] == "create":
                    late = not disk.stores(durable=False).keys() <= files.keys()
                if not rows_of_old:
                    files = {number: name for number, name in files.items() if number not in before.nodes}
                for number in files.keys() - inside.keys():
                    inside[number] = digests_inside(disk.nodes[number].durable)
                committed |= set().union(*(inside[number] for number in files))
                if not rows_of_old and final in files.values():
                    committed = frozenset()
            yield tree, model, committed, late

    @staticmethod
    def _opens(path, old, new):
        try:
            return not final_file(path).exists() or snapshot(path) in (old, new)
        except FeatxError:
            return False

    @staticmethod
    def _faults(store, events, new, wanted, committed):
        """What is wrong after the resume; fault to detail."""
        faults = {}
        last = events[-1]
        if last["event"] == "failed":
            return {"unopenable": last["text"]}
        if snapshot(store) != new:
            faults["wrong"] = "another store"
        seen = digests_seen(events)
        if last["computed"] > len(wanted - committed) or len(seen & committed) > CANARIES:
            faults["lost"] = f"{last['computed']} computed, {len(committed)} of {len(wanted)} were committed"
        if left := [name for name in left_over(store) if not CLAIM.fullmatch(name)]:
            faults["left over"] = left
        if last["notes"]:
            faults["complaint"] = last["notes"]
        return faults


def _of(events, state):
    """Events of one state."""
    start = next(number for number, event in enumerate(events) if event.get("name") == state)
    end = next(
        (number for number in range(start + 1, len(events)) if events[number]["event"] == "state"),
        len(events),
    )
    return events[start:end]


FAULTS = ("late", "lost", "wrong", "unopenable", "complaint", "left over")


def check_no_fault(crashes, counts, least):
    """The faults are 0 after at least this many different states, from every model."""
    faults = {fault: counts[fault] for fault in FAULTS}
    assert not any(faults.values()), f"{faults} in {counts['states']} states\n{crashes.firsts}"
    assert counts.keys() >= MODELS
    assert counts["states"] >= least


def test_a_first_extraction(crashes):
    (crashes.disk / STORE.parent).mkdir()
    check_no_fault(crashes, crashes.check(FEW), least=100)


def test_a_first_extraction_into_a_new_folder(crashes):
    counts = crashes.check(dict(list(FEW.items())[:4]))
    assert counts["lost"] == 0, crashes.firsts


@pytest.mark.crash
def test_a_recovery_that_crashes_itself(crashes):
    (crashes.disk / STORE.parent).mkdir()
    before, operations = crashes.record(FEW)
    # The last part has its name, its temporary file and the lock are left.
    cut = [number for number, operation in enumerate(operations) if operation[0] == "rename"][-2]
    tree = [tree for count, model, tree, _ in crash_states(before, operations[:cut]) if model == "kill"][-1]
    shutil.rmtree(crashes.disk)
    rebuild(tree, crashes.disk)
    assert sum(name.endswith(".tmp") for name in tree) == 1
    check_no_fault(crashes, crashes.check(FEW), least=60)


@pytest.mark.crash
def test_an_increment(crashes):
    old = crashes.extract(FEW)
    check_no_fault(crashes, crashes.check(MORE, old), least=100)


@pytest.mark.crash
def test_an_increment_without_new_pictures(crashes):
    old = crashes.extract(FEW)
    names = {name: key for name, key in FEW.items() if key != 5} | {"bees/moved.png": 5}
    check_no_fault(crashes, crashes.check(names, old), least=20)


@pytest.mark.crash
def test_replacing_a_store_of_another_space(crashes):
    old = crashes.extract(FEW)
    check_no_fault(crashes, crashes.check(FEW, old, rows_of_old=False, seed=1, overwrite=True), least=100)


@pytest.mark.crash
def test_many_parts(crashes):
    (crashes.disk / STORE.parent).mkdir()
    check_no_fault(crashes, crashes.check({f"ants/{key:02}.png": key for key in range(40)}), least=300)


@pytest.mark.parametrize("first", [None, pytest.param("0/2", marks=pytest.mark.crash)])
def test_a_directory_store(server, tmp_path, first):
    """The only shard, or the last of two, which joins them."""
    crashes, names = Crashes(server, tmp_path, Path("out/photos")), dict(list(FEW.items())[3:7])
    (crashes.disk / "out").mkdir()
    if first is not None:
        assert crashes.extract(names, shard=first) is None
    counts = crashes.check(names, shard="1/2" if first else "0/1")
    check_no_fault(crashes, counts, least=40)


@pytest.mark.crash
def test_an_increment_of_a_directory_store(server, tmp_path):
    crashes = Crashes(server, tmp_path, Path("out/photos"))
    old = crashes.extract(FEW, shard="0/1")
    check_no_fault(crashes, crashes.check(MORE, old, shard="0/1"), least=100)


@pytest.mark.crash
def test_replacing_a_directory_store_of_another_space(server, tmp_path):
    crashes = Crashes(server, tmp_path, Path("out/photos"))
    old = crashes.extract(FEW, shard="0/1")
    options = {"shard": "0/1", "seed": 1, "overwrite": True}
    check_no_fault(crashes, crashes.check(FEW, old, rows_of_old=False, **options), least=100)


def _without_sync(operations):
    return [operation for operation in operations if operation[0] != "fsync"]


def _names_before_contents(operations):
    changed = list(operations)
    for number, operation in enumerate(operations):
        if operation[0] == "rename":
            changed[number - 1], changed[number] = operation, operations[number - 1]
    return changed


def _parts_removed_too_early(operations):
    changed = list(operations)
    store = max(number for number, operation in enumerate(operations) if operation[0] == "rename")
    changed.append(changed.pop(store + 1))
    return changed


@pytest.mark.parametrize(
    ("spoil", "faults"),
    [
        (_without_sync, {"unopenable", "late"}),
        pytest.param(_names_before_contents, {"unopenable", "complaint"}, marks=pytest.mark.crash),
        pytest.param(_parts_removed_too_early, {"lost"}, marks=pytest.mark.crash),
    ],
)
def test_a_careless_order_is_found(crashes, monkeypatch, spoil, faults):
    """The models see what they are there for: the same calls, some of them missing or too late."""
    (crashes.disk / STORE.parent).mkdir()
    record = crashes.record

    def spoiled(*args, **options):
        before, operations = record(*args, **options)
        changed = spoil(operations)
        assert changed != operations
        return before, changed

    monkeypatch.setattr(crashes, "record", spoiled)
    counts = crashes.check(dict(list(FEW.items())[:4]))
    assert faults <= {fault for fault in FAULTS if counts[fault]}
