"""Every image once, from several threads, whatever breaks and whoever stops."""

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from fakenetwork import Engine, OnCores

from featx import streams
from featx.backbones.network import load_network
from featx.embedding import embed
from featx.images.loading import LoadedImage, default_workers
from featx.images.preparing import PreparedImage
from featx.images.sources import list_images, open_source
from featx.records import ImageRecord, Preprocess
from featx.spent import Spent
from featx.streams import (
    MOST_THREADS,
    REPORT_EVERY,
    WAITING_BATCHES,
    beside_device,
    on_cores,
)

SIDE = 2
PATIENCE = 30


class Network(OnCores):
    """The mean of each image, which is the number of its record."""

    lanes = 3
    preprocess = Preprocess("squash", SIDE, SIDE, "bilinear", (0,) * 3, (1,) * 3)

    def __init__(self, batch_size=16):
        self.engine = Engine(batch_size)
        self.sizes, self.on_one_core, self.begun = [], 0, []
        self.hook = lambda rows: rows

    def use_one_core(self):
        self.on_one_core += 1

    def embed(self, pixels):
        self.sizes.append(len(pixels))
        rows = pixels.astype(np.float32).mean(axis=(1, 2, 3))[:, None]
        return {"mean:flatten": self.hook(rows)}

    def begin(self, pixels):
        self.begun.append("begin")

        def finish():
            self.begun.append("finish")
            return self.embed(pixels)

        return finish


def digest(index):
    return index.to_bytes(32, "big")


def load(index, record):
    """Every record has pixels of its number."""
    pixels = np.full((SIDE, SIDE, 3), index % 256, np.uint8)
    return LoadedImage(index, digest(index), PreparedImage(pixels, index, SIDE, SIDE, "RGB"))


def some(usable):
    """Records that are not ``usable`` have a reason."""
    return lambda index, record: (
        load(index, record) if usable(index) else LoadedImage(index, digest(index), reason="bad")
    )


def records(count):
    return [ImageRecord(str(index)) for index in range(count)]


def start(network, count, *, loader=load, threads=2, batch_size=None, stream=on_cores, spent=None):
    spent = spent or Spent()
    return stream(network, loader, records(count), threads=threads, batch_size=batch_size, spent=spent)


def threads_left():
    return [each for each in threading.enumerate() if each.name.startswith("featx-")]


def rows_of(batches):
    """Rows by index; each may come once, with what belongs to it."""
    found, reasons = {}, {}
    for batch in batches:
        values = batch.features["mean:flatten"][:, 0] if batch.indices else []
        for place, (index, value) in enumerate(zip(batch.indices, values, strict=True)):
            assert index not in found
            assert batch.digests[place].tobytes() == digest(index)
            assert batch.phashes[place] == index
            found[index] = value
        for item in batch.others:
            assert item.index not in reasons
            assert item.pixels is None
            reasons[item.index] = item.reason
    return found, reasons


