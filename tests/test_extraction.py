import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from pictures import photo, png
from PIL import Image

import featx
from featx.canaries import CANARIES
from featx.errors import (
    BackboneError,
    DamagedStoreError,
    FeatxError,
    ImageError,
    NotAStoreError,
    OverflowStoreError,
    SourceError,
    SpaceMismatchError,
    StoreLockedError,
    TooManySkippedError,
    UnknownNameError,
    WeightsError,
)
from featx.images.geometry import prepare
from featx.records import Preprocess

SQUASH = Preprocess("squash", 32, 32, "bilinear", (0, 0, 0), (1, 1, 1))


def extract(source, store, **options):
    return featx.extract(source, store, **{"backbone": "pixels", "store_dtype": "float16", **options})


def expected(path):
    """What the backbone ``pixels`` must give, made by other means."""
    return prepare(Image.open(path).convert("RGB"), SQUASH) / 255


class TestStore:
    def test_holds_names_labels_splits_digests_and_numbers(self, make_photos, tmp_path):
        root = make_photos(splits={"train": 3, "val": 2, "test": 1})
        store = extract(root, tmp_path / "x.h5", store_dtype="float32", batch_size=4)
        files = sorted(root.rglob("*.png"))
        assert store.names == [path.relative_to(root).as_posix() for path in files]
        assert store.y.tolist() == [path.parent.name for path in files]
        assert store.splits.tolist() == [path.parent.parent.name for path in files]
        for row, path in enumerate(files):
            assert store.digests[row].tobytes() == hashlib.sha256(path.read_bytes()).digest()
            image = store.X("flatten")[row].reshape(3, 32, 32).transpose(1, 2, 0)
            np.testing.assert_allclose(image, expected(path), atol=1e-6)
        assert store.summary == dataclasses.replace(store.summary, computed=12, reused=0, skipped=0)

    def test_the_space_says_all_that_changes_the_numbers(self, make_photos, tmp_path):
        store = extract(make_photos(), tmp_path / "x.h5", image_size=16, resize="pad")
        assert store.space.provider == "pixels"
        assert store.space.preprocess["resize"] == "pad"
        assert store.space.preprocess["image_size"] == 16
        assert store.space.is_reference
        assert store.meta["request"]["backbone"] == "pixels"
        assert store.X("flatten").shape == (40, 16 * 16 * 3)

    def test_several_layers_come_from_one_pass(self, make_photos, tmp_path, embedded):
        store = featx.extract(
            make_photos(splits={"train": 4}),
            tmp_path / "x.h5",
            backbone="squeezenet1_1",
            weights="none",
            image_size=64,
            layers=["features.5:max", "penultimate", "features.5:avg"],
            batch_size=8,
            workers=1,
            precision="fp32",
            store_dtype="float16",
        )
        assert [layer.node for layer in store.layers] == ["features.5", "features.12.cat", "features.5"]
        assert embedded == [8]
        assert (store.X("features.5:max") >= store.X("features.5:avg")).all()


