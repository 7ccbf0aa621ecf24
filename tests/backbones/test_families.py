"""Our embeddings against torchvision's own feature extraction, for every family."""

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from featx.backbones.catalog import find_backbone
from featx.backbones.network import load_network
from featx.records import LayerSpec, Preprocess

FAMILIES = {
    # name: (input size, penultimate, its pooling and width, an intermediate node, its width)
    "alexnet": (64, "classifier.5", "flatten", 4096, "avgpool", 256),
    "convnext_tiny": (64, "classifier.0", "avg", 768, "features.5.0.block.2", 384),
    "densenet121": (64, "adaptive_avg_pool2d", "avg", 1024, "features.denseblock2", 512),
    "efficientnet_b0": (64, "avgpool", "avg", 1280, "features.4", 80),
    "googlenet": (64, "avgpool", "avg", 1024, "inception4a", 512),
    "inception_v3": (96, "avgpool", "avg", 2048, "Mixed_6a", 768),
    "maxvit_t": (224, "classifier.4", "flatten", 512, "blocks.1", 128),
    "mnasnet0_5": (64, "mean", "flatten", 1280, "layers.10", 40),
    "mobilenet_v2": (64, "adaptive_avg_pool2d", "avg", 1280, "features.14", 160),
    "mobilenet_v3_small": (64, "classifier.1", "flatten", 1024, "features.8", 48),
    "regnet_y_400mf": (64, "avgpool", "avg", 440, "trunk_output.block3", 208),
    "resnet18": (64, "avgpool", "avg", 512, "layer2", 128),
    "shufflenet_v2_x0_5": (64, "mean", "flatten", 1024, "stage3", 96),
    "squeezenet1_1": (64, "features.12.cat", "avg", 512, "features.9", 384),
    "swin_t": (64, "avgpool", "avg", 768, "features.3", 192),
    "swin_v2_t": (64, "avgpool", "avg", 768, "features.5.1.mlp", 384),
    "vgg11_bn": (64, "classifier.4", "flatten", 4096, "features", 512),
    "vit_b_32": (64, "encoder.ln", "cls", 768, "encoder.layers.encoder_layer_3.mlp", 768),
}
CHANNELS_LAST = {
    ("convnext_tiny", "features.5.0.block.2"),
    ("swin_t", "features.3"),
    ("swin_v2_t", "features.5.1.mlp"),
}
OTHERS = [name for name in models.list_models(module=models) if name not in FAMILIES]


def networks(name, size, layers):
    """Give our network and torchvision's with the same random weights, and two images."""
    record = find_backbone(name).preprocess
    preprocess = Preprocess("squash", size, size, record.interpolation, record.mean, record.std)
    ours = load_network(
        name, weights="none", layers=layers, seed=5, precision="fp32", device="cpu", preprocess=preprocess
    )
    options = {}
    if name.startswith("vit_"):
        options = {"image_size": size}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, "transform_input": True}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = models.get_model(name, **options).eval()
    pixels = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(record.mean).view(3, 1, 1)) / torch.tensor(record.std).view(3, 1, 1)
    return ours, theirs, pixels, images


def relative_error(ours, theirs):
    return (np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max()


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_agree_with_torchvision(name):
    size, penultimate, pooling, width, node, node_width = FAMILIES[name]
    layers = [LayerSpec("penultimate"), LayerSpec(node, "avg")]
    ours, theirs, pixels, images = networks(name, size, layers)
    assert [(layer.name, layer.dim) for layer in ours.layers] == [
        (f"{penultimate}:{pooling}", width),
        (f"{node}:avg", node_width),
    ]
    extractor = create_feature_extractor(theirs, [penultimate, node]).eval()
    with torch.no_grad():
        expected = extractor(images)
    last = expected[penultimate]
    if pooling == "cls":
        last = last[:, 0]
    elif pooling == "avg":
        last = last.mean((2, 3))
    middle = expected[node]
    if name == "vit_b_32":
        middle = middle[:, 1:].mean(1)
    else:
        middle = middle.mean((1, 2) if (name, node) in CHANNELS_LAST else (2, 3))
    rows = ours.embed(pixels)
    assert relative_error(rows[f"{penultimate}:{pooling}"], last.numpy()) < 2e-5
    assert relative_error(rows[f"{node}:avg"], middle.numpy()) < 2e-5


def smallest(name):
    backbone = find_backbone(name)
    if name.startswith(("vit_", "maxvit_")):
        return backbone.input_size if name != "vit_h_14" else 28
    return 96


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_network_agrees_with_its_own_classifier(name):
    size = smallest(name)
    ours, theirs, pixels, images = networks(name, size, [LayerSpec("penultimate")])
    layer = ours.layers[0]
    extractor = create_feature_extractor(theirs, [layer.node]).eval()
    with torch.no_grad():
        expected = extractor(images)[layer.node]
    if layer.pool == "cls":
        expected = expected[:, 0]
    elif layer.pool == "avg":
        expected = expected.mean((2, 3))
    assert relative_error(ours.embed(pixels)[layer.name], expected.numpy()) < 2e-5