class TestOnCores:
    @pytest.mark.parametrize("threads", range(1, 9))
    @pytest.mark.parametrize("batch_size", [None, 1, 3, 7, 64])
    def test_every_record_comes_once(self, threads, batch_size):
        network = Network(batch_size=5)
        usable = some(lambda index: index % 7 != 3)
        found, reasons = rows_of(start(network, 101, loader=usable, threads=threads, batch_size=batch_size))
        assert found == {index: index for index in range(101) if index % 7 != 3}
        assert reasons == {index: "bad" for index in range(101) if index % 7 == 3}
        assert max(network.sizes) <= (batch_size or 5)
        assert network.on_one_core == threads
        assert network.engine.streams == threads
        assert network.engine.finished == 1
        assert not threads_left()

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_fewer_records_than_threads(self, count):
        found, reasons = rows_of(start(Network(), count, threads=4))
        assert (found, reasons) == ({index: index for index in range(count)}, {})

    def test_images_without_pixels_need_no_full_batch(self):
        count = 2 * REPORT_EVERY + 10
        batches = list(start(Network(), count, loader=some(lambda _: False), threads=1))
        assert [len(batch.others) for batch in batches] == [REPORT_EVERY, REPORT_EVERY, 10]
        assert all(batch.features == {} and batch.digests.shape == (0, 32) for batch in batches)

    def test_few_images_are_shared_out_evenly(self):
        network, together = Network(batch_size=16), threading.Barrier(4)

        def meet(rows):
            together.wait(PATIENCE)  # broken, if one thread had taken them all
            return rows

        network.hook = meet
        assert len(rows_of(start(network, 8, threads=4))[0]) == 8
        assert network.sizes == [2, 2, 2, 2]

    def test_rows_that_are_not_finite_come_with_a_reason(self):
        network = Network()
        network.hook = lambda rows: np.where(rows == 5, np.nan, np.where(rows == 6, np.inf, rows))
        found, reasons = rows_of(start(network, 20, threads=3, batch_size=4))
        assert sorted(found) == [index for index in range(20) if index not in (5, 6)]
        assert sorted(reasons) == [5, 6]
        assert reasons[5] == reasons[6] == "the embedding is not finite (NaN or Inf, computed in fp32)"

    def test_the_engine_hears_how_many_images_are_to_come(self):
        network = Network()
        list(start(network, 10, threads=1, batch_size=4))
        assert network.engine.told == list(range(9, -1, -1))
        network = Network()
        list(start(network, 10, loader=some(lambda index: index % 2), threads=1))
        # As many of the rest as of those seen.
        assert network.engine.told == [0, 4, 2, 3, 2, 2, 1, 1, 0, 0]

    @pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), GeneratorExit("gone")])
    @pytest.mark.parametrize("place", ["loader", "network", "core"])
    def test_what_breaks_in_a_thread_reaches_the_caller(self, error, place):
        network = Network()

        def fail(*_):
            raise error

        def loader(index, record):
            return fail() if place == "loader" and index == 40 else load(index, record)

        if place == "network":
            network.hook = lambda rows: fail() if 40 in rows else rows
        if place == "core":
            network.use_one_core = fail
        with pytest.raises(type(error)) as caught:
            rows_of(start(network, 1000, loader=loader, threads=4, batch_size=3))
        assert caught.value is error
        assert not threads_left()
        assert network.engine.finished == 1

    def test_a_thread_that_cannot_be_started_leaves_none(self, monkeypatch):
        started = []
        original = threading.Thread.start

        def begin(thread):
            if len(started) == 2:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            original(thread)

        monkeypatch.setattr(threading.Thread, "start", begin)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            list(start(Network(), 1000, threads=4, batch_size=1))
        assert len(started) == 2
        assert not threads_left()

    @pytest.mark.parametrize("threads", [1, 4])
    def test_a_slow_caller_is_waited_for_and_may_leave(self, threads):
        network = Network()
        stream = start(network, 10_000, threads=threads, batch_size=1)
        assert next(stream).features
        # Taken, waiting, and in the hands of the threads.
        most = 1 + WAITING_BATCHES * threads + threads
        until = time.monotonic() + PATIENCE
        while len(network.sizes) < most and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(network.sizes) == most
        assert len(threads_left()) == threads
        stream.close()
        assert not threads_left()
        assert network.engine.finished == 1
        assert len(network.sizes) <= most + threads

    def test_a_caller_that_never_began(self):
        network = Network()
        start(network, 100).close()
        assert network.sizes == []

    def test_an_interrupt_where_the_batch_is_used(self):
        stream = start(Network(), 10_000, threads=3, batch_size=1)
        next(stream)
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt())
        assert not threads_left()

    @pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
    def test_an_interrupt_while_a_batch_is_waited_for(self):
        network, main = Network(), threading.main_thread()
        if threading.current_thread() is not main:
            pytest.skip("signals reach the main thread")
        caught = threading.Event()

        def interrupt(rows):
            if not caught.is_set():
                signal.pthread_kill(main.ident, signal.SIGINT)
            assert caught.wait(PATIENCE)
            return rows

        def note(*_):
            caught.set()
            raise KeyboardInterrupt

        network.hook = interrupt
        before = signal.signal(signal.SIGINT, note)
        try:
            with pytest.raises(KeyboardInterrupt):
                next(start(network, 100, threads=1))
        finally:
            signal.signal(signal.SIGINT, before)
        assert not threads_left()

    def test_time_is_added_up(self):
        spent = Spent()
        usable = some(lambda index: index % 2)

        def slow(index, record):
            time.sleep(0.001)
            return dataclasses.replace(usable(index, record), waited=0.001)

        list(start(Network(), 40, loader=slow, spent=spent))
        assert spent.images == 20
        assert spent.reading == pytest.approx(0.02)
        assert spent.passing >= 0.02
        assert min(spent.decoding, spent.computing) > 0

    @pytest.mark.parametrize(("waited", "expected"), [(0.004, MOST_THREADS * 2), (0.0, 2)])
    def test_more_threads_where_files_are_waited_for(self, monkeypatch, waited, expected):
        monkeypatch.setattr(streams, "LOOK_EVERY", 0.01)

        def slow(index, record):
            time.sleep(0.004)
            return dataclasses.replace(load(index, record), waited=waited)

        network = Network(batch_size=4)
        batches = list(start(network, 600, loader=slow))
        assert sorted(index for batch in batches for index in batch.indices) == list(range(600))
        assert network.on_one_core == expected
        assert not threads_left()


