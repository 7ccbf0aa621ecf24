"""``timm:NAME`` against timm itself; what concerns a missing timm runs without it."""

import dataclasses
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from featx.backbones.catalog import find_backbone, list_backbones
from featx.backbones.network import load_network
from featx.backbones.providers import timm as provider
from featx.backbones.weights import resolve_weights
from featx.cli.backbones import command
from featx.errors import BackboneError, UnknownNameError, WeightsError
from featx.images.geometry import prepare

QUICK = {
    # name: (input size, penultimate and pooling, width)
    "resnet18": (64, "global_pool.pool:avg", 512),
    "vit_tiny_patch16_224": (64, "norm:cls", 192),
    "convnext_atto": (64, "head.norm:avg", 320),
    "vit_small_patch14_reg4_dinov2": (28, "head.embedding.clone:flatten", 384),
    "eva02_tiny_patch14_224": (28, "head.embedding:flatten", 192),
}
SLOW = {
    "beit_base_patch16_224": (64, "fc_norm:flatten", 768),
    "cait_xxs24_224": (64, "norm:cls", 192),
    "deit_tiny_patch16_224": (64, "norm:cls", 192),
    "edgenext_xx_small": (64, "head.norm:avg", 168),
    "efficientformerv2_s0": (224, "mean:flatten", 176),
    "efficientnet_b0": (64, "global_pool.pool:avg", 1280),
    "fastvit_t8": (64, "head.global_pool.pool:avg", 768),
    "ghostnet_050": (64, "act2:avg", 1280),
    "mambaout_femto": (64, "head.pre_logits.norm:flatten", 1152),
    "maxxvitv2_nano_rw_256": (256, "head.global_pool.pool:avg", 768),
    "mixer_s32_224": (64, "mean:flatten", 512),
    "mobilenetv3_small_050": (64, "act2:avg", 1024),
    "mobilenetv4_conv_small_050": (64, "norm_head.act:avg", 1280),
    "nf_resnet26": (64, "head.global_pool.pool:avg", 2048),
    "pit_ti_224": (224, "norm:avg", 256),
    "regnety_002": (64, "head.global_pool.pool:avg", 368),
    "resnetblur18": (64, "global_pool.pool:avg", 512),
    "resnetv2_18": (64, "head.global_pool.pool:avg", 512),
    "swin_tiny_patch4_window7_224": (224, "head.global_pool:flatten", 768),
    "swinv2_tiny_window8_256": (256, "head.global_pool:flatten", 768),
    "tf_efficientnet_b0": (64, "global_pool:flatten", 1280),
    "vit_base_patch16_siglip_224": (64, "head.embedding.clone:flatten", 768),
    "vit_betwixt_patch16_reg1_gap_256": (64, "fc_norm:flatten", 640),
    "vit_small_patch14_dinov2": (56, "head.embedding.clone:flatten", 384),
    "vit_small_patch16_dinov3": (64, "head.embedding:flatten", 384),
    "xcit_nano_12_p16_224": (64, "norm:cls", 128),
}


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def without_timm(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)


def record_of(name, size):
    return dataclasses.replace(
        find_backbone(f"timm:{name}").preprocess, resize="squash", resize_size=size, image_size=size
    )


def two_images(record):
    """Give two images as we take them, and normalised as timm takes them."""
    shape = (2, record.image_size, record.image_size, 3)
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (record.mean, record.std))
    return pixels, (images - mean) / std


def theirs_of(timm, name, size, seed=5, **options):
    """Timm's network with the weights of a seed."""
    if timm.models.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = size
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(name, **options).eval()


def pre_logits(network, images):
    with torch.no_grad():
        return network.forward_head(network.forward_features(images), pre_logits=True).flatten(1).numpy()


def only_rows(network, pixels):
    (layer,) = network.layers
    return network.embed(pixels)[layer.name]


