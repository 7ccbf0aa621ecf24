import numpy as np
import pytest
import torch
from torch import nn

from featx.backbones.catalog import Backbone, find_backbone
from featx.backbones.network import list_nodes
from featx.backbones.pooling import Axes
from featx.backbones.probing import probe
from featx.errors import BackboneError, UnknownNameError
from featx.records import Preprocess

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
