import shutil

import numpy as np
import pytest
import torch
from torch import nn

from featx.backbones import engine as engine_module
from featx.backbones.engine import SIZES, TRIAL_BATCHES, Engine, Pooled, fold_batchnorm
from featx.backbones.network import cut_network, load_network
from featx.backbones.pooling import Axes
from featx.errors import UnknownNameError
from featx.records import LayerSpec, Preprocess

SMALL = Preprocess("squash", 64, 64, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
CPU = torch.device("cpu")


class Clock:
    """Time that passes only in the network: seconds an image, by batch size and by whether it is compiled."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Slow(nn.Module):
    """One weight, and a time for each batch size."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.clock, self.seconds, self.sizes = clock, seconds, []

    def forward(self, images):
        self.sizes.append(len(images))
        self.clock.now += len(images) * self.seconds(len(images))
        return {"node": images * self.weight}


def make(seconds=lambda size: 0.01, compile="auto"):
    clock = Clock()
    module = Slow(clock, seconds)
    pooled = Pooled(module, [("node", Axes((3, 2, 2), 0), "avg")], SMALL, "fp32").eval()
    return module, Engine(pooled, CPU, "fp32", compile, clock=clock)


def run(engine, total):
    """Send so many images, in the batches that the engine wants; gives their sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = []
    while total > 0:
        size = min(total, engine.batch_size)
        total -= size
        engine.remaining = total
        images = torch.randint(0, 255, (size, 2, 2, 3), dtype=torch.uint8, generator=generator)
        (rows,) = engine(images)
        expected = ((images.float() / 255 - torch.tensor(SMALL.mean)) / torch.tensor(SMALL.std)).mean((1, 2))
        torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
        sizes.append(size)
    return sizes


@pytest.fixture
def compiled(monkeypatch):
    """Let compiling take no compiler: a factor in time, and one in the rows."""
    calls = []

    def fake(time=0.25, rows=1.0, error=None):
        def compile_(pooled, images):
            calls.append(len(images))
            if error:
                raise error

            def call(images):
                before = pooled.network.clock.now
                (found,) = pooled(images)
                pooled.network.clock.now = before + time * (pooled.network.clock.now - before)
                return (found * rows,)

            return call

        monkeypatch.setattr(engine_module, "_compile", compile_)
        return calls

    return fake


def test_many_images_repay_compiling_and_few_do_not(compiled):
    calls = compiled()
    cost = engine_module.SECONDS_PER_MODULE
    break_even = cost / (0.01 * (1 - 1 / engine_module.GAIN))
    for total, expected in ((20 * break_even, True), (0.5 * break_even, False)):
        _, engine = make()
        run(engine, int(total) + TRIAL_BATCHES * 16)
        assert engine.is_compiled is expected
        assert engine.notes == []
    assert calls == [16]


def test_nothing_is_tried_where_nobody_knows_what_comes(compiled):
    calls = compiled()
    _, engine = make()
    for _ in range(20):
        engine(torch.zeros(16, 2, 2, 3, dtype=torch.uint8))
    assert engine.batch_size == 16
    assert calls == []


@pytest.mark.parametrize("best", SIZES)
def test_the_fastest_batch_size_is_found_on_the_way(best):
    _, engine = make(lambda size: 0.01 if size == best else 0.013, compile="off")
    sizes = run(engine, 12_000)
    assert set(sizes[:-1]) == set(SIZES)
    assert engine.batch_size == best
    assert sizes.count(best) > 0.8 * 12_000 / best
    assert sum(size for size in sizes if size != best) <= TRIAL_BATCHES * sum(SIZES) + best


def test_few_images_are_no_reason_for_trials():
    _, engine = make(compile="off")
    assert set(run(engine, 400)) == {16}


def test_without_weights_nothing_is_tried():
    network = load_network("pixels", device="cpu", compile="auto")
    network.engine.remaining = 10**9
    for _ in range(10):
        network.embed(np.zeros((16, 32, 32, 3), np.uint8))
    assert network.engine.batch_size == 16
    assert not network.engine.is_compiled


@pytest.mark.parametrize(
    "error", [RuntimeError("CppCompileError: no g++\nand more"), OSError("disk"), ImportError("x")]
)
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(compiled, error, mode):
    calls = compiled(error=error)
    _, engine = make(compile=mode)
    run(engine, 20_000)
    assert calls == [16]
    assert not engine.is_compiled
    (note,) = engine.notes
    assert note.startswith("the network could not be compiled, and runs as it is: ")
    assert "\n" not in note


def test_other_embeddings_are_never_taken(compiled):
    compiled(rows=1.01)
    _, engine = make()
    run(engine, 20_000)  # which compares every row
    assert not engine.is_compiled
    assert engine.notes == ["the compiled network gave other embeddings, and is not used"]


def test_what_is_no_faster_is_not_taken(compiled):
    compiled(time=1.1)
    _, engine = make()
    run(engine, 20_000)
    assert not engine.is_compiled


class TestFolding:
    def rows(self, module, node):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, 3, 64, 64, generator=generator)
        with torch.inference_mode():
            return module(images)[node]

    def cut(self, node):
        from featx.backbones.catalog import find_backbone

        part = cut_network(find_backbone("resnet18"), "none", [LayerSpec(node)], seed=0, preprocess=SMALL)
        module = part.module.eval()
        for layer in module.modules():  # as after training
            if isinstance(layer, nn.BatchNorm2d):
                generator = torch.Generator().manual_seed(1)
                layer.running_mean.copy_(torch.rand(layer.num_features, generator=generator) - 0.5)
                layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
        return module, part.cuts[0].node

    def test_gives_the_same_rows_without_batchnorm(self):
        module, node = self.cut("layer2")
        before = self.rows(module, node)
        folded = fold_batchnorm(module)
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
        after = self.rows(folded, node)
        assert ((before - after).norm() / before.norm()).item() < 1e-5

    def test_a_convolution_that_was_asked_for_stays_itself(self):
        module, node = self.cut("layer1.0.conv1")
        before = self.rows(module, node)
        torch.testing.assert_close(self.rows(fold_batchnorm(module), node), before)

    def test_one_convolution_with_two_batchnorms_stays_itself(self):
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.one, self.two = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
                nn.init.constant_(self.two.weight, 3.0)

            def forward(self, images):
                return {"x": self.one(self.conv(images)) + self.two(self.conv(images + 1))}

        module = torch.fx.symbolic_trace(Shared().eval())
        before = self.rows(module, "x")
        torch.testing.assert_close(self.rows(fold_batchnorm(module), "x"), before)

    def test_what_was_not_traced_is_left_alone(self):
        module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
        assert fold_batchnorm(module) is module


def test_the_mode_of_extract_is_checked(make_photos, tmp_path):
    import featx

    with pytest.raises(UnknownNameError, match="'auto', 'off' or 'on'"):
        featx.extract(make_photos(), tmp_path / "x.h5", backbone="pixels", compile="maybe")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_network_compiled_gives_the_rows_of_the_eager_one(precision, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    options = {"weights": "none", "device": "cpu", "precision": precision, "preprocess": SMALL}
    pixels = np.random.default_rng(0).integers(0, 256, (19, 64, 64, 3), dtype=np.uint8)
    expected = load_network("resnet18", **options).embed(pixels)["avgpool:avg"]
    network = load_network("resnet18", compile="on", **options)
    limit = {"fp32": 1e-5, "bf16": 1e-2}[precision]
    for count in (16, 5, 1, 19):  # one compilation serves all sizes
        rows = network.embed(pixels[:count])["avgpool:avg"]
        distance = np.linalg.norm(rows - expected[:count], axis=1) / np.linalg.norm(expected[:count], axis=1)
        assert distance.max() < limit
    assert network.engine.is_compiled
    assert network.notes == ()
