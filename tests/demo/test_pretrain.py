"""The pretraining: resumable without a trace, and the file that it writes and that the package carries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from featx.backbones.providers import tiny
from featx.backbones.providers.tiny import TinyNet, tiny_net
from featx.demo.distortion import distort
from featx.demo.exporting import PREPROCESS, to_half
from featx.demo.pretrain import main, pretrain
from featx.demo.rendering import render_pool, source_classes
from featx.demo.training import Recipe, accuracy, train
from featx.errors import WeightsError

SMALL = {"steps": 6, "batch_size": 8, "per_class": 2, "limit": 6, "every": 2}
SHIPPED = Path(tiny.__file__).with_name("featx_tiny.safetensors")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_resumed_run_ends_in_the_same_weights(tmp_path):
    pretrain(tmp_path / "whole.safetensors", **SMALL)
    pretrain(tmp_path / "half.safetensors", **SMALL, checkpoints=tmp_path / "c", stop_at=3)
    pretrain(tmp_path / "resumed.safetensors", **SMALL, checkpoints=tmp_path / "c")
    whole, half, resumed = (
        load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "half", "resumed")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(whole["classifier.weight"], half["classifier.weight"])
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["featx_tiny.checkpoint.pt"]


def test_resumed_run_takes_only_the_steps_that_are_left(tmp_path):
    pretrain(tmp_path / "a.safetensors", **SMALL, checkpoints=tmp_path, stop_at=4)
    lines = []
    pretrain(tmp_path / "a.safetensors", **SMALL, checkpoints=tmp_path, progress=lines.append)
    assert [line.split()[1] for line in lines if line.startswith("step")] == ["5/6", "6/6"]


def test_seed_decides_the_weights(tmp_path):
    pretrain(tmp_path / "a.safetensors", **SMALL, seed=1)
    pretrain(tmp_path / "b.safetensors", **SMALL, seed=1)
    pretrain(tmp_path / "c.safetensors", **SMALL, seed=2)
    first, second, third = ((tmp_path / f"{n}.safetensors").read_bytes() for n in "abc")
    assert first == second
    assert first != third


def test_checkpoint_of_another_recipe_is_refused(tmp_path):
    pretrain(tmp_path / "a.safetensors", **SMALL, checkpoints=tmp_path, stop_at=2)
    with pytest.raises(WeightsError, match=r"another recipe \(seed 0 not 9\).*another folder"):
        pretrain(tmp_path / "a.safetensors", **SMALL, checkpoints=tmp_path, seed=9)


def test_command_writes_a_file_that_loads_strictly(tmp_path):
    out = tmp_path / "weights.safetensors"
    arguments = ["--out", str(out), "--steps", "1", "--batch-size", "8", "--per-class", "1", "--threads", "1"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "step 1/1" in result.stderr
    tiny_net(len(source_classes())).load_state_dict(load_file(out), strict=True)
    assert _metadata(out)["num_classes"] == str(len(source_classes()))


def test_training_learns_a_small_task():
    classes = source_classes()[::150]
    images, labels = (torch.from_numpy(array) for array in render_pool(classes, 8))
    recipe = Recipe(steps=60, batch_size=32, seed=0, per_class=8, classes=len(classes), colourful=0.0)
    network = train(images, labels, recipe)
    assert not network.training
    assert accuracy(network, images, labels, seed=1) > 1.5 / len(classes)


def test_distortion_is_seeded_and_in_range():
    images = torch.from_numpy(render_pool(source_classes()[:9], 1)[0])
    first, second, third = (
        distort(images, torch.Generator().manual_seed(seed), colourful=share)
        for seed, share in ((0, 1.0), (0, 1.0), (1, 1.0))
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert first.shape == (9, 3, 64, 64)
    assert float(first.min()) >= -1
    assert float(first.max()) <= 1
    plain = distort(images, torch.Generator().manual_seed(0), colourful=0.0)
    assert torch.equal(plain[:, 0], plain[:, 1])


def test_rounding_refuses_what_float16_cannot_hold():
    with pytest.raises(WeightsError, match="overflows float16"):
        to_half({"weight": torch.tensor([1e6])})
    with pytest.raises(WeightsError, match="too small for float16"):
        to_half({"bn.running_var": torch.tensor([1e-7])})
    kept = to_half({"bn.num_batches_tracked": torch.tensor(3)})
    assert kept["bn.num_batches_tracked"].dtype == torch.int64


def test_network_is_small_and_can_be_traced():
    network = tiny_net(10).eval()
    assert 500_000 < sum(parameter.numel() for parameter in network.parameters()) < 1_500_000
    assert isinstance(network, TinyNet)
    assert network.classifier.out_features == 10
    nodes = [node.target for node in torch.fx.symbolic_trace(network).graph.nodes if node.op == "call_module"]
    assert nodes[-3:] == ["avgpool", "flatten", "classifier"]


def test_shipped_weights_are_small_half_precision_and_load_strictly():
    assert SHIPPED.stat().st_size < 4_000_000
    metadata, state = _metadata(SHIPPED), load_file(SHIPPED)
    categories = json.loads(metadata["categories"])
    assert json.loads(metadata["preprocess"]) == dict(PREPROCESS)
    assert metadata["licence"] == "Apache-2.0"
    assert metadata["num_classes"] == str(len(categories)) == str(len(state["classifier.bias"]))
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.int64}
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    tiny_net(len(categories)).load_state_dict(state, strict=True)


def test_shipped_network_knows_its_source_classes():
    metadata, state = _metadata(SHIPPED), load_file(SHIPPED)
    categories = json.loads(metadata["categories"])
    network = tiny_net(len(categories))
    network.load_state_dict(state)
    names = {name: label for label, name in enumerate(categories)}
    classes = [each for each in source_classes() if each.name in names][::10]
    images, _ = render_pool(classes, 1, seed=123)
    truth = torch.tensor([names[each.name] for each in classes])
    score = accuracy(network.eval(), torch.from_numpy(images), truth, seed=4)
    assert score > 100 / len(categories)
