import itertools
import math
import threading
import time

import numpy as np
import pytest
import torch

from featx import measuring
from featx.backbones.network import load_network
from featx.images.sources import list_images, open_source


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


class TestNetworkAlone:
    @pytest.fixture
    def network(self):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield load_network("pixels", device="cpu")
        torch.set_num_threads(before)

    def feed(self, network, workers):
        source = open_source(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8))
        return measuring.Feed(network, source, list_images(source), 4, workers)

    @pytest.mark.parametrize("device", ["cpu", "elsewhere"])
    def test_as_many_threads_as_extract_has(self, network, device):
        network.device, seen = device, {}
        original, both = network.embed, threading.Barrier(2 if device == "cpu" else 1)

        def embed(pixels):
            name = threading.get_ident()
            if name not in seen:
                seen[name] = (len(pixels), torch.get_num_threads())
                both.wait(30)  # broken, if they did not run at once
            return original(pixels)

        network.embed = embed
        feed = self.feed(network, 2)
        assert feed.network_alone(4, 0.01) > 0
        assert [*seen.values()] == ([(4, 1)] * 2 if device == "cpu" else [(4, 2)])
        assert torch.get_num_threads() == 2
        assert network.engine.streams == len(seen)

    def test_what_breaks_reaches_the_caller(self, network):
        feed, before = self.feed(network, 3), threading.active_count()

        def embed(pixels):
            raise SystemExit(3)

        network.embed = embed
        with pytest.raises(SystemExit):
            feed.network_alone(4, 0.01)
        assert threading.active_count() == before
        assert torch.get_num_threads() == 2
