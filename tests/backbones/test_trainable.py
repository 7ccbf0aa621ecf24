import numpy as np
import pytest
import torch
from training_models import noise

from featx.backbones.network import load_network
from featx.backbones.trainable import load_trainable
from featx.errors import BackboneError, UnknownNameError


class TestNetwork:
    @pytest.mark.parametrize("backbone", ["featx-tiny", "squeezenet1_1", "vit_b_32"])
    def test_gives_the_embeddings_of_the_frozen_one(self, backbone):
        options = {
            "weights": "default" if backbone == "featx-tiny" else "none",
            "device": "cpu",
            "precision": "fp32",
            "seed": 3,
        }
        network = load_trainable(backbone, **options)
        frozen = load_network(backbone, **options)
        images = noise(2, side=network.preprocess.image_size)
        with torch.no_grad():
            rows = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(rows, frozen.embed(images)[network.layer.name], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("unfreeze", "trained"),
        [
            ("last:3", {"layer4.bn2", "layer4.shortcut.0", "layer4.shortcut.1"}),
            ("layer4.conv2", {"layer4.conv2", "layer4.bn2", "layer4.shortcut.0", "layer4.shortcut.1"}),
            ("last:1", {"layer4.shortcut.1"}),
        ],
    )
    def test_unfreezes_the_end_only(self, unfreeze, trained):
        network = load_trainable("featx-tiny", unfreeze=unfreeze, device="cpu")
        names = {
            name.removeprefix("_module.").rpartition(".")[0]
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        assert names == trained

    def test_all_unfreezes_every_parameter(self):
        assert all(parameter.requires_grad for parameter in load_trainable("featx-tiny").parameters())

    @pytest.mark.parametrize("train_batchnorm", [False, True])
    def test_batchnorm_learns_statistics_only_when_asked_and_unfrozen(self, train_batchnorm):
        network = load_trainable("featx-tiny", unfreeze="layer4", train_batchnorm=train_batchnorm)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        network.train()
        network(torch.from_numpy(noise(4)).permute(0, 3, 1, 2))
        changed = {name for name, value in network.state_dict().items() if not before[name].equal(value)}
        assert any("running_mean" in name for name in changed) == train_batchnorm
        assert all(name.startswith("_module.layer4.") for name in changed)

    @pytest.mark.parametrize(
        ("unfreeze", "error", "text"),
        [
            ("layer9", UnknownNameError, "'layer4"),
            ("last:0", BackboneError, "K from 1 to"),
            ("last:many", BackboneError, "last:K with K"),
            ("last:999", BackboneError, "K from 1 to"),
            ("avgpool", BackboneError, "unfreeze an earlier node"),
        ],
    )
    def test_what_cannot_be_unfrozen(self, unfreeze, error, text):
        with pytest.raises(error, match=text):
            load_trainable("featx-tiny", unfreeze=unfreeze)

    def test_pixels_have_nothing_to_train(self):
        with pytest.raises(BackboneError, match="nothing to fine-tune"):
            load_trainable("pixels")

    def test_fp16_is_refused(self):
        with pytest.raises(BackboneError, match="expected auto, fp32 or bf16"):
            load_trainable("featx-tiny", precision="fp16")

    def test_the_frozen_part_stays_in_evaluation_mode(self):
        network = load_trainable("featx-tiny", unfreeze="layer4", device="cpu").train()
        modules = dict(network.named_modules())
        assert not modules["_module.layer1.conv1"].training
        assert modules["_module.layer4.conv1"].training

    @pytest.mark.parametrize("unfreeze", ["all", "layer4", "last:3"])
    def test_trunk_and_top_are_the_network(self, unfreeze):
        network = load_trainable("featx-tiny", unfreeze=unfreeze, device="cpu", precision="fp32")
        images = torch.from_numpy(noise(3)).permute(0, 3, 1, 2)
        values = network.trunk(images)
        assert network.has_trunk == (unfreeze != "all")
        assert not any(value.requires_grad for value in values)
        assert network.top(*values).equal(network(images))
        if unfreeze == "layer4":
            assert [value.shape[0] for value in values] == [3]
            assert values[0].shape[-1] < 64