def relative_error(ours, theirs):
    return (np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max()


class TestWithoutTimm:
    def test_a_name_with_the_prefix_says_what_to_install(self, without_timm):
        with pytest.raises(BackboneError, match=r"'timm:resnet50d' needs timm.*pip install timm"):
            find_backbone("timm:resnet50d")

    def test_every_other_name_does_without(self, without_timm):
        assert find_backbone("resnet18").provider == "torchvision"
        assert "resnet18" in list_backbones()
        with pytest.raises(UnknownNameError, match="Did you mean 'resnet18'"):
            find_backbone("resnet188")

    def test_the_list_of_backbones_mentions_it(self, without_timm):
        result = CliRunner().invoke(command, ["resnet18"])
        assert result.stdout == "resnet18\n"
        assert "timm:NAME" in result.stderr


class TestNames:
    def test_near_names_are_given(self, timm):
        with pytest.raises(UnknownNameError, match="'timm:resnet50d'"):
            find_backbone("timm:resnet50dd")

    def test_an_unknown_tag_is_an_unknown_name(self, timm):
        with pytest.raises(UnknownNameError, match=r"'timm:resnet18\.a1_in1k'"):
            find_backbone("timm:resnet18.a1_in1kk")

    def test_a_tag_has_its_own_record(self, timm):
        names = (
            "timm:vit_base_patch16_clip_384.laion2b_ft_in12k_in1k",
            "timm:vit_base_patch16_clip_224.openai",
        )
        first, second = (find_backbone(name) for name in names)
        assert (first.preprocess.resize, first.input_size) == ("squash", 384)
        assert (second.preprocess.resize, second.input_size) == ("crop", 224)
        assert first.default_weights == "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k"

    def test_classes_are_named_where_timm_knows_them(self, timm):
        names = find_backbone("timm:resnet18.a1_in1k").categories()
        assert (len(names), names[0]) == (1000, "tench, Tinca tinca")
        assert find_backbone("timm:vit_small_patch14_dinov2").categories() is None

    def test_looking_a_network_up_draws_no_random_numbers(self, timm, monkeypatch):
        create_model = timm.create_model

        def draw_and_create(name):
            torch.rand(1, device="cpu")
            return create_model(name)

        monkeypatch.setattr(timm, "create_model", draw_and_create)
        provider._facts.cache_clear()
        before = torch.random.get_rng_state()
        find_backbone("timm:vit_tiny_patch16_224")
        assert torch.equal(before, torch.random.get_rng_state())


CONFIGS = [
    {"crop_pct": 0.875, "interpolation": "bilinear"},
    {"crop_pct": 0.95, "interpolation": "bicubic"},
    {"crop_pct": 1.0, "interpolation": "nearest"},
    {"crop_pct": 0.9, "input_size": (3, 299, 299)},
    {"crop_pct": 1.0, "crop_mode": "squash"},
    {"crop_pct": 1.0, "crop_mode": "border", "mean": (0.5, 0.2, 0.9)},
]


class TestPreprocessing:
    @pytest.mark.parametrize("config", CONFIGS, ids=str)
    @pytest.mark.parametrize("size", [(500, 375), (375, 500), (320, 321), (64, 48), (1000, 90)], ids=str)
    def test_pixels_are_those_of_timm(self, timm, config, size):
        config = timm.models.PretrainedCfg(**config)
        transform = timm.data.create_transform(
            **timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
        )
        geometry = transform.transforms[:-2]  # the rest makes a tensor and normalises it
        pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        expected = image = Image.fromarray(pixels)
        for step in geometry:
            expected = step(expected)
        ours = prepare(image, provider._preprocess("timm:x", config))
        np.testing.assert_array_equal(ours, np.asarray(expected))

    def test_mean_and_deviation_are_taken_over(self, timm):
        config = timm.models.PretrainedCfg(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
        record = provider._preprocess("timm:x", config)
        assert (record.mean, record.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))

    def test_a_squashed_image_keeps_its_border(self, timm):
        record = provider._preprocess("timm:x", timm.models.PretrainedCfg(crop_pct=0.9, crop_mode="squash"))
        assert (record.resize, record.resize_size, record.image_size) == ("squash", 224, 224)

    def test_what_cannot_be_had_is_refused(self, timm):
        with pytest.raises(BackboneError, match="1024×768 pixels, expected 3 and a square"):
            provider._preprocess("timm:x", timm.models.PretrainedCfg(input_size=(3, 1024, 768)))
        with pytest.raises(BackboneError, match="interpolation 'lanczos', expected one of nearest"):
            provider._preprocess("timm:x", timm.models.PretrainedCfg(interpolation="lanczos"))


class TestWeights:
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_file_for_other_classes_fits(self, timm, tmp_path, suffix):
        theirs = theirs_of(timm, "resnet18", 64, seed=8, num_classes=7)
        path = tmp_path / f"weights{suffix}"
        if suffix == ".pth":
            torch.save({"state_dict": theirs.state_dict()}, path)
        else:
            save_file(theirs.state_dict(), path)
        record = record_of("resnet18", 64)
        network = load_network(
            "timm:resnet18", weights=path, precision="fp32", device="cpu", preprocess=record
        )
        pixels, images = two_images(record)
        assert relative_error(only_rows(network, pixels), pre_logits(theirs, images)) < 1e-5
        assert "fc.weight is (7, 512), expected (1000, 512)" in network.notes[0]

    def test_a_file_of_a_network_without_classes_fits_wholly(self, timm, tmp_path):
        name = "convnextv2_atto.fcmae"
        theirs = theirs_of(timm, name, 64, seed=8)
        path = tmp_path / "weights.pth"
        torch.save(theirs.state_dict(), path)
        record = record_of(name, 64)
        network = load_network(
            f"timm:{name}", weights=path, precision="fp32", device="cpu", preprocess=record
        )
        pixels, images = two_images(record)
        with torch.no_grad():
            expected = theirs(images).numpy()
        assert relative_error(only_rows(network, pixels), expected) < 1e-5
        assert not network.notes
        with pytest.raises(WeightsError, match="do not fit 'timm:resnet18'"):
            load_network("timm:resnet18", weights=path)

    def test_the_default_is_what_timm_loads(self, timm, monkeypatch, capsys):
        theirs = theirs_of(timm, "resnet18", 64, seed=9)
        asked = []

        def create_model(name, pretrained=False):
            asked.append((name, pretrained, os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")))
            sys.stdout.write("Downloading")
            return theirs

        backbone = find_backbone("timm:resnet18.a1_in1k")
        monkeypatch.setattr(timm, "create_model", create_model)
        weights = resolve_weights(backbone)
        assert capsys.readouterr().out == ""
        assert asked == [("resnet18.a1_in1k", True, "1")]
        assert (weights.kind, weights.origin) == ("hub", "resnet18.a1_in1k")
        assert torch.equal(weights.state["fc.weight"], theirs.fc.weight)
        monkeypatch.undo()
        again = resolve_weights(find_backbone("timm:resnet18"), "none", seed=9)
        assert weights.digest == again.digest

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (
                FileNotFoundError("no connection"),
                r"resnet18\.a1_in1k of .* could not be downloaded.*--weights FILE",
            ),
            (RuntimeError("truncated"), r"timm could not read the weights resnet18\.a1_in1k.*Delete them"),
        ],
        ids=["network", "file"],
    )
    def test_a_download_that_fails_says_what_to_do(self, timm, monkeypatch, error, text):
        backbone = find_backbone("timm:resnet18.a1_in1k")

        def create_model(name, pretrained=False):
            raise error

        monkeypatch.setattr(timm, "create_model", create_model)
        with pytest.raises(WeightsError, match=text):
            resolve_weights(backbone)

    def test_a_network_without_published_weights_says_so(self, timm):
        name = next(
            n for n in timm.list_models("resnet*") if not timm.models.get_pretrained_cfg(n).has_weights
        )
        backbone = find_backbone(f"timm:{name}")
        assert backbone.default_weights is None
        with pytest.raises(WeightsError, match="timm has no weights for"):
            resolve_weights(backbone)

    def test_no_code_in_a_file_is_run(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
        path = tmp_path / "weights.bin"
        torch.save({"weight": Touch(tmp_path / "ran")}, path)
        with provider._tensors_only(), pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=False)
        assert not (tmp_path / "ran").exists()
        assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
        assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ

    def test_random_weights_follow_the_seed(self, timm):
        backbone = find_backbone("timm:vit_tiny_patch16_224")
        first, again, other = (resolve_weights(backbone, "none", seed=seed) for seed in (1, 1, 2))
        assert first.identity == again.identity
        assert first.digest != other.digest


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def assert_penultimate_is_pre_logits(timm, name, size, layer, width):
    record = record_of(name, size)
    ours = load_network(
        f"timm:{name}", weights="none", seed=5, precision="fp32", device="cpu", preprocess=record
    )
    assert [(info.name, info.dim) for info in ours.layers] == [(layer, width)]
    pixels, images = two_images(record)
    assert relative_error(only_rows(ours, pixels), pre_logits(theirs_of(timm, name, size), images)) < 1e-5


@pytest.mark.parametrize("name", QUICK)
def test_the_penultimate_layer_is_what_timm_calls_pre_logits(timm, name):
    assert_penultimate_is_pre_logits(timm, name, *QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_penultimate_layer_of_every_family_is_what_timm_calls_pre_logits(timm, name):
    assert_penultimate_is_pre_logits(timm, name, *SLOW[name])
