"""SIGKILL at random moments: the next run computes what no finished part holds, and nothing is wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from crashing import (
    CANARIES,
    Server,
    child_environment,
    digest,
    digests_seen,
    fill,
    final_file,
    fingerprint,
    left_over,
    parts_of,
    rows_on_disk,
    snapshot,
)

PAUSE = 0.002
"""Seconds that the network takes for a batch, so that many kills land there."""

PHASES = ("before the first part", "between parts", "assembly", "clearing up")
NAMES = {f"{'ants' if key % 2 else 'bees'}/{key:02}.png": key for key in range(22)} | {
    "ants/twin.png": 3,
    "bees/broken.png": None,
}
CHANGED = (
    {name: key for name, key in NAMES.items() if key not in (0, 4, 5, 6)}
    | {"ants/renamed.png": 4, "bees/05.png": 5, "ants/01.png": 50}
    | {f"ants/{key}.png": key for key in range(30, 42)}
)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and passes descriptors on")


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def phase_of(events):
    names = {event["event"] for event in events}
    if "store" in names:
        return "clearing up"
    if "assembly" in names:
        return "assembly"
    return "between parts" if "part" in names else "before the first part"


class Kills:
    """Trials of one extraction: killed, killed again while it recovers, finished, compared."""

    def __init__(self, server, base, names, old=None, name="photos.h5", **options):
        self.server, self.base, self.source = server, base, base / "photos"
        self.name, self.options = name, options
        self.finished = self.before = None
        if old is not None:
            self.finished = base / "finished"
            fill(self.source, old)
            server.run("extract", source=self.source, store=self.finished / name, options=options)
            self.before = snapshot(self.finished / name)
        fill(self.source, names)
        self.wanted = {digest(key) for key in names.values() if key is not None}
        self.plan = self._watch_one()
        self.landed, self.read, self.killed_again = Counter(), Counter(), 0

    def _start(self, store):
        return self.server.start(
            "extract", source=self.source, store=store, pause=PAUSE, options=self.options
        )

    def _place(self, name):
        if self.finished is None:
            (self.base / name).mkdir()
        else:
            shutil.copytree(self.finished, self.base / name)
        return self.base / name / self.name

    def _watch_one(self):
        """Run without a kill; (event, seconds to the next) by phase."""
        store = self._place("whole")
        held = rows_on_disk(store)
        with self._start(store) as child:
            assert child.end() == 0
        self.right = snapshot(store)
        self._check_run(store, child.events, held)
        plan = {phase: [] for phase in PHASES}
        for number, (event, following) in enumerate(itertools.pairwise(child.events)):
            # Two threads tell of events, not always in the order of their clocks.
            gap = max(0.0, following["time"] - event["time"])
            plan[phase_of(child.events[: number + 1])].append((number, gap))
        assert all(plan.values())
        return plan

    def trial(self, number, rng):
        store = self._place(f"trial{number}")
        with contextlib.ExitStack() as stack:
            if self.finished is not None:
                stack.enter_context(self._reader(store))
            # A later phase than planned is possible, since this process may be late to kill.
            fewest = min(self.landed[phase] for phase in PHASES)
            event, gap = rng.choice(
                [step for phase in PHASES if self.landed[phase] == fewest for step in self.plan[phase]]
            )
            landed = phase_of(self._run_and_kill(store, event + 1, rng.uniform(0, gap)))
            self.landed[landed] += 1
            while rng.random() < 0.4:
                self._run_and_kill(store, rng.randint(1, 15), rng.uniform(0, 2 * PAUSE))
                self.killed_again += 1
            held = rows_on_disk(store)
            with self._start(store) as child:
                assert child.end() == 0, child.events[-1]
        self._check_run(store, child.events, held)
        shutil.rmtree(store.parent)

    @contextlib.contextmanager
    def _reader(self, store):
        """Somebody who reads all the time finds the old store or the new one, whole."""
        with self.server.start("read", store=store) as child:
            yield
            child.kill()
            assert child.end() == -9, child.events[-1]
        names = {fingerprint(self.before): "before", fingerprint(self.right): "after"}
        self.read.update(names[event["found"]] for event in child.events if event["event"] == "read")

    def _run_and_kill(self, store, n_events, delay):
        """Kill a run when it has told of so many events, and a little later."""
        held = rows_on_disk(store)
        with self._start(store) as child:
            while len(child.events) < n_events and child.next():
                pass
            time.sleep(delay)
            child.kill()
            assert child.end() in (-9, 0), child.events[-1]
        if final_file(store).exists():
            assert snapshot(store) in (self.before, self.right)
        # Whatever became of it: what had a row keeps it, and sees no network, but for the canaries.
        assert len(digests_seen(child.events) & held) <= CANARIES
        assert held & self.wanted <= rows_on_disk(store)
        return child.events

    def _check_run(self, store, events, held):
        assert snapshot(store) == self.right
        assert left_over(store) == []
        assert events[-1]["event"] == "done"
        assert events[-1]["torch"] is False
        assert events[-1]["notes"] == []
        assert events[-1]["computed"] == len(self.wanted - held)
        seen = digests_seen(events)
        assert seen - held == self.wanted - held
        assert len(seen & held) <= CANARIES

    def run(self, trials, seed):
        """Run so many trials, and more until a kill has landed everywhere and the reader has read both."""
        rng = random.Random(seed)
        for number in itertools.count():
            has_landed = self.killed_again and all(self.landed[phase] for phase in PHASES)
            has_read = self.finished is None or (self.read["before"] and self.read["after"])
            if number >= trials and has_landed and has_read:
                break
            assert number < trials + 60, f"not seen: {self.landed}, {self.killed_again}, {self.read}"
            self.trial(number, rng)


def test_kills_of_a_first_extraction(server, tmp_path):
    Kills(server, tmp_path, NAMES).run(20, seed=1)


def test_kills_of_an_increment(server, tmp_path):
    Kills(server, tmp_path, CHANGED, old=NAMES).run(10, seed=2)


@pytest.mark.parametrize("old", [None, NAMES], ids=["first", "increment"])
def test_kills_of_a_directory_store(server, tmp_path, old):
    Kills(server, tmp_path, CHANGED if old else NAMES, old, name="photos", shard="0/1").run(4, seed=5)


@pytest.mark.crash
@pytest.mark.parametrize(
    ("old", "trials", "where"),
    [
        (None, 250, {}),
        (NAMES, 250, {}),
        (None, 50, {"name": "photos", "shard": "0/1"}),
        (NAMES, 50, {"name": "photos", "shard": "0/1"}),
    ],
    ids=["first", "increment", "first-directory", "increment-directory"],
)
def test_hundreds_of_kills(server, tmp_path, old, trials, where):
    Kills(server, tmp_path, CHANGED if old else NAMES, old, **where).run(trials, seed=3)


@pytest.mark.crash
def test_kills_of_the_command(tmp_path):
    """The same with a real network, through the command line."""
    names = {f"{'ants' if key % 2 else 'bees'}/{key:02}.png": key for key in range(60)}
    source, rng = fill(tmp_path / "photos", names), random.Random(4)
    wanted = {digest(key) for key in names.values()}

    def start(store):
        command = [sys.executable, "-c", "import crashing; crashing.command_line()", "extract", str(source)]
        options = ["--backbone", "featx-tiny", "--precision", "fp32", "--store-dtype", "float16"]
        more = ["-o", str(store), "--batch-size", "2", "--workers", "1", "--device", "cpu", "--json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, *options, *more], env=child_environment(), **pipes)

    started = time.monotonic()
    whole = tmp_path / "whole.h5"
    with start(whole) as running:
        errors = running.communicate()[1]
    assert running.returncode == 0, errors
    seconds, right = time.monotonic() - started, snapshot(whole)
    interrupted = 0
    for number in range(10):
        store = tmp_path / f"trial{number}" / "photos.h5"
        store.parent.mkdir()
        for _ in range(2):
            n_parts = rng.randint(1, 28)
            with start(store) as running:
                began = time.monotonic()
                if number % 2:  # at any time; else when there are so many parts
                    time.sleep(rng.uniform(0, 1.1 * seconds))
                while not number % 2 and running.poll() is None and len(parts_of(store)) < n_parts:
                    assert time.monotonic() - began < 60 * (1 + seconds)
                    time.sleep(0.001)
                running.kill()
                running.communicate()
        held = rows_on_disk(store)
        interrupted += bool(parts_of(store))
        with start(store) as running:
            output, errors = running.communicate()
        assert running.returncode == 0, errors
        assert json.loads(output)["computed"] == len(wanted - held)
        found = snapshot(store)
        rows, expected = found.pop("rows"), {**right}
        for layer, values in expected.pop("rows").items():
            # Other neighbours in a batch may change the last bits.
            np.testing.assert_allclose(rows[layer], values, rtol=2e-3, atol=2e-3)
        assert found == expected
        assert left_over(store) == []
    assert interrupted >= 3
