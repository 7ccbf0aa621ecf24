import sys

import numpy as np
import pytest
import torch
from torch import nn

from featx.backbones.catalog import find_backbone
from featx.backbones.network import Network, load_classifier, load_network
from featx.backbones.placement import resolve_device, resolve_precision
from featx.errors import BackboneError, UnknownNameError, WeightsError
from featx.records import LayerInfo, LayerSpec, Preprocess

SMALL = Preprocess("squash", 64, 64, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


def load(name="resnet18", **options):
    options = {"weights": "none", "precision": "fp32", "device": "cpu", "preprocess": SMALL} | options
    return load_network(name, **options)


def error(ours, theirs):
    return (np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max()


def test_a_row_does_not_depend_on_its_neighbours():
    network = load()
    together = network.embed(PIXELS)["avgpool:avg"]
    alone = np.concatenate([network.embed(PIXELS[i : i + 1])["avgpool:avg"] for i in range(5)])
    backwards = network.embed(PIXELS[::-1])["avgpool:avg"][::-1]
    assert together.dtype == np.float32
    assert error(alone, together) < 1e-5
    assert error(backwards, together) < 1e-5


def test_several_layers_come_from_one_pass():
    layers = [
        LayerSpec("layer1.0.bn1", "max"),
        LayerSpec("layer2", "gem"),
        LayerSpec("layer2"),
        LayerSpec("layer2"),
    ]
    network = load(layers=layers)
    assert network.layers == (
        LayerInfo("layer1.0.bn1", "max", 64),
        LayerInfo("layer2", "gem", 128),
        LayerInfo("layer2", "avg", 128),
    )
    together = network.embed(PIXELS)
    for layer in layers[:3]:
        ((name, rows),) = load(layers=[layer]).embed(PIXELS).items()
        assert error(together[name], rows) < 1e-5


def test_nothing_is_embedded_from_nothing():
    assert load().embed(PIXELS[:0])["avgpool:avg"].shape == (0, 512)


def test_read_only_and_strided_arrays_are_taken():
    network = load()
    frozen = PIXELS.copy()
    frozen.flags.writeable = False
    wide = np.repeat(PIXELS, 2, axis=2)[:, :, ::2]
    expected = network.embed(PIXELS)["avgpool:avg"]
    assert np.array_equal(network.embed(frozen)["avgpool:avg"], expected)
    assert np.array_equal(network.embed(wide)["avgpool:avg"], expected)
    assert np.array_equal(PIXELS, frozen)


@pytest.mark.parametrize("bad", [PIXELS[0], PIXELS[:, :32], PIXELS.astype(np.float32), PIXELS[..., :1]])
def test_images_of_another_shape_are_refused(bad):
    with pytest.raises(BackboneError, match=r"Got images of shape .* expected \(n, 64, 64, 3\) and uint8"):
        load().embed(bad)


def test_an_unknown_node_lists_near_ones():
    with pytest.raises(
        UnknownNameError, match=r"Unknown node 'layer_2'.*'layer.*`featx layers resnet18` lists"
    ):
        load(layers=[LayerSpec("layer_2")])


def test_a_node_without_rows_is_refused():
    with pytest.raises(BackboneError, match="'getitem' of 'vit_b_32' gives no numbers image by image"):
        load("vit_b_32", layers=[LayerSpec("getitem")])


def test_an_impossible_pooling_lists_the_possible():
    with pytest.raises(BackboneError, match=r"has no pooling 'cls'. Possible: avg, max, gem, flatten"):
        load(layers=[LayerSpec("layer2", "cls")])
    with pytest.raises(BackboneError, match="Possible: flatten"):
        load(layers=[LayerSpec("fc", "avg")])


def test_bf16_is_near_and_pooled_in_float32():
    exact = load().embed(PIXELS)["avgpool:avg"]
    rough = load(precision="bf16").embed(PIXELS)["avgpool:avg"]
    assert rough.dtype == np.float32
    assert 0 < error(rough, exact) < 0.05


def test_pixels_are_pixels():
    network = load_network("pixels", device="cpu")
    assert network.precision == "fp32"
    pixels = PIXELS[:, :32, :32]
    rows = network.embed(pixels)["flatten:flatten"]
    assert rows.shape == (5, 3072)
    np.testing.assert_allclose(rows, pixels.transpose(0, 3, 1, 2).reshape(5, -1) / 255, rtol=1e-6)


def test_the_embedded_network():
    network = load_network("featx-tiny", device="cpu", precision="fp32")
    assert network.weights.kind == "embedded"
    assert network.layers == (LayerInfo("avgpool", "avg", 256),)
    rows = network.embed(PIXELS)["avgpool:avg"]
    assert np.isfinite(rows).all()
    random = load_network("featx-tiny", device="cpu", precision="fp32", weights="none")
    assert random.preprocess == network.preprocess
    assert random.weights.identity.keys() == {"digest", "seed"}
    assert error(random.embed(PIXELS)["avgpool:avg"], rows) > 0.1


def test_the_classifier_names_its_classes():
    network = load_classifier("featx-tiny", device="cpu", precision="fp32")
    (layer,) = network.layers
    assert layer.dim == len(network.categories) > 10
    assert network.embed(PIXELS)[layer.name].shape == (5, layer.dim)
    imagenet = load_classifier("resnet18", weights="none", device="cpu", preprocess=SMALL)
    assert imagenet.layers[0] == LayerInfo("fc", "flatten", 1000)
    assert imagenet.categories[0] == "tench"


class FakeMemory(nn.Module):
    """Holds `limit` images, as a device with little memory."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("fake")
        return {"flatten": images.flatten(1)}


def starving(limit):
    network = load_network("pixels", device="cpu")
    module = FakeMemory(limit)
    return module, Network(
        network.backbone,
        network.weights,
        module,
        network._cuts,
        precision="fp32",
        device=torch.device("cpu"),
        preprocess=network.preprocess,
    )


def test_out_of_memory_halves_the_batch_and_loses_no_row():
    pixels = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    module, network = starving(3)
    expected = load_network("pixels", device="cpu").embed(pixels)["flatten:flatten"]
    assert np.array_equal(network.embed(pixels)["flatten:flatten"], expected)
    assert module.sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    module.sizes.clear()
    network.embed(pixels[:4])
    assert module.sizes == [2, 2]


def test_not_even_one_image_fits():
    _, network = starving(0)
    with pytest.raises(BackboneError, match="One image does not fit into the memory of cpu"):
        network.embed(np.zeros((3, 32, 32, 3), np.uint8))


CUSTOM = """
import torch
from torch import nn

def network():
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 2),
    ).train()

