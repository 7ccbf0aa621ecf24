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

HEADS = ["logreg", "linear-svm", "rbf-svm"]


@pytest.fixture(params=HEADS)
def run(request, make_photos, tmp_path):
    root = make_photos()
    store = featx.extract(root, tmp_path / "x.h5", backbone="pixels", image_size=8)
    results = featx.fit(store, heads=[request.param], cv=3, jobs=1, output=tmp_path / "run")
    return root, results, tmp_path / "run" / "model.featx"


@pytest.fixture
def path(make_photos, tmp_path):
    store = featx.extract(make_photos(), tmp_path / "x.h5", backbone="pixels", image_size=8)
    featx.fit(store, heads=["logreg"], cv=3, jobs=1, output=tmp_path / "run")
    return tmp_path / "run" / "model.featx"


def rewrite(path, **members):
    """Replace members of the zip."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents |= {name.replace("_", ".", 1): data for name, data in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


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
        featx.fit(store, heads=["logreg"], cv=3, jobs=1, output=tmp_path / "run")
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
