import pickle

import numpy as np
import pytest
from pictures import photo, png
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import featx
from featx.errors import ImageError

IMAGES = [photo(label, seed) for seed in range(10) for label in ("ants", "bees")]
LABELS = ["ants", "bees"] * 10


def test_in_a_pipeline_and_cross_validation():
    scores = cross_val_score(
        make_pipeline(featx.FeatureExtractor("pixels", image_size=8), LogisticRegression(max_iter=1000)),
        IMAGES,
        LABELS,
        cv=2,
    )
    assert scores.shape == (2,)
    assert (scores >= 0.5).all()


def test_rows_are_those_of_extract(make_photos, tmp_path):
    root = make_photos(splits={"train": 3})
    options = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 64, "precision": "fp32"}
    store = featx.extract(root, tmp_path / "x.h5", store_dtype="float32", **options)
    rows = featx.FeatureExtractor(**options).fit_transform(sorted(root.rglob("*.png")))
    np.testing.assert_allclose(rows, store.X("features.12.cat"), rtol=1e-4, atol=1e-6)


def test_several_layers_side_by_side_with_names():
    extractor = featx.FeatureExtractor(
        "squeezenet1_1", weights="none", image_size=64, layers=["features.5:avg", "features.9:max"]
    )
    frame_names = extractor.fit(IMAGES[:1]).get_feature_names_out()
    rows = extractor.transform(IMAGES[:3])
    assert rows.shape == (3, len(frame_names)) == (3, extractor.n_features_out_)
    assert frame_names[0] == "features.5:avg_0"
    assert frame_names[-1].startswith("features.9:max_")


def test_clone_params_and_pickle_without_weights():
    extractor = featx.FeatureExtractor("squeezenet1_1", weights="none", image_size=64, seed=1).fit(IMAGES[:1])
    again = pickle.loads(pickle.dumps(extractor))
    assert len(pickle.dumps(extractor)) < 2000
    np.testing.assert_allclose(again.transform(IMAGES[:2]), extractor.transform(IMAGES[:2]), rtol=1e-5)
    assert clone(extractor).get_params() == extractor.get_params()
    with pytest.raises(NotFittedError):
        clone(extractor).transform(IMAGES[:1])


def test_a_changed_parameter_is_not_answered_by_the_old_network():
    extractor = featx.FeatureExtractor("pixels", image_size=8).fit(IMAGES[:1])
    assert extractor.transform(IMAGES[:1]).shape == (1, 192)
    extractor.set_params(image_size=4).fit(IMAGES[:1])
    assert extractor.transform(IMAGES[:1]).shape == (1, 48)


def test_parameters_changed_after_fit_ask_for_a_new_fit():
    extractor = featx.FeatureExtractor("pixels", image_size=8).fit(IMAGES[:1])
    extractor.set_params(image_size=4)
    with pytest.raises(featx.FeatxError, match=r"changed since fit \(image_size: 8 then, 4 now\); fit again"):
        extractor.transform(IMAGES[:1])
    again = pickle.loads(pickle.dumps(extractor))
    with pytest.raises(featx.FeatxError, match="changed since fit"):
        again.get_feature_names_out()
    again.set_params(image_size=8, batch_size=1, device="cpu")
    assert again.transform(IMAGES[:1]).shape == (1, 192)


def test_one_layer_may_be_a_plain_name():
    options = {"weights": "none", "image_size": 64}
    extractor = featx.FeatureExtractor("squeezenet1_1", layers="features.5:avg", **options)
    rows = extractor.fit_transform(IMAGES[:2])
    several = featx.FeatureExtractor("squeezenet1_1", layers=["features.5:avg"], **options)
    np.testing.assert_array_equal(rows, several.fit_transform(IMAGES[:2]))
    assert clone(extractor).layers == "features.5:avg"


def test_a_bad_image_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(png(IMAGES[0])[:40])
    with pytest.raises(ImageError, match=r"bad\.png"):
        featx.FeatureExtractor("pixels").fit_transform([IMAGES[0], tmp_path / "bad.png"])
    with pytest.raises(featx.FeatxError, match="No images"):
        featx.FeatureExtractor("pixels").fit(IMAGES[:1]).transform([])
