import io
import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from pictures import photo, png
from PIL import Image

import featx
from featx.errors import ImageError, ModelFileError
from featx.heads import find_head, list_heads, tune
from featx.modelfile import save_model
from featx.records import LayerInfo, Space

HEADS = ["logreg", "linear-svm", "rbf-svm"]


@pytest.fixture(params=HEADS)
def run(request, make_photos, tmp_path):
    root = make_photos()
    store = featx.extract(root, tmp_path / "x.h5", backbone="pixels", image_size=8)
    results = featx.fit(
        store, heads=[request.param], cv=3, jobs=1, learning_curve=False, output=tmp_path / "run"
    )
    return root, results, tmp_path / "run" / "model.featx"


@pytest.fixture
def path(make_photos, tmp_path):
    store = featx.extract(make_photos(), tmp_path / "x.h5", backbone="pixels", image_size=8)
    featx.fit(store, heads=["logreg"], cv=3, jobs=1, learning_curve=False, output=tmp_path / "run")
    return tmp_path / "run" / "model.featx"


def rewrite(path, **members):
    """Replace members of the zip."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents |= {name.replace("_", ".", 1): data for name, data in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def change_manifest(path, change):
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    change(manifest)
    rewrite(path, manifest_json=json.dumps(manifest))


@pytest.mark.parametrize("classes", [("ants", "bees"), ("ants", "bees", "wasps")])
@pytest.mark.parametrize("name", list_heads())
def test_every_head_predicts_the_same_from_its_file(name, classes, tmp_path):
    rng = np.random.default_rng(0)
    y = np.repeat(classes, 8)
    X = (rng.normal(size=(len(y), 6)) + np.repeat(np.eye(3, 6)[: len(classes)] * 3, 8, axis=0)).astype("f4")
    one = {parameter: values[-1:] for parameter, values in find_head(name).grid.items()}
    estimator = tune(name, X, y, grid=one, cv=2).best_estimator_
    save_model(
        tmp_path / "model.featx",
        estimator,
        classes=np.array(classes),
        space=Space("import", "mine", {"digest": "0"}, {}, "none", "fp32", "float32"),
        layer=LayerInfo("embedding", "flatten", 6),
        weights={"spec": "default"},
        card={},
        examples=X,
    )
    loaded = featx.Model.load(tmp_path / "model.featx").estimator_
    np.testing.assert_allclose(loaded.predict_proba(X), estimator.predict_proba(X), atol=1e-6)
    assert loaded.predict(X).tolist() == estimator.predict(X).tolist()


class TestRoundTrip:
    def test_the_file_predicts_what_the_report_said(self, run):
        root, results, path = run
        model = featx.Model.load(path)
        names = [name.removeprefix("test/") for name in results.test_names]
        probabilities = model.predict_proba(root / "test")
        predictions = list(model.stream(root / "test", top=2))
        assert [prediction.name for prediction in predictions] == names
        np.testing.assert_allclose(probabilities, results.predictions[0].probabilities, atol=1e-6)
        predicted = model.predict(root / "test")
        truth = [name.split("/")[0] for name in names]
        assert np.mean(predicted == truth) == results.best_row.test["accuracy"].value
        assert [prediction.labels[0] for prediction in predictions] == predicted.tolist()
        assert all(sum(prediction.probabilities) == pytest.approx(1) for prediction in predictions)

    def test_paths_arrays_and_pil_images_are_the_same_image(self, path, tmp_path):
        image = photo("bees", 5)
        (tmp_path / "one.png").write_bytes(png(image))
        rows = featx.Model.load(path.parent).predict_proba([tmp_path / "one.png", np.asarray(image), image])
        np.testing.assert_allclose(rows[0], rows[1])
        np.testing.assert_allclose(rows[0], rows[2])

    def test_the_card_says_what_it_is(self, path):
        model = featx.Model.load(path)
        assert model.classes_.tolist() == ["ants", "bees"]
        assert model.card["n_images"] == 24
        assert model.card["test"]["accuracy"]["low"] <= model.card["test"]["accuracy"]["value"]
        assert model.space.preprocess["image_size"] == 8

    def test_an_image_that_cannot_be_used(self, path, tmp_path):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "a.png").write_bytes(png(photo("bees", 5)))
        (tmp_path / "new" / "b.png").write_bytes(b"x")
        model = featx.Model.load(path)
        good, bad = model.stream(tmp_path / "new")
        assert good.labels
        assert bad.labels == ()
        assert "not an image" in bad.error
        with pytest.raises(ImageError, match=r"b\.png"):
            model.predict(tmp_path / "new")

    def test_an_embedding_out_of_range_loses_its_image_only(self, path, monkeypatch):
        from featx.backbones.network import Network

        original = Network.embed

        def embed(self, pixels):
            rows = original(self, pixels)["flatten:flatten"]
            scale = np.array([1.0, 1e9, 1e-12, 1.0], np.float32)[: len(rows), None]
            return {"flatten:flatten": rows * scale}

        images = [photo("bees", seed) for seed in range(4)]
        model = featx.Model.load(path)
        assert model.space.store_dtype == "float16"
        expected = model.predict_proba(images)
        monkeypatch.setattr(Network, "embed", embed)
        found = list(model.stream(images, top=2, workers=1))  # one batch
        assert ["does not fit the model's float16" in prediction.error for prediction in found] == [
            False,
            True,
            True,
            False,
        ]
        for index in (0, 3):
            np.testing.assert_allclose(sorted(found[index].probabilities), sorted(expected[index]))
        with pytest.raises(ImageError, match="does not fit the model's float16"):
            model.predict(images * 2)

    def test_the_network_is_built_once_and_not_pickled(self, path, monkeypatch):
        from featx.backbones import network

        calls = []
        original = network.load_network
        monkeypatch.setattr(
            network, "load_network", lambda *args, **options: calls.append(args) or original(*args, **options)
        )
        model = featx.Model.load(path)
        rows = [model.predict_proba([photo("bees", 1)]) for _ in range(3)]
        assert len(calls) == 1
        list(model.stream([photo("bees", 1)], device="cpu"))
        assert len(calls) == 2
        again = pickle.loads(pickle.dumps(model))
        assert b"Network" not in pickle.dumps(model)
        np.testing.assert_array_equal(again.predict_proba([photo("bees", 1)]), rows[0])
        assert len(calls) == 3

    def test_a_model_of_imported_embeddings_says_how_to_predict(self, tmp_path):
        rng = np.random.default_rng(0)
        y = np.repeat(["ants", "bees"], 10)
        X = (rng.normal(size=(20, 4)) + 4 * (y == "bees")[:, None]).astype(np.float32)
        store = featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, y, [f"{row}.jpg" for row in range(20)])
        featx.fit(store, heads=["logreg"], cv=2, jobs=1, learning_curve=False, output=tmp_path / "run")
        model = featx.Model.load(tmp_path / "run")
        with pytest.raises(ModelFileError, match=r"made elsewhere.*estimator_\.predict_proba"):
            model.predict([photo("bees", 1)])
        rows = model.estimator_.predict_proba(X)
        assert np.mean(model.classes_[rows.argmax(axis=1)] == y) == 1


class TestHostileAndBroken:
    def test_a_pickle_is_never_executed(self, path, tmp_path):
        marker = tmp_path / "executed"

        class Evil:
            def __reduce__(self):
                return (open, (str(marker), "w"))

        rewrite(path, head_skops=pickle.dumps(Evil()), check_npz=pickle.dumps(Evil()))
        with pytest.raises(ModelFileError):
            featx.Model.load(path).predict([photo("bees", 1)])
        buffer = io.BytesIO()
        np.savez(buffer, X=np.array([Evil()], dtype=object), probabilities=np.array([Evil()], dtype=object))
        assert not marker.exists()

    def test_a_type_that_is_not_on_the_list_is_named(self, path):
        import skops.io
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer

        rewrite(path, head_skops=skops.io.dumps(make_pipeline(FunctionTransformer(shutil.rmtree))))
        with pytest.raises(ModelFileError, match=r"does not load: .*shutil\.rmtree"):
            featx.Model.load(path).predict([photo("bees", 1)])

    def test_predictions_that_differ_from_those_kept(self, path):
        with zipfile.ZipFile(path) as archive, np.load(io.BytesIO(archive.read("check.npz"))) as check:
            X, probabilities = check["X"], check["probabilities"]
        buffer = io.BytesIO()
        np.savez(buffer, X=X, probabilities=probabilities[:, ::-1])
        rewrite(path, check_npz=buffer.getvalue())
        with pytest.raises(ModelFileError, match="predicts otherwise"):
            featx.Model.load(path).predict([photo("bees", 1)])

    @pytest.mark.parametrize("data", [b"", b"nonsense", png(Image.new("RGB", (2, 2)))])
    def test_something_else(self, tmp_path, data):
        (tmp_path / "x.featx").write_bytes(data)
        with pytest.raises(ModelFileError, match="no model file"):
            featx.Model.load(tmp_path / "x.featx")

    def test_another_format(self, path):
        rewrite(path, manifest_json=json.dumps({"format": "featx.model/9"}))
        with pytest.raises(ModelFileError, match=r"featx\.model/9"):
            featx.Model.load(path)

    def test_truncated(self, path):
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ModelFileError):
            featx.Model.load(path)

    @pytest.mark.parametrize("member", ["manifest.json", "head.skops", "check.npz"])
    def test_any_changed_byte(self, path, tmp_path, member):
        data = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            start = archive.getinfo(member).header_offset
        broken = tmp_path / "broken.featx"
        for offset in range(start, start + 120):
            changed = bytearray(data)
            changed[offset] ^= 0xFF
            broken.write_bytes(changed)
            try:
                _ = featx.Model.load(broken).estimator_
            except ModelFileError:
                continue
            assert offset < start + 30  # times and versions, which nobody reads

    @pytest.mark.parametrize(
        "change",
        [
            lambda manifest: manifest["space"].update(colour="grey"),
            lambda manifest: manifest["space"].pop("decoding"),
            lambda manifest: manifest["space"].update(weights=None),
            lambda manifest: manifest["space"].update(store_dtype="float17"),
            lambda manifest: manifest["space"]["preprocess"].pop("mean"),
            lambda manifest: manifest.update(layer=None),
            lambda manifest: manifest.update(classes=None),
            lambda manifest: manifest.update(card=3),
            lambda manifest: manifest.update(weights={}),
        ],
    )
    def test_a_manifest_that_describes_no_model(self, path, change):
        change_manifest(path, change)
        with pytest.raises(ModelFileError, match="manifest does not describe a model"):
            featx.Model.load(path)


class TestWeights:
    @pytest.fixture
    def moved(self, make_photos, tmp_path):
        import torch
        from torchvision.models import squeezenet1_1

        torch.manual_seed(0)
        file = tmp_path / "weights.pth"
        torch.save(squeezenet1_1().state_dict(), file)
        store = featx.extract(
            make_photos(), tmp_path / "x.h5", backbone="squeezenet1_1", weights=file, image_size=64
        )
        featx.fit(store, heads=["logreg"], cv=3, jobs=1, learning_curve=False, output=tmp_path / "run")
        file.rename(tmp_path / "elsewhere.pth")
        return tmp_path / "run", tmp_path / "elsewhere.pth"

    def test_a_file_that_moved_is_asked_for_and_taken(self, moved):
        run, file = moved
        with pytest.raises(featx.FeatxError, match="--weights FILE"):
            featx.Model.load(run).predict([photo("bees", 1)])
        assert featx.Model.load(run, weights=file).predict([photo("bees", 1)]).shape == (1,)

    def test_other_weights_are_refused(self, moved):
        import torch
        from torchvision.models import squeezenet1_1

        run, file = moved
        torch.save(squeezenet1_1().state_dict(), file)
        with pytest.raises(ModelFileError, match=r"weights\.digest"):
            featx.Model.load(run, weights=file).predict([photo("bees", 1)])


def test_a_model_of_joined_layers_predicts_what_was_measured(make_photos, tmp_path):
    root = make_photos()
    store = featx.extract(
        root,
        tmp_path / "x.h5",
        backbone="featx-tiny",
        layers=["layer2.relu_1:avg", "flatten"],
        precision="fp32",
    )
    first, second = store.layers
    results = featx.fit(
        store, layers=[f"{first.node}+{second.name}"], heads=["logreg"], cv=3, jobs=1, output=tmp_path / "run"
    )
    assert results.best_row.layer == f"{first.name}+{second.name}"
    assert results.best_row.dim == first.dim + second.dim
    model = featx.Model.load(tmp_path / "run")
    assert model.layer.dim == results.best_row.dim
    names = list(results.test_names)
    expected = results.predictions[0].probabilities
    got = model.predict_proba([root / name for name in names])
    np.testing.assert_allclose(got, expected, atol=1e-3)
