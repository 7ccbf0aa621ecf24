import hashlib
import json
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from featx.backbones.catalog import find_backbone
from featx.backbones.network import load_classifier, load_network
from featx.backbones.reading import state_digest
from featx.backbones.weights import default_preprocess, resolve_weights
from featx.errors import WeightsError
from featx.records import LayerSpec, Preprocess

RECORD = Preprocess("pad", 40, 32, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(3)
    return models.resnet18().eval()


def load(path, **options):
    return load_network(
        "resnet18", weights=path, preprocess=RECORD, precision="fp32", device="cpu", **options
    )


def save(path, content):
    torch.save(content, path)
    return path


def test_every_way_of_wrapping_gives_the_same_rows(resnet, tmp_path):
    state = resnet.state_dict()
    prefixed = OrderedDict((f"module.{key}", value) for key, value in state.items())
    save_file(state, tmp_path / "d.safetensors")
    paths = [
        save(tmp_path / "a.pth", state),
        save(tmp_path / "b.pt", {"state_dict": prefixed, "epoch": 3}),
        save(tmp_path / "c.pth", {"model": state}),
        tmp_path / "d.safetensors",
    ]
    networks = [load(path) for path in paths]
    rows = [network.embed(PIXELS)["avgpool:avg"] for network in networks]
    for row in rows[1:]:
        assert np.array_equal(row, rows[0])
    for path, network in zip(paths, networks, strict=True):
        assert network.weights.kind == "file"
        assert network.weights.identity == {"digest": hashlib.sha256(path.read_bytes()).hexdigest()}
        assert (network.weights.size, network.weights.mtime_ns) == (
            path.stat().st_size,
            path.stat().st_mtime_ns,
        )
        assert network.notes == ()


def test_missing_misshaped_and_unexpected_keys_are_named(resnet, tmp_path):
    state = dict(resnet.state_dict())
    del state["layer1.0.conv1.weight"]
    state["layer2.0.bn1.bias"] = torch.zeros(7)
    state["layer9.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        load(save(tmp_path / "bad.pth", state))
    text = str(caught.value)
    assert "missing: layer1.0.conv1.weight;" in text
    assert "mis-shaped: layer2.0.bn1.bias is (7), expected (128);" in text
    assert "unexpected: layer9.weight)" in text
    assert "\n" not in text


def test_what_comes_after_the_cut_may_differ_and_is_said(resnet, tmp_path):
    state = dict(resnet.state_dict())
    expected = load(save(tmp_path / "good.pth", state)).embed(PIXELS)["avgpool:avg"]
    small = {**state, "fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}
    sequential = {key: value for key, value in state.items() if not key.startswith("fc.")}
    sequential |= {"fc.0.weight": torch.zeros(3, 512), "fc.0.bias": torch.zeros(3)}
    for name, content in {"small": small, "sequential": sequential}.items():
        path = save(tmp_path / f"{name}.pth", content)
        network = load(path)
        assert np.array_equal(network.embed(PIXELS)["avgpool:avg"], expected)
        assert len(network.notes) == 1
        assert "fc." in network.notes[0]
        with pytest.raises(WeightsError, match="fc"):
            load_classifier("resnet18", weights=path, preprocess=RECORD, device="cpu")
    cut = {key: value for key, value in state.items() if not key.startswith(("layer3", "layer4", "fc"))}
    path = save(tmp_path / "cut.pth", cut)
    assert load(path, layers=[LayerSpec("layer2")]).layers[0].dim == 128
    with pytest.raises(WeightsError, match=r"missing: layer3.*more"):
        load(path)


def test_a_deeper_network_does_not_pass_for_a_shallower(tmp_path):
    with pytest.raises(WeightsError, match=r"unexpected: layer1.2"):
        load(save(tmp_path / "r34.pth", models.resnet34().state_dict()))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code in a weights file was run",))


@pytest.mark.parametrize(
    "content",
    [b"", b"not weights at all", pickle.dumps({"a": Bomb()}), pickle.dumps([1, 2, 3])],
    ids=["empty", "text", "code", "list"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_weights(tmp_path, content, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"bad\.") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_pickle_with_code_in_a_zip_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="code in a file is never run"):
        load(save(tmp_path / "code.pth", {"a": Bomb()}))


def test_other_contents_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="hold int under 'epoch', expected only tensors"):
        load(save(tmp_path / "epoch.pth", {"epoch": 3}))
    with pytest.raises(WeightsError, match="hold Tensor, expected a state dict"):
        load(save(tmp_path / "tensor.pth", torch.zeros(3)))


def test_no_such_file():
    with pytest.raises(
        WeightsError, match=r"Cannot read the weights 'nowhere\.pth'.*expected 'default', 'none'"
    ):
        load("nowhere.pth")


def test_random_weights_are_seeded_and_leave_the_generator_alone():
    backbone = find_backbone("squeezenet1_1")
    before = torch.random.get_rng_state()
    first, again, other = (resolve_weights(backbone, "none", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.identity == again.identity == {"digest": first.digest, "seed": 1}
    assert first.digest != other.digest


def test_the_state_digest_sees_name_dtype_shape_and_value():
    states = [
        {"a": torch.zeros(2, 3)},
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.ones(2, 3)},
    ]
    assert len({state_digest(state) for state in states}) == len(states)
    assert state_digest({"a": torch.zeros(1), "b": torch.ones(1)}) == state_digest(
        {"b": torch.ones(1), "a": torch.zeros(1)}
    )


def test_preprocessing_may_come_with_the_file(resnet, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(resnet.state_dict(), path, {"preprocess": json.dumps(RECORD.to_json())})
    assert load_network("resnet18", weights=path, device="cpu").preprocess == RECORD
    backbone = find_backbone("resnet50")
    assert default_preprocess(backbone, path) == RECORD
    assert default_preprocess(backbone, "none").resize_size == 256
    assert default_preprocess(backbone, "default").resize_size == 232
    save_file(resnet.state_dict(), path, {"preprocess": '{"mean": 3}'})
    with pytest.raises(WeightsError, match=r"preprocess record in .* is not readable"):
        load_network("resnet18", weights=path, device="cpu")


def test_pixels_have_no_weights():
    with pytest.raises(WeightsError, match="'none' for 'pixels', which has none"):
        load_network("pixels", weights="none")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_the_hub_is_used_through_its_cache(resnet, hub):
    path = save(hub / "resnet18-f37072fd.pth", resnet.state_dict())
    network = load_network("resnet18", device="cpu", precision="fp32", preprocess=RECORD)
    assert network.weights.kind == "hub"
    assert network.weights.origin == "ResNet18_Weights.IMAGENET1K_V1"
    assert network.weights.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(network.embed(PIXELS)["avgpool:avg"], load(path).embed(PIXELS)["avgpool:avg"])


def test_without_a_network_the_error_names_both_ways_on(hub, monkeypatch):
    from urllib.error import URLError

    def refuse(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(WeightsError, match=r"no route to host.*`--weights FILE`.*`--backbone featx-tiny`"):
        load_network("resnet18", device="cpu")


def test_a_damaged_cache_is_named(hub):
    (hub / "resnet18-f37072fd.pth").write_bytes(b"half a download")
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd.pth are damaged.*Delete the file"):
        load_network("resnet18", device="cpu")


def test_old_densenet_names_are_understood(tmp_path):
    torch.manual_seed(0)
    model = models.densenet121().eval()
    state = model.state_dict()
    old = {}
    for key, value in state.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in key:
                key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        if not key.endswith("num_batches_tracked"):
            old[key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    path = save(tmp_path / "old.pth", old)
    network = load_network("densenet121", weights=path, preprocess=RECORD, device="cpu", precision="fp32")
    new = save(tmp_path / "new.pth", state)
    expected = load_network("densenet121", weights=new, preprocess=RECORD, device="cpu", precision="fp32")
    assert np.array_equal(*(n.embed(PIXELS)["adaptive_avg_pool2d:avg"] for n in (network, expected)))


def test_mnasnet_weights_without_a_version(tmp_path):
    path = tmp_path / "mnasnet.safetensors"
    save_file(models.mnasnet0_5().state_dict(), path)
    assert load_network("mnasnet0_5", weights=path, device="cpu").notes == ()