class TestRunAgain:
    @pytest.fixture
    def first(self, make_photos, tmp_path, embedded):
        root, path = make_photos(splits={"train": 6}), tmp_path / "x.h5"
        extract(root, path, batch_size=4)
        assert sum(embedded) == 12
        embedded.clear()
        return root, path

    def test_nothing_changed(self, first, embedded):
        before = first[1].stat().st_mtime_ns
        store = extract(*first, batch_size=4)
        assert embedded == []
        assert store.summary.reused == 12
        assert first[1].stat().st_mtime_ns == before

    def test_nothing_changed_loads_no_torch(self, first):
        code = (
            "import sys, featx;"
            f"store = featx.extract({str(first[0])!r}, {str(first[1])!r},"
            " backbone='pixels', store_dtype='float16');"
            "print(len(store), store.summary.computed, 'torch' in sys.modules, 'sklearn' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["12", "0", "False", "False"]

    def test_only_new_and_changed_bytes_are_computed(self, first, embedded):
        root, path = first
        (root / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        (root / "train/bees/000.png").write_bytes(png(photo("bees", 78)))
        (root / "train/bees/001.png").rename(root / "train/ants/moved.png")
        (root / "train/bees/002.png").unlink()
        store = extract(root, path)
        assert store.summary.computed == 2
        assert sum(embedded) == 2 + CANARIES
        assert len(store) == 12
        row = store.names.index("train/ants/moved.png")
        assert store.y[row] == "ants"
        for name in ("train/ants/new.png", "train/bees/000.png", "train/ants/moved.png"):
            image = store.X("flatten")[store.names.index(name)].reshape(3, 32, 32).transpose(1, 2, 0)
            np.testing.assert_allclose(image, expected(root / name), atol=1e-3)

    def test_same_size_and_time_is_trusted_unless_rehash(self, first, embedded):
        root, path = first
        victim = root / "train/ants/000.png"
        status, data = victim.stat(), bytearray(victim.read_bytes())
        other = png(Image.open(victim).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        if len(other) > len(data):
            victim, (status, data) = None, (None, None)
            pytest.fail("the flipped picture must not be longer; choose another seed")
        victim.write_bytes(other + b"\0" * (len(data) - len(other)))
        os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
        extract(root, path)
        assert embedded == []
        assert extract(root, path, rehash=True).summary.computed == 1
        assert sum(embedded) == 1 + CANARIES

    def test_a_layer_is_added(self, make_photos, tmp_path, embedded):
        root, path = make_photos(splits={"train": 3}), tmp_path / "x.h5"
        options = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 64, "store_dtype": "float16"}
        options["precision"] = "fp32"
        featx.extract(root, path, layers=["features.5:avg"], **options)
        first = np.array(featx.FeatureStore(path).X("features.5"))
        store = featx.extract(root, path, layers=["features.9:avg"], **options)
        assert {layer.name for layer in store.layers} == {"features.5:avg", "features.9:avg"}
        np.testing.assert_array_equal(store.X("features.5"), first)
        assert sum(embedded) == 12 + CANARIES
        featx.extract(root, path, layers=["features.5:avg"], **options)
        assert sum(embedded) == 12 + CANARIES

    def test_new_images_get_the_layers_that_the_others_have(self, make_photos, tmp_path):
        root, path = make_photos(splits={"train": 3}), tmp_path / "x.h5"
        options = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 64, "store_dtype": "float16"}
        featx.extract(root, path, layers=["features.5:avg", "penultimate"], **options)
        (root / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        store = featx.extract(root, path, **options)
        assert {layer.name for layer in store.layers} == {"features.5:avg", "features.12.cat:avg"}
        assert store.summary.computed == 1

    def test_a_touched_file_is_not_computed_again(self, first, embedded):
        root, path = first
        for file in root.rglob("*.png"):
            os.utime(file, ns=(0, 1_700_000_000_000_000_000))
        assert extract(root, path).summary.reused == 12
        assert embedded == []

    def test_files_of_another_folder_are_not_trusted_by_size_and_time(self, tmp_path):
        for name, colour in (("a", 10), ("b", 200)):
            for label in ("ants", "bees"):
                folder = tmp_path / name / label
                folder.mkdir(parents=True)
                Image.new("RGB", (8, 8), (colour, 0, 0)).save(folder / "1.bmp")
                os.utime(folder / "1.bmp", ns=(0, 10**18))
        extract(tmp_path / "a", tmp_path / "x.h5")
        store = extract(tmp_path / "b", tmp_path / "x.h5")
        assert store.X("flatten")[:, 0] == pytest.approx(200 / 255, abs=1e-3)

    def test_a_file_that_changed_behind_its_time_leaves_its_twin_a_row(self, make_photos, tmp_path):
        root, path = make_photos(splits={"train": 2}), tmp_path / "x.h5"
        one, twin = root / "train/ants/000.png", root / "train/bees/twin.png"
        shutil.copy(one, twin)
        options = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 64, "workers": 1}
        featx.extract(root, path, layers=["features.5:avg"], **options)
        status = one.stat()
        other = png(photo("ants", 99, (20, 20)))
        one.write_bytes(other.ljust(status.st_size, b"\0"))
        os.utime(one, ns=(0, status.st_mtime_ns))
        assert one.stat().st_size == status.st_size
        store = featx.extract(root, path, layers=["features.9:avg"], **options)
        alone = featx.extract([one, twin], tmp_path / "y.h5", layers=["features.9:avg"], **options)
        rows = [store.names.index("train/ants/000.png"), store.names.index("train/bees/twin.png")]
        np.testing.assert_allclose(store.X("features.9")[rows], alone.X("features.9"), rtol=0.05, atol=1e-3)
        assert (store.digests[rows[0]] != store.digests[rows[1]]).any()

    def test_other_versions_or_a_network_of_the_users_are_looked_at_again(self, first, monkeypatch, embedded):
        from featx import extraction, reuse

        real = extraction.environment()
        for module in (extraction, reuse):
            monkeypatch.setattr(module, "environment", lambda: {**real, "versions": {"torch": "99"}})
        loaded = []
        from featx.backbones import network

        original = network.load_network
        monkeypatch.setattr(network, "load_network", lambda *a, **k: loaded.append(1) or original(*a, **k))
        assert extract(*first).summary.reused == 12
        assert loaded == [1]
        extract(*first)
        assert loaded == [1]

    def test_an_unchanged_store_still_answers_to_strict_and_max_skip(self, make_photos, tmp_path):
        root = make_photos(splits={"train": 5})
        (root / "train/ants/000.png").write_bytes(b"x")
        extract(root, tmp_path / "x.h5", max_skip=0.5)
        with pytest.raises(ImageError, match="without --strict"):
            extract(root, tmp_path / "x.h5", max_skip=0.5, strict=True)
        with pytest.raises(TooManySkippedError, match="--max-skip 0"):
            extract(root, tmp_path / "x.h5", max_skip=0.0)

    def test_layers_that_are_there_cost_nothing_however_they_are_asked_for(self, make_photos, tmp_path):
        root, path = make_photos(splits={"train": 3}), tmp_path / "x.h5"
        options = {"backbone": "featx-tiny", "store_dtype": "float16"}
        featx.extract(root, path, **options)
        featx.extract(root, path, layers=["layer3.add"], **options)
        before = path.stat().st_mtime_ns
        for layers in ([], ["layer3.add"], ["penultimate"], ["layer3.add:avg", "avgpool:avg"]):
            featx.extract(root, path, layers=layers, **options)
        assert path.stat().st_mtime_ns == before

    def test_what_was_imported_is_another_space(self, make_photos, tmp_path):
        featx.FeatureStore.from_arrays(tmp_path / "x.h5", np.eye(3, dtype=np.float32), backbone="pixels")
        with pytest.raises(SpaceMismatchError, match="--overwrite"):
            extract(make_photos(splits={"train": 2}), tmp_path / "x.h5")

    def test_a_damaged_index_says_how_to_replace_it(self, first):
        root, path = first
        with h5py.File(path) as file:
            place = file["images/label"].id.get_offset()
        data = bytearray(path.read_bytes())
        data[place : place + 16] = b"\xff" * 16
        path.write_bytes(data)
        with pytest.raises(DamagedStoreError, match="--overwrite"):
            extract(root, path)
        assert len(extract(root, path, overwrite=True)) == 12

    def test_nothing_is_loaded_for_what_cannot_be_written(self, first, monkeypatch):
        from featx.backbones import network
        from featx.store.locking import WriterLock

        monkeypatch.setattr(network, "load_network", lambda *_, **__: pytest.fail("loaded"))
        root, path = first
        (root / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        lock = WriterLock(path)
        lock.acquire()
        with pytest.raises(StoreLockedError, match="is being written by process"):
            extract(root, path)
        lock.release()
        with pytest.raises(SpaceMismatchError, match="backbone is 'pixels' there and 'resnet18' now"):
            extract(root, path, backbone="resnet18")

    def test_auto_is_what_an_unfinished_run_or_another_shard_has(self, make_photos, tmp_path, monkeypatch):
        from featx.store.writer import StoreWriter

        root = make_photos(splits={"train": 6})
        options = {"backbone": "featx-tiny", "precision": "bf16", "store_dtype": "float32"}
        featx.extract(root, tmp_path / "shards", shard="0/2", **options)
        assert featx.extract(root, tmp_path / "shards", shard="1/2", backbone="featx-tiny").space.key

        def interrupt(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "finish", interrupt)
            with pytest.raises(KeyboardInterrupt):
                featx.extract(root, tmp_path / "x.h5", **options)
        space = featx.extract(root, tmp_path / "x.h5", backbone="featx-tiny").space
        assert (space.precision, space.store_dtype) == ("bf16", "float32")

    def test_another_space_is_refused_with_both_values(self, first):
        root, path = first
        with pytest.raises(SpaceMismatchError, match=r"image_size.*32.*16|image_size.*16.*32") as caught:
            extract(root, path, image_size=16)
        assert "--overwrite" in str(caught.value)
        assert len(featx.FeatureStore(path).X("flatten")[0]) == 3072
        assert extract(root, path, image_size=16, overwrite=True).X("flatten").shape == (12, 768)

    def test_precision_auto_follows_the_store(self, make_photos, tmp_path):
        root, path = make_photos(splits={"train": 2}), tmp_path / "x.h5"
        options = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 64}
        featx.extract(root, path, precision="fp32", **options)
        (root / "train/ants/new.png").write_bytes(png(photo("ants", 5)))
        assert featx.extract(root, path, **options).space.precision == "fp32"

    def test_a_run_that_broke_off_goes_on_where_it_was(self, make_photos, tmp_path, monkeypatch, embedded):
        from featx.store.writer import StoreWriter

        root = make_photos(splits={"train": 10})
        whole = extract(root, tmp_path / "whole.h5", batch_size=2)
        embedded.clear()
        original, calls = StoreWriter.add, []

        def add(self, *rows, **more):
            calls.append(1)
            if len(calls) == 6:
                raise KeyboardInterrupt
            original(self, *rows, **more)

        monkeypatch.setattr(StoreWriter, "add", add)
        with pytest.raises(KeyboardInterrupt):
            extract(root, tmp_path / "broken.h5", batch_size=2)
        assert not (tmp_path / "broken.h5").exists()
        embedded.clear()
        monkeypatch.setattr(StoreWriter, "add", original)
        store = extract(root, tmp_path / "broken.h5", batch_size=2)
        assert store.summary.computed == 10
        assert sum(embedded) == 10 + CANARIES
        assert store.names == whole.names
        np.testing.assert_array_equal(store.digests, whole.digests)
        np.testing.assert_array_equal(store.X("flatten"), whole.X("flatten"))
        assert not (tmp_path / "broken.h5.parts").exists()


class TestSameImageSameRow:
    def test_whatever_the_batch_size_order_and_workers(self, make_photos, tmp_path):
        root = make_photos(splits={"train": 6})
        files = sorted(root.rglob("*.png"))
        options = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 64}
        options |= {"precision": "fp32", "store_dtype": "float32"}
        one = featx.extract(files, tmp_path / "1.h5", batch_size=1, workers=1, **options).X("features.12.cat")
        many = featx.extract(files[::-1], tmp_path / "5.h5", batch_size=5, workers=3, **options)
        difference = np.linalg.norm(one - many.X("features.12.cat")[::-1], axis=1)
        assert (difference <= 1e-5 * np.linalg.norm(one, axis=1)).all()

    def test_identical_images_are_computed_once_and_keep_a_row_each(self, make_photos, tmp_path, embedded):
        root = make_photos(splits={"train": 3})
        for index in range(5):
            shutil.copy(root / "train/ants/000.png", root / f"train/bees/copy{index}.png")
        store = extract(root, tmp_path / "x.h5", batch_size=2)
        assert sum(embedded) == 6
        assert len(store) == 11
        rows = [row for row, name in enumerate(store.names) if "copy" in name or name == "train/ants/000.png"]
        assert len({store.X("flatten")[row].tobytes() for row in rows}) == 1