class TestBesideDevice:
    @pytest.mark.parametrize("batch_size", [None, 1, 3, 64])
    def test_every_record_comes_once_and_in_order(self, batch_size):
        network = Network(batch_size=5)
        usable = some(lambda index: index % 7 != 3)
        batches = list(
            start(network, 101, loader=usable, threads=3, batch_size=batch_size, stream=beside_device)
        )
        found, reasons = rows_of(batches)
        assert list(found) == [index for index in range(101) if index % 7 != 3]
        assert found == {index: index for index in found}
        assert list(reasons) == [index for index in range(101) if index % 7 == 3]
        assert set(network.sizes[:-1]) <= {batch_size or 5}
        assert network.engine.streams == network.engine.finished == 1
        assert network.engine.told[-1] == 0
        assert network.on_one_core == 0

    def test_several_batches_are_under_way(self):
        network = Network()
        list(start(network, 12, batch_size=2, stream=beside_device))
        ahead = np.cumsum([1 if event == "begin" else -1 for event in network.begun])
        assert ahead.max() == network.lanes
        assert network.begun[: network.lanes] == ["begin"] * network.lanes
        assert ahead[-1] == 0

    def test_images_without_pixels_are_not_held_back(self):
        stream = start(
            Network(), 10 * REPORT_EVERY, loader=some(lambda _: False), threads=1, stream=beside_device
        )
        assert [len(batch.others) for batch in stream] == [REPORT_EVERY] * 10

    @pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3)])
    def test_what_breaks_in_a_thread_reaches_the_caller(self, error):
        network = Network()

        def loader(index, record):
            if index == 40:
                raise error
            return load(index, record)

        with pytest.raises(type(error)) as caught:
            list(start(network, 1000, loader=loader, batch_size=3, stream=beside_device))
        assert caught.value is error
        del caught
        assert network.engine.finished == 1

    def test_a_caller_may_leave(self):
        network = Network()
        stream = start(network, 10_000, threads=3, batch_size=2, stream=beside_device)
        next(stream)
        stream.close()
        assert not threads_left()
        assert network.engine.finished == 1


class TestWithTorch:
    @pytest.fixture
    def two_threads(self):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(before)

    @pytest.fixture
    def photos(self):
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (37, 40, 48, 3), np.uint8)

    def run(self, network, photos, **options):
        source = open_source(photos)
        rows = np.full((len(photos), network.layers[0].dim), np.nan, np.float32)
        for batch in embed(network, source, list_images(source), **options):
            rows[batch.indices] = batch.features[network.layers[0].name]
        return rows

    def test_the_rows_do_not_depend_on_the_threads(self, photos):
        network = load_network("featx-tiny", device="cpu", precision="fp32")
        one = self.run(network, photos, workers=1, batch_size=16)
        assert np.isfinite(one).all()
        for workers, batch_size in ((4, 16), (4, 3), (3, "auto")):
            other = self.run(network, photos, workers=workers, batch_size=batch_size)
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())

    @pytest.mark.parametrize("stream", [on_cores, beside_device])
    @pytest.mark.parametrize("end", ["whole", "error", "closed"])
    def test_the_threads_of_torch_are_restored(self, two_threads, photos, stream, end):
        network = load_network("pixels", device="cpu")
        network.device = "cpu" if stream is on_cores else "elsewhere"
        inside = []
        original = network.embed

        def watched(pixels):
            inside.append(torch.get_num_threads())
            if end == "error" and len(inside) == 3:
                raise ValueError("broken")
            return original(pixels)

        network.embed = watched
        source = open_source(photos)
        batches = embed(network, source, list_images(source), workers=2, batch_size=4)
        if end == "error":
            with pytest.raises(ValueError, match="broken"):
                list(batches)
        elif end == "closed":
            next(batches)
            batches.close()
        else:
            list(batches)
        assert set(inside) == {1 if stream is on_cores else 2}
        assert torch.get_num_threads() == 2

    def test_one_core_is_meant_for_the_block_only(self, two_threads):
        network = load_network("pixels", device="cpu")
        with network.on_streams(3):
            network.use_one_core()
            assert (torch.get_num_threads(), network.engine.streams) == (1, 3)
        assert torch.get_num_threads() == 2

    def test_what_is_left_over_does_not_change_the_figures(self, photos):
        network, source, spent = load_network("pixels", device="cpu"), open_source(photos), Spent()
        threads = min(3, default_workers())
        for some_records in (list_images(source), [], list_images(source)[:1]):
            list(embed(network, source, some_records, workers=3, spent=spent))
            assert spent.threads == threads
        assert spent.images == 38
        # More threads than cores do not decode more.
        list(embed(network, source, list_images(source), workers=default_workers() + 5, spent=spent))
        assert spent.threads == default_workers()
        assert spent.shares_cores
