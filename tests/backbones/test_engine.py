import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from featx.backbones import engine as engine_module
from featx.backbones.engine import GAIN, NO_COMPILER, SECONDS_PER_MODULE, SIZES, TRIAL_BATCHES, Engine
from featx.backbones.frozen import Pooled
from featx.backbones.network import load_network
from featx.backbones.pooling import Axes
from featx.backbones.remembered import Remembered, Way
from featx.errors import UnknownNameError
from featx.records import Preprocess

PREPROCESS = Preprocess("squash", 64, 2, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
CPU = torch.device("cpu")
FIRST = SIZES["cpu"][0]
MODULES = 2  # of a Pooled with a Slow in it
COST = SECONDS_PER_MODULE * MODULES
EAGER = 0.01
GAVE_UP = "the network could not be compiled, and runs as it is: "


class Clock:
    """Time that passes only in the network."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Slow(nn.Module):
    """One weight, and a time for an image by batch size."""

    def __init__(self, clock, seconds, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), weight))
        self.clock, self.seconds = clock, seconds

    def forward(self, images):
        self.clock.now += len(images) * self.seconds(len(images))
        return {"node": images * self.weight}


class Compiler:
    """What stands for compiling: the factor in time, what becomes of the rows, and how it ends."""

    def __init__(self):
        self.time, self.change = 0.5, lambda rows: rows
        self.error = self.begin_error = None
        self.batches = 3
        self.started, self.stopped, self.loaded, self.in_place = [], 0, [], 0
        self.there, self.pooled, self.successes = True, None, 10**9

    def __call__(self, pooled, images, library):
        if self.begin_error:
            raise self.begin_error
        assert not torch.is_inference_mode_enabled()
        assert not images.is_inference()
        self.started.append(len(images))
        self.pooled, self.left, self.library = pooled, self.batches, library
        return self

    def is_running(self):
        self.left -= 1
        return self.left >= 0

    def wait(self):
        self.left = 0

    def result(self):
        if self.error or len(self.started) > self.successes:
            raise self.error or RuntimeError("out of memory")
        self.library.write_bytes(b"compiled")
        return 7.0

    def stop(self):
        self.stopped += 1

    def load(self, library, runners):
        size = int(library.stem.rpartition("-")[2])
        self.loaded.append((size, runners))
        if library.read_bytes() != b"compiled":
            raise OSError("invalid ELF header")
        return self.runner(size)

    def make_in_place(self, pooled):
        self.in_place += 1
        self.pooled = pooled
        return self.runner(None)

    def runner(self, size):
        def run(images):
            assert size in (None, len(images))
            assert images.is_contiguous()
            clock = self.pooled.network.clock
            before = clock.now
            rows = self.pooled(images)
            clock.now = before + self.time * (clock.now - before)
            return tuple(self.change(each) for each in rows)

        return run


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATX_CACHE_DIR", str(tmp_path / "cache"))
    fake = Compiler()
    monkeypatch.setattr(engine_module, "Compilation", fake)
    monkeypatch.setattr(engine_module, "Compiled", fake.load)
    monkeypatch.setattr(engine_module, "compile_in_place", fake.make_in_place)
    monkeypatch.setattr(engine_module, "find_compiler", lambda: "g++" if fake.there else None)
    return fake


def first_is_fastest(size):
    return EAGER if size <= FIRST else 1.05 * EAGER


def make(compiler, compile="auto", seconds=first_is_fastest, weight=1.0, device=CPU, cuts=1):
    network = Slow(Clock(), seconds, weight)
    pooled = Pooled(network, [("node", Axes((3, 2, 2), 0), "avg")] * cuts, PREPROCESS, "fp32").eval()
    compiler.pooled = pooled
    return Engine(pooled, device, "fp32", compile, clock=network.clock)


def some_images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 2, 2, 3), dtype=torch.uint8, generator=generator)


def expected(images, weight=1.0):
    pixels = (images.float() / 255 - torch.tensor(PREPROCESS.mean)) / torch.tensor(PREPROCESS.std)
    return weight * pixels.mean((1, 2))


def run(engine, total, weight=1.0):
    """Send so many images in the batches that the engine wants, and check every row; gives their sizes."""
    sizes = []
    while total > 0:
        size = min(total, engine.batch_size)
        total -= size
        engine.remaining = total
        images = some_images(size, seed=total)
        for rows in engine(images):
            torch.testing.assert_close(rows, expected(images, weight), rtol=1e-5, atol=1e-5)
        sizes.append(size)
    return sizes


def known(engine):
    """What the next engine will know."""
    return Remembered(engine._eager)


class TestSizes:
    @pytest.mark.parametrize("best", SIZES["cpu"])
    def test_the_fastest_is_found_on_the_way(self, compiler, best):
        engine = make(compiler, "off", lambda size: EAGER if size == best else 0.013)
        sizes = run(engine, 12_000)
        assert set(sizes[:-1]) == set(SIZES["cpu"])
        assert engine.batch_size == best
        assert sum(size for size in sizes if size != best) <= (1 + TRIAL_BATCHES) * sum(SIZES["cpu"])
        assert known(engine).seconds.keys() == {Way(False, size) for size in SIZES["cpu"]}

    def test_few_images_are_no_reason_for_trials(self, compiler):
        engine = make(compiler, "off", lambda size: EAGER / size)
        assert set(run(engine, 10 * (1 + TRIAL_BATCHES) * sum(SIZES["cpu"]))) == {FIRST}

    def test_what_is_known_is_not_tried_again(self, compiler):
        def seconds(size):
            return EAGER if size == 16 else 0.013

        run(make(compiler, "off", seconds), 12_000)
        sizes = run(make(compiler, "off", seconds), 12_000)
        assert set(sizes[:-1]) == {FIRST, 16}
        assert sizes[:-1].count(FIRST) <= 2 + TRIAL_BATCHES

    def test_nothing_is_tried_where_nobody_knows_what_comes(self, compiler):
        engine = make(compiler, seconds=lambda size: 10.0)
        for _ in range(20):
            engine(some_images(FIRST))
        assert engine.batch_size == FIRST
        assert compiler.started == []
        assert known(engine).seconds == {}

    def test_speed_is_taken_from_full_batches_only(self, compiler):
        engine = make(compiler, "off")
        for _ in range(20):
            engine.remaining = 10_000
            engine(some_images(FIRST - 1))
        engine.finish()
        assert known(engine).seconds == {}

    def test_a_fixed_one_is_the_only_one(self, compiler):
        engine = make(compiler)
        engine.use_batch_size(5)
        assert set(run(engine, 12_000)) == {5}
        assert compiler.started == [5]
        assert engine.is_compiled

    def test_another_one_in_the_middle_starts_anew(self, compiler):
        engine = make(compiler)
        run(engine, 16)
        engine.use_batch_size(5)
        run(engine, 12_000)
        assert engine.is_compiled
        engine.use_batch_size(5)
        assert engine.is_compiled
        assert compiler.started == [5]

    def test_without_weights_there_is_nothing_to_try(self, compiler):
        network = load_network("pixels", device="cpu", compile="on")
        network.engine.remaining = 10**9
        for _ in range(10):
            network.embed(np.zeros((FIRST, 32, 32, 3), np.uint8))
        network.engine.finish()
        assert (network.engine.batch_size, network.engine.is_compiled, network.notes) == (FIRST, False, ())


class TestCompiling:
    @pytest.mark.parametrize(("factor", "repays"), [(1.02, True), (0.98, False)])
    def test_starts_where_it_repays(self, compiler, factor, repays):
        break_even = (2 * COST + COST / (1 - 1 / GAIN)) / EAGER
        engine = make(compiler)
        engine.use_batch_size(1)  # so that the measuring takes few of them
        run(engine, int(factor * break_even) + 1 + TRIAL_BATCHES)
        assert compiler.started == ([1] if repays else [])
        assert engine.notes == []

    def test_the_time_it_took_before_is_what_counts(self, compiler):
        engine = make(compiler)
        memory = known(engine)
        memory.compiling = 1000 * COST
        memory.save()
        run(make(compiler), 12_000)
        assert compiler.started == []

    def test_eager_goes_on_until_it_is_done(self, compiler):
        compiler.batches = 50
        engine = make(compiler)
        kinds = []
        engine.use_batch_size(4)
        for _ in range(70):
            engine.remaining = 100_000
            engine(some_images(4))
            kinds.append(engine.is_compiled)
        assert compiler.started == [4]
        assert kinds.index(True) == 1 + TRIAL_BATCHES + 50
        assert all(kinds[kinds.index(True) :])
        assert known(engine).compiling == 7.0
        assert known(engine).seconds[Way(True, 4)] == pytest.approx(compiler.time * EAGER)

    def test_other_sizes_are_compiled_too_and_the_fastest_stays(self, compiler):
        engine = make(compiler)
        sizes = run(engine, 40_000)
        assert sorted(compiler.started) == sorted(SIZES["cpu"])
        assert engine.is_compiled
        assert engine.batch_size == FIRST
        assert sizes[-2] == FIRST

    def test_another_size_that_fails_leaves_the_first_in_peace(self, compiler):
        compiler.successes = 1
        for _ in range(2):
            engine = make(compiler)
            run(engine, 40_000)
            assert engine.is_compiled
            assert engine.notes == []
            assert compiler.started == [FIRST, 16]

    def test_no_faster_is_not_kept_nor_tried_again(self, compiler):
        compiler.time = 1.1
        for count in (20_000, 20_000, 50):
            engine = make(compiler)
            run(engine, count)
            assert not engine.is_compiled
            assert engine.notes == []
        assert compiler.started == [FIRST]
        assert compiler.loaded == [(FIRST, compiler.loaded[0][1])]

    @pytest.mark.parametrize("mode", ["auto", "on"])
    @pytest.mark.parametrize("cut", [0, 1])
    @pytest.mark.parametrize("wrong", [1.01, float("nan")])
    def test_other_rows_are_never_taken(self, compiler, wrong, cut, mode):
        made = iter(range(10**9))
        compiler.change = lambda rows: rows * wrong if next(made) % 2 == cut else rows
        engine = make(compiler, mode, cuts=2)
        run(engine, 12_000)  # which looks at every row
        assert not engine.is_compiled
        (note,) = engine.notes
        assert note.startswith(f"{GAVE_UP}it gave other embeddings (relative L2 ")
        assert not known(engine).has_library(FIRST)

    @pytest.mark.parametrize("where", ["error", "begin_error"])
    @pytest.mark.parametrize("mode", ["auto", "on"])
    def test_a_failure_is_noted_once_and_remembered(self, compiler, where, mode):
        error = RuntimeError("CppCompileError: no such file\nand more")
        setattr(compiler, where, error)
        engine = make(compiler, mode)
        run(engine, 20_000)
        engine.finish()
        assert not engine.is_compiled
        assert engine.notes == [f"{GAVE_UP}CppCompileError: no such file"]
        attempts = len(compiler.started)

        setattr(compiler, where, None)
        engine = make(compiler)
        run(engine, 20_000)
        assert (engine.is_compiled, engine.notes, len(compiler.started)) == (False, [], attempts)

        engine = make(compiler, "on")
        run(engine, 1000)
        assert (engine.is_compiled, engine.notes) == (True, [])

    @pytest.mark.parametrize("error", [OSError("disk"), KeyError("x"), TypeError(), ZeroDivisionError("y")])
    def test_whatever_export_raises_ends_nothing(self, compiler, error):
        compiler.begin_error = error
        engine = make(compiler)
        run(engine, 20_000)
        (note,) = engine.notes
        assert note.removeprefix(GAVE_UP) == (str(error) or "TypeError")

    @pytest.mark.parametrize("mode", ["auto", "on"])
    def test_no_compiler_is_noted_once(self, compiler, mode):
        compiler.there = False
        engine = make(compiler, mode)
        run(engine, 20_000)
        assert engine.notes == [NO_COMPILER]
        compiler.there = True
        engine = make(compiler)
        run(engine, 20_000)
        assert engine.is_compiled

    def test_no_compiler_is_no_loss_where_a_library_is_there(self, compiler):
        engine = make(compiler, "on")
        engine(some_images(FIRST))
        compiler.there = False
        engine = make(compiler)
        run(engine, 40_000)
        assert engine.is_compiled
        assert engine.notes == []

    def test_off_never_compiles_and_loads_nothing(self, compiler):
        make(compiler, "on")(some_images(FIRST))
        compiler.loaded.clear()
        engine = make(compiler, "off")
        run(engine, 40_000)
        assert (engine.is_compiled, compiler.loaded) == (False, [])


class TestKeptLibraries:
    def test_one_is_taken_at_once(self, compiler):
        run(make(compiler), 40_000)
        started = len(compiler.started)
        engine = make(compiler)
        run(engine, 3 * FIRST)
        assert engine.is_compiled
        assert len(compiler.started) == started

    def test_one_without_figures_too(self, compiler):
        make(compiler, "on")(some_images(FIRST))
        assert known(make(compiler)).seconds == {}
        engine = make(compiler)
        run(engine, 3 * FIRST)
        assert engine.is_compiled
        assert compiler.started == [FIRST]

    @pytest.mark.parametrize("mode", ["auto", "on"])
    def test_a_damaged_one_is_made_anew(self, compiler, mode):
        engine = make(compiler, "on")
        engine(some_images(FIRST))
        known(engine).library(FIRST).write_bytes(b"damaged")
        engine = make(compiler, mode)
        run(engine, 12_000)
        assert engine.is_compiled
        assert engine.notes == []
        assert compiler.started.count(FIRST) == 2
        assert known(engine).failure == ""

    def test_one_is_loaded_once(self, compiler):
        make(compiler, "on")(some_images(FIRST))
        compiler.loaded.clear()
        engine = make(compiler, "on")
        engine.streams = 50
        engine.remaining = 1000
        for _ in range(3):
            engine(some_images(FIRST))
        assert compiler.loaded == [(FIRST, 50)]

    @pytest.mark.parametrize(("gain", "repays"), [(8.0, True), (1.05, False)])
    def test_other_weights_are_compiled_by_what_is_known(self, compiler, gain, repays):
        # Halfway between what a gain of 8 and a guessed one ask for.
        engine = make(compiler)
        memory = known(engine)
        memory.compiling = 2.0
        memory.seconds = {Way(False, FIRST): EAGER, Way(True, FIRST): EAGER / gain}
        memory.save()
        other = make(compiler, weight=2.0)
        count = 4 * FIRST + int((2 * 2.0 + 2.0 / (1 - 1 / 4.0)) / EAGER)
        run(other, count, weight=2.0)
        assert compiler.started == ([FIRST] if repays else [])

    def test_a_loss_known_of_other_weights_is_never_a_gain(self, compiler):
        memory = known(make(compiler))
        memory.compiling = 100.0
        memory.seconds = {Way(False, FIRST): EAGER, Way(True, FIRST): 2 * EAGER}
        memory.save()
        for count in (100, 30_000):
            run(make(compiler, weight=3.0), count, weight=3.0)
        assert compiler.started == []


class TestBatches:
    @pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 16, 21])
    def test_any_number_of_images_gives_its_rows(self, compiler, count):
        engine = make(compiler, "on", weight=2.0)
        engine(some_images(FIRST))
        assert engine.is_compiled
        images = some_images(2 * count)[::2]  # not contiguous
        (rows,) = engine(images)
        torch.testing.assert_close(rows, expected(images, 2.0), rtol=1e-5, atol=1e-5)

    def test_few_images_run_eager(self, compiler):
        engine = make(compiler, "on")
        engine(some_images(FIRST))
        clock = engine._eager.network.clock
        took = {}
        for count in range(1, FIRST + 1):
            clock.now = 0.0
            engine(some_images(count))
            took[count] = clock.now
        padded = FIRST * compiler.time * EAGER
        for count in range(1, FIRST + 1):
            assert took[count] == pytest.approx(count * EAGER if 4 * count <= FIRST else padded)

    def test_asked_for_it_is_compiled_before_the_first_rows_even_of_one_image(self, compiler):
        engine = make(compiler, "on")
        (rows,) = engine(some_images(1))
        torch.testing.assert_close(rows, expected(some_images(1)), rtol=1e-5, atol=1e-5)
        assert compiler.started == [FIRST]
        assert engine.is_compiled

    def test_asked_for_no_thread_begins_before_it_is_compiled(self, compiler):
        engine = make(compiler, "on")
        waits, go_on, done = threading.Event(), threading.Event(), []

        def wait():
            waits.set()
            assert go_on.wait(30)

        compiler.wait = wait
        workers = [threading.Thread(target=lambda: done.append(engine(some_images(1)))) for _ in range(3)]
        workers[0].start()
        assert waits.wait(30)
        for worker in workers[1:]:
            worker.start()
        workers[1].join(0.1)
        before = len(done)
        go_on.set()
        for worker in workers:
            worker.join(30)
        assert (before, len(done)) == (0, 3)
        assert compiler.started == [FIRST]
        assert engine.is_compiled

    @pytest.mark.parametrize("mode", ["auto", "on"])
    def test_eight_threads_at_once_get_their_own_rows(self, compiler, mode):
        engine = make(compiler, mode)
        engine.streams, engine.remaining = 8, 10**6
        wrong, began = [], threading.Barrier(8)

        def work(seed):
            try:
                numbers = random.Random(seed)
                began.wait()
                for place in range(60):
                    full = numbers.random() < 0.8
                    images = some_images(
                        engine.batch_size if full else numbers.randint(1, 20), 100 * seed + place
                    )
                    (rows,) = engine(images)
                    torch.testing.assert_close(rows, expected(images), rtol=1e-5, atol=1e-5)
            except Exception as error:  # noqa: BLE001 - asserted below
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        engine.finish()
        assert wrong == []
        assert len(compiler.started) == len(set(compiler.started))  # no size twice
        assert compiler.started


class TestFinish:
    def test_stops_what_is_under_way_and_writes_down_what_is_known(self, compiler):
        compiler.batches = 10**9
        engine = make(compiler)
        run(engine, 12_000)
        assert (len(compiler.started), compiler.stopped) == (1, 0)
        engine.finish()
        engine.finish()
        assert compiler.stopped == 1
        assert Way(False, FIRST) in known(engine).seconds
        assert known(engine).failure == ""
        run(engine, 12_000)
        assert len(compiler.started) == 1

    def test_before_anything_began(self, compiler):
        make(compiler).finish()
        assert compiler.stopped == 0


class TestBesideAnAccelerator:
    @pytest.fixture
    def cuda(self, compiler, monkeypatch):
        waits = []
        monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
        compiler.waits = waits
        compiler.device = SimpleNamespace(type="cuda")
        return compiler

    def test_it_compiles_in_place_and_waits_only_to_measure(self, cuda):
        engine = make(cuda, device=cuda.device)
        assert engine.batch_size == SIZES["cuda"][0]
        run(engine, 60_000)
        assert engine.is_compiled
        assert engine.notes == []
        assert (cuda.in_place, cuda.started, cuda.loaded) == (len(SIZES["cuda"]), [], [])
        assert all(each is cuda.device for each in cuda.waits)
        assert 0 < len(cuda.waits) <= 2 * len(SIZES["cuda"]) * (2 + TRIAL_BATCHES)

    def test_what_fails_runs_as_it_is(self, cuda):
        cuda.change = lambda rows: rows + 1
        engine = make(cuda, device=cuda.device)
        run(engine, 60_000)
        assert not engine.is_compiled
        assert len(engine.notes) == 1

    def test_on_compiles_at_once(self, cuda):
        engine = make(cuda, "on", device=cuda.device)
        engine(some_images(3))
        assert engine.is_compiled
        assert cuda.waits == []

    def test_elsewhere_nothing_is_compiled(self, compiler):
        engine = make(compiler, device=SimpleNamespace(type="mps"))
        run(engine, 20_000)
        assert (engine.is_compiled, compiler.started, compiler.in_place) == (False, [], 0)


def test_the_mode_of_extract_is_checked(make_photos, tmp_path):
    import featx

    with pytest.raises(UnknownNameError, match="'auto', 'off' or 'on'"):
        featx.extract(make_photos(), tmp_path / "x.h5", backbone="pixels", compile="maybe")