def nothing():
    return 3
"""


@pytest.fixture
def custom(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    yield "custom:my_networks"
    sys.modules.pop("my_networks", None)


def test_a_custom_network_in_training_mode_is_put_into_evaluation_mode(custom):
    network = load(f"{custom}:network", weights="default")
    assert network.layers == (LayerInfo("4", "avg", 8),)
    together = network.embed(PIXELS)["4:avg"]
    alone = np.concatenate([network.embed(PIXELS[i : i + 1])["4:avg"] for i in range(5)])
    assert error(alone, together) < 1e-5
    assert network.weights.digest == load(f"{custom}:network", weights="default").weights.digest
    assert len(network.weights.digest) == 64


def test_a_custom_network_takes_weights_from_a_file(custom, tmp_path):
    import importlib

    model = importlib.import_module("my_networks").network()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(2.0)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    rows = load(f"{custom}:network", weights=tmp_path / "w.pth").embed(PIXELS)["4:avg"]
    np.testing.assert_allclose(rows, 2 / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_custom_networks_that_do_not_work(custom):
    with pytest.raises(BackboneError, match=r"returned int, expected a torch.nn.Module"):
        load(f"{custom}:nothing", weights="default")
    with pytest.raises(BackboneError, match=r"cannot be imported.*PYTHONPATH"):
        load(f"{custom}:missing", weights="default")
    with pytest.raises(WeightsError, match=r"'none' for .* built with its own"):
        load(f"{custom}:network", weights="none")


def test_loading_leaves_the_generator_alone(custom):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    load(f"{custom}:network", weights="default")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("device", "text"),
    [("cuda:99", "The device 'cuda:99' is not here"), ("gpu", "Unknown device 'gpu'"), ("xla", "Cannot use")],
)
def test_devices_that_are_not_there(device, text):
    with pytest.raises(BackboneError, match=text):
        resolve_device(device)


def test_auto_is_bf16_only_with_matrix_units(monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    assert resolve_precision("auto", torch.device("cpu")) == "bf16"
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    assert resolve_precision("auto", torch.device("cuda")) == "fp32"
    with pytest.raises(BackboneError, match=r"Unknown precision 'int8'. There is auto, fp32, bf16, fp16"):
        resolve_precision("int8", torch.device("cpu"))


def test_the_weights_are_not_kept_twice():
    assert load().weights.state is None
    assert find_backbone("resnet18").is_built_with_weights is False
