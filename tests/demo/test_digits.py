import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from featx.demo.digits import run_demo, transfer_gain, write_digits
from featx.errors import FeatxError


def test_all_digits_are_written_once_and_ten_of_each_are_labelled(tmp_path):
    root = write_digits(tmp_path / "digits")
    images, target = load_digits(return_X_y=True)
    seen = {}
    for path in root.rglob("*.png"):
        split, label = path.relative_to(root).parts[:2]
        row = int(path.stem)
        seen[row] = split
        assert int(label) == target[row]
        grey = np.asarray(Image.open(path))
        np.testing.assert_array_equal(np.round(grey / (255 / 16)), images[row].reshape(8, 8))
    assert len(seen) == 1797
    assert sum(split == "train" for split in seen.values()) == 100


def test_the_demo_runs_and_transfer_gains(tmp_path):
    shown = []
    results = run_demo(tmp_path / "demo", on_results=shown.append)
    assert [found.rows for found in shown] == [results.rows]
    assert len(results.rows) == 9
    assert {row.kind for row in results.rows} == {"head", "reference"}
    assert len(results.test_names) == 1697
    assert results.best_row.backbone == "featx-tiny"
    assert results.best_row.kind == "head"
    ours = results.best_row.test["accuracy"]
    for row in results.rows:
        if row.kind == "reference":
            assert ours.low > row.test["accuracy"].high
    assert "transfer gained" in transfer_gain(results)
    assert (tmp_path / "demo" / "run" / "model.featx").exists()


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FeatxError, match="no folder of an earlier demo"):
        run_demo(tmp_path)
