from __future__ import annotations

import json

import numpy as np
import pytest

from featx.errors import FeatxError
from featx.report.runs import load_run


def test_reads_results_and_predictions(run_folder):
    run = load_run(run_folder)
    assert run.name == "ants-run"
    assert run.results["dataset"]["n_images"] == 397
    assert run.predictions["probabilities_0"].shape == (153, 2)
    assert run.curves == {}


def test_takes_the_results_file_for_its_folder(run_folder):
    assert load_run(run_folder / "results.json").path == run_folder


def test_reads_curves(run_folder):
    (run_folder / "curves.json").write_text('{"learning": [1, 2]}')
    assert load_run(run_folder).curves == {"learning": [1, 2]}


def test_without_predictions_there_are_none(run_folder):
    (run_folder / "predictions.npz").unlink()
    assert load_run(run_folder).predictions == {}


def test_missing_folder(tmp_path):
    with pytest.raises(
        FeatxError, match=r"There is no run folder '.*nowhere'; give a folder that `featx fit"
    ):
        load_run(tmp_path / "nowhere")


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "photos.h5").write_bytes(b"x")
    with pytest.raises(FeatxError, match=r"photos.h5' is a file; give a folder"):
        load_run(tmp_path / "photos.h5")


def test_folder_without_results(tmp_path):
    with pytest.raises(FeatxError, match=r"holds no results.json, so it is no run folder"):
        load_run(tmp_path)


@pytest.mark.parametrize("text", ['{"schema": ', "\ufffd", ""])
def test_broken_json(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(FeatxError, match=r"Cannot read '.*results.json' .* run `featx fit` again"):
        load_run(tmp_path)


def test_json_that_is_no_object(tmp_path):
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(FeatxError, match="holds a JSON list, expected an object"):
        load_run(tmp_path)


def test_other_schema(tmp_path):
    (tmp_path / "results.json").write_text('{"schema": "featx.results/7"}')
    with pytest.raises(
        FeatxError, match=r"schema 'featx.results/7', expected 'featx.results/1'; read it with"
    ):
        load_run(tmp_path)


@pytest.mark.parametrize("part", ["rows", "dataset", "comparisons"])
def test_a_part_is_missing(tmp_path, results, part):
    del results[part]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(FeatxError, match=f"has no usable '{part}'"):
        load_run(tmp_path)


def test_predictions_are_never_unpickled(run_folder):
    np.savez(run_folder / "predictions.npz", truth=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FeatxError, match=r"Cannot read '.*predictions.npz'"):
        load_run(run_folder).predictions  # noqa: B018 - reading is what fails


def test_damaged_predictions(run_folder):
    path = run_folder / "predictions.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FeatxError, match=r"Cannot read '.*predictions.npz'"):
        load_run(run_folder).predictions  # noqa: B018 - reading is what fails