class TestBadImages:
    def test_one_bad_file_costs_one_line(self, make_photos, tmp_path):
        root = make_photos(splits={"train": 12})
        (root / "train/ants/zzz.gif").write_bytes(b"<html>not found</html>")
        shutil.copy(root / "train/ants/zzz.gif", root / "train/bees/zzz.gif")
        store = extract(root, tmp_path / "x.h5")
        assert len(store) == 24
        assert [item.name for item in store.skipped] == ["train/ants/zzz.gif", "train/bees/zzz.gif"]
        assert all("web page" in item.reason for item in store.skipped)
        assert store.skipped[0].digest == hashlib.sha256(b"<html>not found</html>").digest()
        assert extract(root, tmp_path / "x.h5").summary.computed == 0

    def test_strict_stops_at_the_first(self, make_photos, tmp_path):
        root = make_photos()
        (root / "train/ants/000.png").write_bytes(b"")
        with pytest.raises(ImageError, match=r"train/ants/000\.png: the file is empty"):
            extract(root, tmp_path / "x.h5", strict=True)

    def test_too_many_end_the_run_but_lose_nothing(self, make_photos, tmp_path, embedded):
        root = make_photos(splits={"train": 5})
        for index in (3, 4):
            (root / f"train/bees/00{index}.png").write_bytes(b"x")
        with pytest.raises(TooManySkippedError, match=r"2 of 10 .* --max-skip 0\.1 .*kept"):
            extract(root, tmp_path / "x.h5", batch_size=2)
        assert not (tmp_path / "x.h5").exists()
        embedded.clear()
        store = extract(root, tmp_path / "x.h5", batch_size=2, max_skip=0.3)
        assert (len(store), len(store.skipped)) == (8, 2)
        assert sum(embedded) < 8

    def test_an_embedding_that_is_not_finite(self, make_photos, tmp_path, monkeypatch):
        from featx.backbones.network import Network

        original = Network.embed

        def embed(self, pixels):
            rows = original(self, pixels)
            rows["flatten:flatten"][0, 0] = np.nan
            return rows

        monkeypatch.setattr(Network, "embed", embed)
        store = extract(make_photos(splits={"train": 10}), tmp_path / "x.h5", batch_size=19)
        assert len(store) == 18
        assert [item.reason for item in store.skipped] == [
            "the embedding is not finite (NaN or Inf, computed in fp32)"
        ] * 2


