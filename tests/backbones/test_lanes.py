"""Batches under way at once, on a device that does nothing before it is waited for."""

import contextlib
import itertools

import numpy as np
import pytest
import torch

from featx.backbones.lanes import LANES, Lanes
from featx.backbones.network import load_network
from featx.errors import BackboneError
from featx.images.loading import Loader
from featx.images.sources import list_images, open_source
from featx.spent import Spent
from featx.streams import beside_device

SIDE, DIMS = 4, (3, 7)


class LateDevice:
    """Every queue waits until somebody waits for it; what is not yet copied back is NaN."""

    def __init__(self):
        self.queues, self.current, self.waits, self.pins = [], None, 0, []

    def stream(self):
        self.queues.append([])
        return self.queues[-1]

    @contextlib.contextmanager
    def using(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def done(self, stream):
        last = stream[-1]

        def wait():
            self.waits += 1
            while last in stream:
                stream.pop(0)()

        return wait

    def pinned(self, shape, dtype):
        self.pins.append(tuple(shape))
        return torch.zeros(tuple(shape), dtype=dtype)

    def upload(self, host):
        # Zeros until the queue has come so far, and then what stands in the memory of the host.
        images = torch.zeros_like(host)
        self.current.append(lambda: images.copy_(host))
        return images

    def download(self, rows, host):
        host.fill_(torch.nan)
        self.current.append(lambda: host.copy_(rows))

    def late(self, run):
        """Let a function run in the queue."""

        def ask(images):
            rows = tuple(torch.full_like(each, torch.nan) for each in run(images))

            def compute():
                for each, values in zip(rows, run(images), strict=True):
                    each.copy_(values)

            self.current.append(compute)
            return rows

        return ask


def run(images):
    """Two layers, of values that say which image they are of."""
    values = images.float().mean(dim=(1, 2, 3))
    return tuple(values[:, None] + torch.arange(dim) for dim in DIMS)


def pixels(count, first=0):
    numbers = np.arange(first, first + count, dtype=np.uint8)
    return np.broadcast_to(numbers[:, None, None, None], (count, SIDE, SIDE, 3)).copy()


def check(rows, images):
    for got, expected in zip(rows, run(torch.from_numpy(images)), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected.numpy())


@pytest.fixture
def device():
    return LateDevice()


@pytest.fixture
def lanes(device):
    return Lanes(device, device.late(run))


class TestLanes:
    def test_nothing_is_computed_before_it_is_waited_for(self, device, lanes):
        images = [pixels(5, 10 * number) for number in range(LANES)]
        fetches = [lanes.begin(each) for each in images]
        assert device.waits == 0
        assert len(device.queues) == LANES == 3
        assert all(device.queues)
        for fetch, each in zip(fetches, images, strict=True):
            check(fetch(), each)
        assert device.waits == LANES
        assert not any(device.queues)

    @pytest.mark.parametrize("order", [*itertools.permutations(range(LANES))])
    def test_the_order_of_waiting_is_free(self, lanes, order):
        images = [pixels(5, 10 * number) for number in range(LANES)]
        fetches = [lanes.begin(each) for each in images]
        for place in order:
            check(fetches[place](), images[place])

    def test_the_images_may_be_overwritten_at_once(self, lanes):
        images = pixels(5)
        fetch = lanes.begin(images)
        kept = images.copy()
        images[:] = 255
        check(fetch(), kept)

    def test_rows_stay_when_the_memory_is_used_again(self, lanes):
        first = lanes.begin(pixels(5))()
        for number in range(1, 7):
            lanes.begin(pixels(5, 10 * number))()
        check(first, pixels(5))

    def test_many_batches_with_so_many_under_way(self, lanes):
        waiting = []
        for number in range(20):
            images = pixels(1 + number % 4, 10 * number)
            waiting.append((lanes.begin(images), images))
            if len(waiting) == LANES:
                fetch, asked = waiting.pop(0)
                check(fetch(), asked)
        for fetch, asked in waiting:
            check(fetch(), asked)

    def test_batches_grow_and_shrink(self, device, lanes):
        sizes = [4, 4, 4, 9, 2, 4, 1, 9, 9, 3]
        for number, size in enumerate(sizes):
            images = pixels(size, 10 * number)
            check(lanes.begin(images)(), images)
        # Memory for each lane and layer, and again where it grew.
        firsts = [(4, SIDE, SIDE, 3), *((4, dim) for dim in DIMS)]
        grown = [(9, SIDE, SIDE, 3), *((9, dim) for dim in DIMS)]
        assert sorted(device.pins) == sorted(3 * firsts + 3 * grown)

    def test_a_batch_that_nobody_fetched_is_waited_for(self, device, lanes):
        lost = [lanes.begin(pixels(5, number)) for number in range(LANES)]
        images = pixels(5, 100)
        fetch = lanes.begin(images)
        assert device.waits == 1  # before its memory is written
        check(fetch(), images)
        check(lost[1](), pixels(5, 1))

    def test_a_batch_that_fails_costs_no_other(self, device):
        def fails(images):
            if len(images) > 5:
                raise torch.OutOfMemoryError("too many")
            return device.late(run)(images)

        lanes = Lanes(device, fails)
        first = lanes.begin(pixels(5))
        with pytest.raises(torch.OutOfMemoryError):
            lanes.begin(pixels(6))
        second = lanes.begin(pixels(5, 20))
        check(first(), pixels(5))
        third, fourth = lanes.begin(pixels(4, 30)), lanes.begin(pixels(5, 40))
        for fetch, start, count in ((third, 30, 4), (second, 20, 5), (fourth, 40, 5)):
            check(fetch(), pixels(count, start))


class Limited:
    """An engine with memory for ``most`` images."""

    def __init__(self, engine, most):
        self._engine, self.most, self.failed = engine, most, 0

    def __call__(self, images):
        if len(images) > self.most:
            self.failed += 1
            raise torch.OutOfMemoryError("no memory left")
        return self._engine(images)

    def __getattr__(self, name):
        return getattr(self._engine, name)


class TestNetwork:
    @pytest.fixture
    def photos(self):
        return np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8)

    def network(self, device, most=1000):
        """A network on the CPU that believes to be beside the late device."""
        network = load_network("pixels", device="cpu")
        network.engine = Limited(network.engine, most)
        network.engine.use_batch_size(8)
        network._lanes = Lanes(device, device.late(network.engine))
        network.device = "late"
        return network

    def stream(self, network, photos, **options):
        source = open_source(photos)
        loader = Loader(source, network.preprocess)
        given = {"threads": 2, "batch_size": None, "spent": Spent()} | options
        return beside_device(network, loader, list_images(source), **given)

    @pytest.mark.parametrize("batch_size", [None, 1, 7, 50])
    def test_every_row_comes_in_order(self, device, photos, batch_size):
        batches = list(self.stream(self.network(device), photos, batch_size=batch_size))
        rows = np.vstack([batch.features["flatten:flatten"] for batch in batches])
        np.testing.assert_array_equal(
            rows, load_network("pixels", device="cpu").embed(photos)["flatten:flatten"]
        )
        assert [index for batch in batches for index in batch.indices] == list(range(50))
        assert device.waits >= len(batches)

    @pytest.mark.parametrize("most", [1, 3, 7])
    def test_a_batch_that_is_too_large_is_halved(self, device, photos, most):
        network = self.network(device, most)
        batches = list(self.stream(network, photos))
        rows = np.vstack([batch.features["flatten:flatten"] for batch in batches])
        np.testing.assert_array_equal(
            rows, load_network("pixels", device="cpu").embed(photos)["flatten:flatten"]
        )
        # Asked of the lanes once, then halved until it fits, then never again.
        assert network.engine.failed <= 1 + 4

    def test_one_image_that_does_not_fit(self, device, photos):
        network = self.network(device, 0)
        with pytest.raises(BackboneError, match="One image does not fit into the memory of late"):
            list(self.stream(network, photos))

    def test_begin_checks_the_images(self, device):
        with pytest.raises(BackboneError, match="Load them with this network's preprocessing"):
            self.network(device).begin(np.zeros((2, 8, 8, 3), np.uint8))

    def test_without_lanes_it_is_computed_at_once(self, photos):
        network = load_network("pixels", device="cpu")
        asked = photos[:4].copy()
        finish = network.begin(asked)
        asked[:] = 0
        np.testing.assert_array_equal(
            finish()["flatten:flatten"], network.embed(photos[:4])["flatten:flatten"]
        )
