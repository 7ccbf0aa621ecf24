import itertools
import math
import time

import pytest

from featx import measuring


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when it is told to."""

    class Clock:
        now = 100.0

        def steps(self, seconds, counts):
            for count in counts:
                self.now += seconds
                yield count

    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def test_a_steady_stream(clock):
    assert measuring.rate_of(clock.steps(0.25, itertools.repeat(5)), seconds=4) == pytest.approx(20)
    assert clock.now == pytest.approx(104)


def test_what_fills_the_queues_does_not_count(clock):
    counts = itertools.chain(clock.steps(1, [1]), clock.steps(0.5, itertools.repeat(10)))
    assert measuring.rate_of(counts, seconds=4) == pytest.approx(20)


def test_two_slow_steps_are_enough(clock):
    assert measuring.rate_of(clock.steps(60, itertools.repeat(16)), seconds=1) == pytest.approx(16 / 60)
    assert clock.now == pytest.approx(220)


def test_a_stream_that_ends(clock):
    assert measuring.rate_of(clock.steps(1, [3, 3, 3]), seconds=4) == pytest.approx(3)
    assert math.isnan(measuring.rate_of(clock.steps(1, [3]), seconds=4))
