"""What ``auto`` stands for, seen on a few images; what is seen is kept."""

import sys

import numpy as np
import pytest
from fakenetwork import Engine, OnCores
from pictures import photo, png

import featx
from featx.backbones import placement
from featx.backbones.network import load_network
from featx.images.decoding import POLICY
from featx.images.sources import list_images, open_source
from featx.records import PrecisionCheck, Preprocess
from featx.trial import IMAGES, Trial

# In bf16 a sum near 4096 has steps of 32, so that nothing is left of the small one.
NETWORK = """
import torch
from torch import nn

class Cancels(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 8, 1)

    def forward(self, images):
        return self.second((self.first(images) + 4096.0) - 4096.0).mean((2, 3))

def bears():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
"""


@pytest.fixture
def custom(tmp_path, monkeypatch):
    """A network that does not bear bf16 and one that does, by name; the hardware has units for it."""
    monkeypatch.setattr(placement, "_has_bf16_units", lambda device: True)
    (tmp_path / "network_on_trial.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield {name: f"custom:network_on_trial:{name}" for name in ("Cancels", "bears")}
    sys.modules.pop("network_on_trial", None)


def extract(root, store, backbone, **options):
    given = {"image_size": 32, "device": "cpu", "workers": 1, "batch_size": 8, "store_dtype": "float32"}
    return featx.extract(root, store, backbone=backbone, **given | options)


def rows(store):
    return store.X(store.layers[0].name)


class TestPrecision:
    def test_what_the_network_bears_is_kept_and_written_down(self, make_photos, tmp_path, custom):
        root, path = make_photos(splits={"": 6}), tmp_path / "x.h5"
        store = extract(root, path, custom["bears"])
        check = store.meta["request"]["precision_check"]
        assert store.space.precision == check["precision"] == "bf16"
        assert check["images"] == IMAGES == 8
        assert 0.998 <= check["cosine_worst"] <= check["cosine_median"] <= 1
        assert store.summary.notes == ()
        exact = extract(root, tmp_path / "exact.h5", custom["bears"], precision="fp32")
        assert not np.array_equal(rows(store), rows(exact))

        # Known after a run that has nothing to do, one that adds images, and one that adds a layer.
        again = extract(root, path, custom["bears"])
        assert again.summary.computed == 0
        assert again.meta["request"]["precision_check"] == check
        (root / "ants" / "new.png").write_bytes(png(photo("ants", 99)))
        more = extract(root, path, custom["bears"])
        assert more.summary.computed == 1
        assert more.space == store.space
        assert more.meta["request"]["precision_check"] == check
        layers = extract(root, path, custom["bears"], layers=["1"])
        assert layers.meta["request"]["precision_check"] == check
        assert layers.space.precision == "bf16"

    def test_what_it_does_not_bear_is_computed_in_fp32(self, make_photos, tmp_path, custom):
        root, path = make_photos(splits={"": 6}), tmp_path / "x.h5"
        store = extract(root, path, custom["Cancels"])
        exact = extract(root, tmp_path / "exact.h5", custom["Cancels"], precision="fp32")
        assert store.space == exact.space
        assert store.space.precision == "fp32"
        np.testing.assert_array_equal(rows(store), rows(exact))
        check = store.meta["request"]["precision_check"]
        assert check["precision"] == "bf16"
        assert check["cosine_worst"] < 0.995
        (note,) = store.summary.notes
        assert note.startswith("in bf16 the embeddings would be too far from fp32 (cosine ")
        assert "for the worst of 8 images" in note
        assert "precision_check" not in exact.meta["request"]
        assert exact.summary.notes == ()

        (root / "ants" / "new.png").write_bytes(png(photo("ants", 99)))
        more = extract(root, path, custom["Cancels"])
        assert (more.summary.computed, more.summary.notes) == (1, ())
        assert more.space == store.space
        assert more.meta["request"]["precision_check"] == check

    def test_what_was_asked_for_is_not_questioned(self, make_photos, tmp_path, custom):
        # The dtype of the store is tried all the same.
        options = {"precision": "bf16", "store_dtype": "auto"}
        store = extract(make_photos(splits={"": 2}), tmp_path / "x.h5", custom["Cancels"], **options)
        assert store.space.precision == "bf16"
        assert "precision_check" not in store.meta["request"]
        assert store.summary.notes == ()

    @pytest.mark.parametrize("name", ["bears", "Cancels"])
    def test_the_network_is_compared_once(self, custom, name):
        network = load_network(custom[name], device="cpu", keep_exact=True)
        side = network.preprocess.image_size
        pixels = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
        check = network.check_precision(pixels)
        assert check == PrecisionCheck("bf16", 4, check.cosine_median, check.cosine_worst)
        assert network.precision == ("bf16" if name == "bears" else "fp32")
        assert network.check_precision(pixels) is None
        assert load_network(custom[name], device="cpu").check_precision(pixels) is None
        exact = load_network(custom[name], device="cpu", precision="fp32", keep_exact=True)
        assert exact.check_precision(pixels) is None
        if name == "Cancels":
            layer = network.layers[0].name
            np.testing.assert_array_equal(network.embed(pixels)[layer], exact.embed(pixels)[layer])


class Network(OnCores):
    """Rows of ``value``; what it saw."""

    preprocess = Preprocess("squash", 8, 8, "bilinear", (0,) * 3, (1,) * 3)

    def __init__(self, value=1.0):
        self.engine, self.value, self.seen = Engine(), value, []

    def check_precision(self, pixels, may_change=True):
        self.seen.append(pixels)
        return PrecisionCheck("bf16", len(pixels), 1.0, 1.0)

    def embed(self, pixels):
        assert len(pixels)
        return {"one:flatten": np.ones((len(pixels), 3), np.float32), "two:flatten": self.rows(pixels)}

    def rows(self, pixels):
        return np.full((len(pixels), 3), self.value, np.float32)


def trial(network, source):
    opened = open_source(source)
    return Trial(network, opened, list_images(opened), POLICY)


class TestImages:
    def images(self, count):
        numbers = np.arange(count, dtype=np.uint8)[:, None, None, None]
        return np.broadcast_to(numbers, (count, 8, 8, 3)).copy()

    @pytest.mark.parametrize("count", [1, 7, 8, 9, 200])
    def test_are_taken_from_all_over_the_source(self, count):
        network = Network()
        assert trial(network, self.images(count)).check_precision().images == min(count, 8)
        seen = network.seen[0][:, 0, 0, 0].tolist()
        assert len(set(seen)) == min(count, 8)
        assert (seen[0], seen[-1]) == (0, count - 1)
        assert seen == sorted(seen)

    def test_bad_ones_are_passed_over(self, make_photos):
        root = make_photos(splits={"": 3})
        (root / "ants" / "bad.png").write_bytes(b"gone")
        network = Network()
        assert trial(network, root).check_precision().images == 6

    def test_none_can_be_used(self, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"gone")
        network = Network()
        tried = trial(network, tmp_path)
        tried.check_precision()
        assert network.seen[0].shape == (0, 8, 8, 3)
        assert tried.choose_store_dtype() == "float16"

    @pytest.mark.parametrize(
        ("value", "dtype"),
        [(1.0, "float16"), (0.0, "float16"), (6e4, "float16"), (1e-9, "float32"), (1e5, "float32")],
    )
    def test_the_dtype_of_the_store_is_what_holds_the_rows(self, value, dtype):
        assert trial(Network(value), self.images(3)).choose_store_dtype() == dtype
