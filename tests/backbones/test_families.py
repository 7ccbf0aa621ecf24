"""Our embeddings against torchvision's own feature extraction, for every family."""

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from featx.backbones.catalog import find_backbone
from featx.backbones.network import load_network
from featx.backbones.probing import count_flops, probe
from featx.errors import BackboneError
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
SIZES = (28, 32, 64, 80, 224)
"""Sides of which every network takes one; ViT-H/14 takes multiples of 14, MaxViT of 224."""


LIMITS = {"swin_v2_b": 2e-5}
"""Instead of 1e-5: in float32, torchvision is 1.0e-5 away from itself in float64 there, and we are 0.8e-5."""


def preprocess_of(name, size):
    record = find_backbone(name).preprocess
    return Preprocess("squash", size, size, record.interpolation, record.mean, record.std)


def ours_of(name, size, layers):
    """Our network with random weights, in full precision."""
    return load_network(
        name,
        weights="none",
        layers=layers,
        seed=5,
        precision="fp32",
        device="cpu",
        preprocess=preprocess_of(name, size),
    )


def theirs_of(name, size):
    """Torchvision's network with the same weights."""
    options = {}
    if name.startswith("vit_"):
        options = {"image_size": size}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, "transform_input": True}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return models.get_model(name, **options).eval()


def two_images(name, size):
    """Give two images as we take them, and normalised as torchvision takes them."""
    record = find_backbone(name).preprocess
    pixels = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return pixels, (images - torch.tensor(record.mean).view(3, 1, 1)) / torch.tensor(record.std).view(3, 1, 1)


def relative_error(ours, theirs):
    return (np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max()


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_agree_with_torchvision(name):
    size, penultimate, pooling, width, node, node_width = FAMILIES[name]
    layers = [LayerSpec("penultimate"), LayerSpec(node, "avg")]
    ours, theirs = ours_of(name, size, layers), theirs_of(name, size)
    pixels, images = two_images(name, size)
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
    assert relative_error(rows[f"{penultimate}:{pooling}"], last.numpy()) < 1e-5
    assert relative_error(rows[f"{node}:avg"], middle.numpy()) < 1e-5


def smallest(name):
    """Read a network at the smallest side that it takes; what is too small must be refused by our error."""
    for size in SIZES:
        try:
            return size, probe(find_backbone(name), size)
        except BackboneError as error:
            refused = str(error)
    raise AssertionError(refused)


def halfway(read, size):
    """Name the last node with channels that half of the compute suffices for."""
    counts = count_flops(read, size)
    nodes = [name for name, axes in read.axes.items() if len(axes.shape) > 1 and axes.channel is not None]
    return [name for name in nodes if 0 < counts[name] <= max(counts.values()) / 2][-1]


def averaged(value, has_class_token):
    """Average what torchvision gives over the places: here, channels outnumber these along any side."""
    if has_class_token:
        return value[:, 1:].mean(1)
    *_, others, channels = sorted(value.shape[1:])
    assert channels > others
    return value.movedim(1 + list(value.shape[1:]).index(channels), -1).flatten(1, -2).mean(1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_rows_of_every_network_agree_with_torchvision(name):
    size, read = smallest(name)
    node = halfway(read, size)
    del read
    # One after the other, because the largest have 2.5 GB of weights.
    ours = ours_of(name, size, [LayerSpec("penultimate"), LayerSpec(node, "avg")])
    pixels, images = two_images(name, size)
    last, middle = ours.layers
    rows = ours.embed(pixels)
    assert [rows[layer.name].shape for layer in (last, middle)] == [(2, last.dim), (2, middle.dim)]
    assert all(np.isfinite(values).all() for values in rows.values())
    assert all(not np.array_equal(values[0], values[1]) for values in rows.values())
    del ours
    theirs = theirs_of(name, size)
    with torch.no_grad():
        # Each from a graph of its own, which ends there: what follows may work in place.
        expected, between = (
            create_feature_extractor(theirs, [layer.node]).eval()(images)[layer.node]
            for layer in (last, middle)
        )
    if last.pool == "cls":
        expected = expected[:, 0]
    elif last.pool == "avg":
        expected = expected.mean((2, 3))
    limit = LIMITS.get(name, 1e-5)
    assert relative_error(rows[last.name], expected.numpy()) < limit
    assert relative_error(rows[middle.name], averaged(between, name.startswith("vit_")).numpy()) < limit
