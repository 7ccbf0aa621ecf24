"""BatchNorm takes its running statistics and Dropout drops nothing, in whatever mode a network comes."""

import sys

import numpy as np
import pytest
import torch

from featx.backbones.network import load_network
from featx.records import LayerSpec, Preprocess

RECORD = Preprocess("squash", 32, 32, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)

SOURCE = """
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.early, self.second = nn.Dropout2d(0.5), nn.Conv2d(8, 16, 3, stride=2)
        self.group, self.instance = nn.BatchNorm2d(16), nn.InstanceNorm2d(16, track_running_stats=True)
        self.flat, self.wide = nn.Flatten(), nn.Linear(16, 32)
        self.vector, self.late, self.head = nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 3)

    def forward(self, x):
        x = self.early(self.norm(self.conv(x)).relu())
        x = self.instance(self.group(self.second(x))).relu().mean((2, 3))
        x = nn.functional.dropout(self.vector(self.wide(self.flat(x))), 0.5, self.training)
        return self.head(self.late(x))


class Branching(Network):
    def forward(self, x):
        return super().forward(x) if x.shape[0] else x


class Looking(Network):
    def forward(self, x):
        return super().forward(x) if x.max() < 1e6 else x


def make(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = kind()
        for layer in model.modules():
            if getattr(layer, "running_mean", None) is not None:
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 3)
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
        return model


def traced(): return make(Network).eval()
def traced_in_training(): return make(Network).train()
def branching(): return make(Branching).eval()
def branching_in_training(): return make(Branching).train()
def looking(): return make(Looking).eval()
def looking_in_training(): return make(Looking).train()

def partly():
    model = make(Network).eval()
    model.norm.train()
    model.late.train()
    return model
"""

LAYERS = ["norm", "early", "instance", "wide", "late", "head"]


@pytest.fixture
def networks(tmp_path, monkeypatch):
    (tmp_path / "networks_with_modes.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    import networks_with_modes

    yield networks_with_modes
    sys.modules.pop("networks_with_modes", None)


def error(rows, expected):
    return (np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()


def by_hand(model):
    """Rows of the module in evaluation mode, by plain hooks, from images normalised by hand."""
    values = {}
    for name in LAYERS:
        model.get_submodule(name).register_forward_hook(
            lambda module, args, value, name=name: values.__setitem__(name, value.clone())
        )
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(RECORD.mean).view(3, 1, 1)) / torch.tensor(RECORD.std).view(3, 1, 1)
    with torch.no_grad():
        model.eval()(images)
    return {name: value.flatten(2).mean(2) if value.dim() > 2 else value for name, value in values.items()}


@pytest.mark.parametrize("mode", ["", "_in_training"])
@pytest.mark.parametrize("kind", ["traced", "branching", "looking"])
def test_rows_are_those_of_evaluation_mode(kind, mode, networks):
    check(f"{kind}{mode}", networks)


def test_a_part_in_training_mode_is_put_into_evaluation_mode_too(networks):
    assert not networks.partly().training
    check("partly", networks)


def check(function, networks):
    expected = by_hand(getattr(networks, function)())
    network = load_network(
        f"custom:networks_with_modes:{function}",
        layers=[LayerSpec(name) for name in LAYERS],
        precision="fp32",
        device="cpu",
        preprocess=RECORD,
    )
    torch.manual_seed(0)
    first = network.embed(PIXELS)
    again = network.embed(PIXELS)
    alone = [network.embed(PIXELS[i : i + 1]) for i in range(len(PIXELS))]
    # Among images that would move the statistics of a batch far away.
    glaring = np.full((9, 32, 32, 3), 255, np.uint8)
    among = network.embed(np.concatenate([glaring, PIXELS, glaring]))
    assert [layer.node for layer in network.layers] == LAYERS
    for layer in network.layers:
        rows = first[layer.name]
        assert error(rows, expected[layer.node].numpy()) < 1e-5
        assert np.array_equal(again[layer.name], rows)
        assert error(np.concatenate([row[layer.name] for row in alone]), rows) < 1e-5
        assert error(among[layer.name][9:-9], rows) < 1e-5


@pytest.mark.parametrize("kind", ["traced", "branching", "looking"])
def test_training_mode_would_give_other_rows(kind, networks):
    """The test above can fail: these networks are no others in training mode by chance."""
    model = getattr(networks, f"{kind}_in_training")()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.manual_seed(0)
        noisy = model.train()(images)
        settled = model.eval()(images)
    assert error(noisy.numpy(), settled.numpy()) > 0.1