class TestStoreDtype:
    def test_what_float16_cannot_hold_is_stored_as_float32(self, make_photos, tmp_path):
        options = {"backbone": "mobilenet_v2", "weights": "none", "image_size": 64, "precision": "fp32"}
        root = make_photos(splits={"train": 3})
        store = featx.extract(root, tmp_path / "x.h5", **options)
        assert store.space.store_dtype == "float32"
        assert 0 < np.abs(store.X("adaptive_avg_pool2d")).max() < 1e-5
        assert featx.extract(root, tmp_path / "x.h5", **options).summary.computed == 0

    def test_what_it_holds_is_float16(self, make_photos, tmp_path):
        store = extract(make_photos(), tmp_path / "x.h5", store_dtype="auto")
        assert store.space.store_dtype == "float16"

    def test_asked_for_all_the_same_it_is_an_error(self, make_photos, tmp_path):
        options = {"backbone": "mobilenet_v2", "weights": "none", "image_size": 64, "store_dtype": "float16"}
        with pytest.raises(OverflowStoreError, match="--store-dtype float32"):
            featx.extract(make_photos(), tmp_path / "x.h5", **options)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"backbone": "resnet5O"}, UnknownNameError, "'resnet50'"),
            (
                {"backbone": "squeezenet1_1", "weights": "none", "layers": ["feature.5"]},
                UnknownNameError,
                "features",
            ),
            (
                {"backbone": "squeezenet1_1", "weights": "none", "layers": ["features:median"]},
                FeatxError,
                "median",
            ),
            ({"backbone": "squeezenet1_1", "weights": "no-such.pth"}, WeightsError, r"no-such\.pth"),
            ({"device": "cuda:99"}, BackboneError, "cuda:99"),
            ({"batch_size": 0}, FeatxError, "batch size of 0"),
            ({"workers": 0}, FeatxError, "0 workers"),
            ({"resize": "sqash"}, UnknownNameError, "'squash'"),
            ({"store_dtype": "float8"}, UnknownNameError, "'float16'"),
            ({"max_skip": 5}, FeatxError, "between 0 and 1"),
        ],
    )
    def test_say_what_was_got(self, make_photos, tmp_path, options, error, text):
        with pytest.raises(error, match=text):
            extract(make_photos(splits={"train": 1}), tmp_path / "x.h5", **options)

    def test_an_output_that_is_no_store_is_left_alone(self, make_photos, tmp_path):
        (tmp_path / "thesis.h5").write_bytes(b"years of work")
        for overwrite in (False, True):
            with pytest.raises(NotAStoreError, match="is no featx store"):
                extract(make_photos(), tmp_path / "thesis.h5", overwrite=overwrite)
        assert (tmp_path / "thesis.h5").read_bytes() == b"years of work"

    def test_a_source_that_is_not_there(self, tmp_path):
        with pytest.raises(SourceError, match="does not exist"):
            extract(tmp_path / "nothing", tmp_path / "x.h5")


