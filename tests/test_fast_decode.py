"""``--fast-decode`` from end to end: a space of its own, for stores, models and transformers alike."""

import io
import itertools
import json
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from pictures import photo

import featx
from featx.cli import cli
from featx.errors import FeatxError, ModelFileError, SpaceMismatchError, UnknownNameError
from featx.images.decoding import FAST_POLICY, decode_for
from featx.images.geometry import prepare
from featx.images.loading import load
from featx.images.sources import list_images, open_source
from featx.records import Preprocess

SQUASH = Preprocess("squash", 32, 32, "bilinear", (0, 0, 0), (1, 1, 1))
EXACT = {"backbone": "pixels", "store_dtype": "float32"}
FAST = {**EXACT, "fast_decode": True}


def jpeg(seed):
    """Noise, so large that its decoder scales it by two, and not to whole pixels."""
    buffer = io.BytesIO()
    photo("wasps", seed, (260, 131)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path):
    seeds = itertools.count()
    for split in ("train", "test"):
        for label in ("ants", "bees"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for index in range(6):
                (folder / f"{index}.jpg").write_bytes(jpeg(next(seeds)))
    return tmp_path / "photos"


@pytest.fixture
def store(root, tmp_path):
    return featx.extract(root, tmp_path / "fast.h5", **FAST)


@pytest.fixture
def model(store, tmp_path):
    featx.fit(store, heads=["logreg"], cv=3, jobs=1, learning_curve=False, output=tmp_path / "run")
    return tmp_path / "run" / "model.featx"


def test_the_space_says_so_and_the_rows_are_those_of_scaled_photos(root, store, tmp_path):
    exact = featx.extract(root, tmp_path / "exact.h5", **EXACT)
    assert (store.space.decoding, exact.space.decoding) == ("2+dct", "2")
    assert store.space.differences(exact.space) == {"decoding": ("2+dct", "2")}
    for row, name in enumerate(store.names):
        image, box, *_ = decode_for((root / name).read_bytes(), SQUASH, FAST_POLICY)
        assert image.size == (130, 66)
        pixels = prepare(image, SQUASH, box).transpose(2, 0, 1).ravel() / 255
        np.testing.assert_allclose(store.X("flatten")[row], pixels, atol=1e-6)
    assert np.array_equal(store.digests, exact.digests)
    assert np.abs(store.X("flatten") - exact.X("flatten")).max() > 2 / 255


def test_run_again_it_computes_nothing(root, store, embedded):
    before = store.path.stat().st_mtime_ns
    again = featx.extract(root, store.path, **FAST)
    assert (again.summary.computed, again.summary.reused) == (0, 24)
    assert embedded == []
    assert store.path.stat().st_mtime_ns == before


def test_run_again_otherwise_it_is_refused_before_a_network_is_loaded(root, store, tmp_path, monkeypatch):
    def load_network(*_, **__):
        raise AssertionError("a network was loaded")

    exact = featx.extract(root, tmp_path / "exact.h5", **EXACT)
    with monkeypatch.context() as patch:
        patch.setattr("featx.backbones.network.load_network", load_network)
        with pytest.raises(SpaceMismatchError, match=r"decoding is '?2\+dct'? there and '?2'? now"):
            featx.extract(root, store.path, **EXACT)
        with pytest.raises(SpaceMismatchError, match=r"decoding is '?2'? there and '?2\+dct'? now"):
            featx.extract(root, exact.path, **FAST)
    assert featx.extract(root, exact.path, overwrite=True, **FAST).space.decoding == "2+dct"


def test_shards_are_not_mixed_either(root, tmp_path):
    featx.extract(root, tmp_path / "store", shard="0/2", **FAST)
    with pytest.raises(SpaceMismatchError, match="decoding"):
        featx.extract(root, tmp_path / "store", shard="1/2", **EXACT)
    whole = featx.extract(root, tmp_path / "store", shard="1/2", **FAST)
    assert (len(whole), whole.space.decoding) == (24, "2+dct")


def test_photos_that_come_are_compared_and_added_as_those_that_are_there(root, store):
    (root / "train/ants/new.jpg").write_bytes(jpeg(99))
    grown = featx.extract(root, store.path, **FAST)
    assert grown.summary.computed == 1
    alone = featx.extract(root, store.path.with_name("alone.h5"), **FAST)
    assert np.array_equal(grown.X("flatten"), alone.X("flatten"))


def test_a_model_decodes_as_its_store(root, store, model):
    loaded = featx.Model.load(model)
    expected = loaded.estimator_.predict_proba(store.X("flatten"))
    np.testing.assert_allclose(loaded.predict_proba(root), expected, atol=1e-6)
    exact = featx.extract(root, store.path.with_name("exact.h5"), **EXACT)
    assert np.abs(loaded.estimator_.predict_proba(exact.X("flatten")) - expected).max() > 1e-4


def test_a_model_of_rules_that_are_not_known_here(root, model):
    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    manifest["space"]["decoding"] = "7"
    with zipfile.ZipFile(model, "w") as archive:
        for name, data in (members | {"manifest.json": json.dumps(manifest).encode()}).items():
            archive.writestr(name, data)
    with pytest.raises(ModelFileError, match=r"Unknown decoding policy '7'\. There is '2' or '2\+dct'\."):
        featx.Model.load(model).predict(root)


def test_the_stream_refuses_unknown_rules_and_not_every_image(root):
    source = open_source(root)
    with pytest.raises(UnknownNameError, match="decoding policy"):
        next(load(source, list_images(source), SQUASH, workers=1, decoding="7"))


def test_the_transformer(root, store):
    files = [root / name for name in store.names]
    extractor = featx.FeatureExtractor("pixels", fast_decode=True).fit(files)
    assert np.array_equal(extractor.transform(files), store.X("flatten"))
    with pytest.raises(FeatxError, match="fast_decode: True then, False now"):
        extractor.set_params(fast_decode=False).transform(files)


def test_the_command_line(root, tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(cli, [*map(str, arguments), "--backbone", "pixels", "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert run("extract", root, "-o", tmp_path / "x.h5", "--fast-decode")["computed"] == 24
    assert featx.FeatureStore(tmp_path / "x.h5").space.decoding == "2+dct"
    quick = ("--device", "cpu", "--seconds", "0.02", "--images", "4")
    assert run("bench", root, *quick, "--fast-decode")["decoding"] == "2+dct"
    assert run("bench", root, *quick)["decoding"] == "2"


def test_bench_times_what_the_option_decodes(root, monkeypatch):
    from featx.images import preparing

    asked = set()

    def watched(data, preprocess, policy):
        asked.add(policy)
        return decode_for(data, preprocess, policy)

    monkeypatch.setattr(preparing, "decode_for", watched)
    featx.measure_throughput(root, backbone="pixels", device="cpu", images=4, seconds=0.02, fast_decode=True)
    assert asked == {"2+dct"}
