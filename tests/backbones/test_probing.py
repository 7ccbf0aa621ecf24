import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from featx.backbones.catalog import Backbone, find_backbone
from featx.backbones.network import list_nodes, load_network
from featx.backbones.pooling import Axes
from featx.backbones.probing import probe
from featx.errors import BackboneError, UnknownNameError
from featx.records import LayerSpec, Preprocess

RECORD = Preprocess("squash", 16, 16, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def backbone_of(module, **options):
    return Backbone("mine", "custom", RECORD, RECORD, None, lambda size: module, **options)


def test_channels_are_found_wherever_they_are():
    swin = probe(find_backbone("swin_t"), 64).axes
    assert swin["features.1.0.add_1"] == Axes((16, 16, 96), 2)
    assert swin["permute"].channel == 0
    assert probe(find_backbone("convnext_tiny"), 64).axes["features.1.0.block.2"] == Axes((16, 16, 96), 2)


def test_a_map_of_fixed_size_follows_its_neighbour():
    axes = probe(find_backbone("vgg11"), 64).axes
    assert axes["avgpool"] == Axes((512, 7, 7), 0)


def test_the_class_token_is_told_from_patches():
    axes = probe(find_backbone("vit_b_32"), 224).axes
    assert not axes["permute"].class_token  # patches only
    assert axes["permute"].shape == (49, 768)
    assert axes["cat"] == axes["encoder.ln"] == Axes((50, 768), 1, class_token=True)


def test_a_network_for_one_size_only_is_probed_as_far_as_it_goes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 16 * 16, 5))
    axes = probe(backbone_of(model), 16).axes
    assert axes["0"] == Axes((4, 16, 16), 0)
    assert axes["2"] == Axes((5,), None)


class Shuffled(nn.Module):
    def forward(self, x):
        mixed = x.reshape(1, -1)
        return mixed, x.flatten(1)


def test_what_is_not_one_row_an_image_is_left_out():
    axes = probe(backbone_of(Shuffled()), 16).axes
    assert "reshape" not in axes
    assert axes["flatten"].shape == (768,)


def test_images_that_are_too_small():
    with pytest.raises(
        BackboneError, match=r"'inception_v3' does not take images of 32×32 pixels.*size is 299"
    ):
        probe(find_backbone("inception_v3"), 32)


def test_nodes_are_measured():
    nodes = {node.name: node for node in list_nodes("resnet50")}
    block = nodes["layer2.3.relu_2"]
    assert (block.shape, block.width) == ((512, 28, 28), 512)
    assert block.poolings == ("avg", "max", "gem", "flatten")
    assert block.share == pytest.approx(0.44, abs=0.01)
    shares = [node.share for node in nodes.values()]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def executed(name, layer, size):
    """Floating point operations that embedding an image really takes."""
    preprocess = Preprocess("squash", size, size, "bilinear", (0.5,) * 3, (0.5,) * 3)
    options = {} if name.startswith("custom:") else {"weights": "none"}
    network = load_network(
        name, layers=[LayerSpec(layer)], precision="fp32", device="cpu", preprocess=preprocess, **options
    )
    # The counter does not see what the fused kernel of attention computes.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            network.embed(np.zeros((1, size, size, 3), np.uint8))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "layer", "node", "last", "share"),
    [
        ("resnet50", "layer2", "layer2.3.relu_2", "fc", 0.4435),
        ("mobilenet_v3_small", "features.8", "features.8.block.3", "classifier.3", None),
        ("vit_b_32", "encoder.layers.encoder_layer_5", None, "heads.head", None),
        ("custom:branching_network:network", "middle", "middle", "head", 0.4476),
    ],
)
def test_a_cut_costs_its_share_and_no_more(name, layer, node, last, share, branching):
    nodes = {info.name: info for info in list_nodes(name)}
    node = node or [known for known in nodes if known.startswith(f"{layer}.")][-1]
    ours, whole = executed(name, layer, 224), executed(name, last, 224)
    assert ours / whole == nodes[node].share
    if share is not None:
        assert nodes[node].share == pytest.approx(share, abs=1e-4)


BRANCHING = """
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 4, stride=16)
        self.middle = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 64, 14)
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        x = self.middle(self.first(x))
        if x.max() > 1e6:
            raise ValueError
        return self.head(self.last(x).flatten(1))

def network():
    return Network()
"""


@pytest.fixture
def branching(tmp_path, monkeypatch):
    (tmp_path / "branching_network.py").write_text(BRANCHING)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("branching_network", None)


def test_a_network_that_looks_at_values_is_measured(branching):
    nodes = {info.name: info for info in list_nodes("custom:branching_network:network")}
    assert {name: (info.shape, info.width) for name, info in nodes.items()} == {
        "first": ((4, 14, 14), 4),
        "middle": ((4, 14, 14), 4),
        "last": ((64, 1, 1), 64),
        "head": ((2,), 2),
    }
    macs = [4 * 196 * 3 * 16, 4 * 196 * 4, 64 * 4 * 196, 2 * 64]
    assert [info.share for info in nodes.values()] == pytest.approx(np.cumsum(macs) / sum(macs))


def test_the_largest_network_costs_no_memory():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert list_nodes("vit_h_14")[-1].shape == (1000,)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 600 * 2**20  # its parameters alone are 2.5 GB


def test_nodes_of_an_unknown_backbone():
    with pytest.raises(UnknownNameError, match="Did you mean"):
        list_nodes("resnet5O")


def test_probing_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14 * 14, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    read = probe(backbone_of(model), 16)
    assert read.model is model
    for key, value in model.state_dict().items():
        assert np.array_equal(value, before[key])
    assert all(not parameter.is_meta for parameter in model.parameters())
    assert not torch.is_grad_enabled() or model[0].weight.requires_grad