def test_h5py_alone_reads_what_extract_wrote(make_photos, tmp_path):
    import h5py

    root = make_photos(splits={"train": 2})
    extract(root, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file.attrs["featx_format"] == 1
        assert json.loads(file.attrs["space"])["backbone"] == "pixels"
        assert os.fsdecode(file["images/name"][0]) == "train/ants/000.png"
        assert file["images/label"].asstr()[:].tolist() == ["ants", "ants", "bees", "bees"]
        assert file["features/flatten:flatten"].shape == (4, 3072)
        assert file["features/flatten:flatten"].dtype == np.float16
        assert file["images/digest"].shape == (4, 32)


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
@pytest.mark.parametrize(
    ("name", "node", "axes"),
    [
        ("resnet18", "layer2", (2, 3)),
        ("mobilenet_v3_small", "features.8", (2, 3)),
        ("swin_t", "features.3", (1, 2)),
        ("convnext_tiny", "features.5.0.block.2", (1, 2)),
        ("vit_b_32", "encoder.layers.encoder_layer_3.mlp", None),
    ],
)
def test_rows_are_those_of_torchvisions_own_transform_and_extractor_one_image_at_a_time(
    name, node, axes, tmp_path
):
    """From the encoded file to the stored row, nothing of ours in between."""
    import torch
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, size in enumerate([(300, 260), (231, 400), (224, 224)]):
        photo("ants", seed, size).save(folder / f"{seed}.jpg", quality=90)
    store = featx.extract(
        folder,
        tmp_path / "x.h5",
        backbone=name,
        weights="none",
        seed=3,
        layers=[f"{node}:avg"],
        precision="fp32",
        store_dtype="float32",
        batch_size=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = models.get_model(name).eval()
    transform = models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    extractor = create_feature_extractor(network, [node]).eval()
    for file, row in zip(sorted(folder.iterdir()), store.X(node), strict=True):
        with torch.inference_mode(), Image.open(file) as image:
            (value,) = extractor(transform(image)[None]).values()
        # Of tokens, the class token is left out.
        expected = (value[:, 1:].mean(1) if axes is None else value.mean(axes))[0].numpy()
        assert np.linalg.norm(row - expected) <= 1e-4 * np.linalg.norm(expected)
