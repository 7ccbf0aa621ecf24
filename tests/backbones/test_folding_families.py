"""Folding BatchNorm changes no row, for one network of each family that has it, with trained statistics."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from featx.backbones.catalog import Backbone, find_backbone
from featx.backbones.network import load_network
from featx.records import LayerSpec, Preprocess

FAMILIES = {
    # name: a convolution right before a BatchNorm, or torchvision's one layer of both
    "densenet121": "features.denseblock2.denselayer3.conv1",
    "efficientnet_b0": "features.4.0.block.1",
    "googlenet": "inception4a.branch3.1.conv",
    "inception_v3": "Mixed_5b.branch3x3dbl_2.conv",
    "maxvit_t": "stem.0",
    "mnasnet0_5": "layers.10.0.layers.3",
    "mobilenet_v2": "features.14.conv.2",
    "mobilenet_v3_small": "features.8.block.1",
    "regnet_y_400mf": "trunk_output.block3.block3-1.f.b",
    "resnet18": "layer2.0.downsample.0",
    "shufflenet_v2_x0_5": "stage3.1.branch2.3",
    "squeezenet1_1": "features.9.expand3x3",  # has no BatchNorm
    "vgg11_bn": "features.11",
}
SIZES = {"inception_v3": 80, "maxvit_t": 224}
OPTIONS = {
    "googlenet": {"init_weights": False, "transform_input": True, "aux_logits": False},
    "inception_v3": {"init_weights": False, "transform_input": True, "aux_logits": False},
}


def trained(name):
    """Torchvision's network with random weights, and BatchNorm as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = models.get_model(name, **OPTIONS.get(name, {})).eval()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean, 0, 0.3)
                nn.init.uniform_(layer.running_var, 0.5, 2)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.3)
    if name == "vgg11_bn":  # without the 120 M weights of its classifier
        model.classifier = nn.Sequential(nn.Linear(25088, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 2))
    return model


def error(rows, expected):
    return (np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "maxvit_t")) for name in FAMILIES]
)
def test_rows_are_those_of_the_unfolded_network(name):
    size, node = SIZES.get(name, 64), FAMILIES[name]
    theirs = trained(name)
    record = find_backbone(name).preprocess
    preprocess = Preprocess("squash", size, size, record.interpolation, record.mean, record.std)
    backbone = Backbone(name, "custom", preprocess, preprocess, None, lambda size: copy.deepcopy(theirs))
    pixels = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(record.mean).view(3, 1, 1)) / torch.tensor(record.std).view(3, 1, 1)

    def expected(node):
        with torch.no_grad():
            value = create_feature_extractor(theirs, [node]).eval()(images)[node]
        return (value.mean((2, 3)) if value.dim() == 4 else value).numpy()

    def rows(*layers):
        network = load_network(backbone, layers=layers, precision="fp32", device="cpu")
        found = network.embed(pixels)
        return [(layer.node, found[layer.name]) for layer in network.layers]

    ((last, alone),) = rows(LayerSpec("penultimate"))
    between, together = rows(LayerSpec(node, "avg"), LayerSpec("penultimate"))
    assert error(alone, expected(last)) < 1e-5
    assert error(together[1], expected(last)) < 1e-5
    # What is asked for is what the convolution gives, before its BatchNorm.
    assert error(between[1], expected(node)) < 1e-5
