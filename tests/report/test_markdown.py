from __future__ import annotations

import re

from featx.report.markdown import escape_markdown, render_markdown, render_markdown_runs
from featx.report.runs import load_run


def test_holds_the_numbers(run_folder):
    run = load_run(run_folder)
    text = render_markdown(run.results, run.predictions)
    assert text.startswith("# hymenoptera\n")
    assert "accuracy 0.941 [0.892, 0.969] on 153 test images" in text
    assert "| 2 | mobilenet_v2 | adaptive_avg_pool2d:flatten | rbf-svm | C=0.1 | 0.962 ± 0.012 |" in text
    assert "+0.261 [+0.190, +0.330], p &lt; 0.001" in text
    assert "| 4 | pixels (reference) |" in text
    assert "- Rank 2: C = 100 is the edge of the grid" in text
    assert "| ROC AUC | 0.981 [0.962, 0.995] |" in text
    # 66 of 70 ants are right; 5 bees were called ants: precision 66 / 71, F1 132 / 141.
    assert "| ants | 66 of 70 | 0.943 [0.862, 0.978] | 0.930 [0.846, 0.970] | 0.936 [0.8" in text
    assert "| ants | 123 | 70 | 193 |" in text
    assert "| all | 244 | 153 | 397 |" in text
    assert "- test split: the source's own val split" in text
    assert "```sh\nfeatx fit ants.h5 -o run\n```" in text
    assert "- versions: scikit-learn=1.9.0" in text
    assert "- seed: 0" in text
    assert "- weights: mobilenet_v2: file mobilenet_v2.pth; mobilenet_v2: random, seed 0" in text


def test_every_table_row_has_as_many_cells_as_its_heading(evil_folder):
    run = load_run(evil_folder)
    text = render_markdown(run.results, run.predictions)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1


def test_names_start_no_markup(evil_folder):
    run = load_run(evil_folder)
    text = render_markdown(run.results, run.predictions)
    outside_code = re.sub(r"^(````+)sh\n.*\n\1$", "", text, flags=re.MULTILINE)
    assert "<script" not in outside_code
    assert "&lt;script&gt;" in outside_code
    assert "|a\nb" not in text
    assert r"\$x^\$ \~\~b\~\~" in text
    # A fence of four: the command holds three backticks.
    assert re.search(r"^````sh\n.*``` -o x\n````$", text, flags=re.MULTILINE)


def test_audit_with_examples(results):
    results["dataset"]["audit"] = {
        "duplicates": {"count": 7, "examples": [[f"test/{i}", f"train/{i}"] for i in range(7)]},
        "near_duplicates": {"checked": False, "count": 0, "examples": []},
        "small_classes": [{"label": "rare", "count": 3}],
        "a_later_finding": 2,
    }
    text = render_markdown(results)
    assert "too (test/0 = train/0, test/1 = train/1," in text
    assert "test/4 = train/4 and 2 more)" in text
    assert "- 1 class has fewer images to learn from than there are folds (rare: 3)" in text
    assert "- a later finding: 2" in text
    assert "- Near-duplicates were not looked for" in text


def suspect(name="train/ants/1.jpg"):
    return {
        "name": name,
        "split": "train",
        "label": "ants",
        "predicted": "bees",
        "probability": 0.981,
        "label_probability": 0.012,
    }


def test_suspected_labels_have_a_table(results, build):
    results["suspects"] = {
        "method": "confident learning",
        "checked": 397,
        "contradicted": 90,
        "count": 60,
        "images": [suspect(), suspect(build.evil)],
    }
    text = render_markdown(results)
    assert "## Images to look at: their labels may be wrong" in text
    assert "| train/ants/1.jpg | train | ants | 0.012 | bees | 0.981 |" in text
    assert "By confident learning, the most suspect first; 2 of 60." in text
    assert "<script" not in text


def test_no_suspected_label_is_said(results):
    results["suspects"] = {"method": "confident learning", "checked": 397, "count": 0, "images": []}
    text = render_markdown(results)
    assert "- None of 397 labels is suspected to be wrong (confident learning)." in text
    assert "Images to look at" not in text
    results["suspects"] |= {"guessing": True}
    text = render_markdown(results)
    assert "- Labels could not be checked: the best model cannot be told from guessing." in text
    assert "None of 397" not in text


def test_what_a_search_left_out_is_said(results):
    near = {"checked": True, "complete": False, "without_hash": 3, "count": 0, "examples": []}
    results["dataset"]["audit"] = {"near_duplicates": near}
    text = render_markdown(results)
    assert "- The search for near-duplicates was ended" in text
    assert "- 3 images have no perceptual hash" in text


def test_an_audit_without_findings(results):
    assert "- No audit was made." in render_markdown(results)
    results["dataset"]["audit"] = {"duplicates": {"count": 0, "examples": []}, "leaked_test": 0}
    assert "- Nothing was found." in render_markdown(results)


def test_scores_by_class_are_the_stored_ones(run_folder, build):
    run = load_run(run_folder)
    score = {"value": 0.25, "low": 0.125, "high": 0.5, "reliable": False}
    stored = {"name": "ants", "support": 8, "right": 2, "predicted": 3, "precision": score, "recall": None}
    row = build.row(test=(0.9, 0.8, 0.95), per_class=[stored | {"f1": score | {"reliable": True}}])
    text = render_markdown(build.results([row]), run.predictions)
    assert "| ants | 2 of 8 | – | 0.250 [0.125, 0.500] † | 0.250 [0.125, 0.500] |" in text
    assert "†: the interval is unreliable (too few images or groups of the class)." in text


def test_unreliable_intervals_are_marked_and_explained(build):
    row = build.row(test=(0.9, 0.8, 0.95))
    row["test"]["log_loss"]["reliable"] = False
    row["test"]["accuracy"]["reliable"] = True
    row["test"]["ece"] = {"value": 0.06, "low": 0.0, "high": 0.1, "reliable": False}
    text = render_markdown(build.results([row], n_test=40))
    assert "| log loss | 0.163 [0.111, 0.229] † |" in text
    assert "| accuracy | 0.900 [0.800, 0.950] |" in text
    assert "| expected calibration error | 0.060 [0.000, 0.100] † |" in text
    assert "†: the interval is unreliable (only 4 of 40 test images are wrong). Few images make" in text
    assert "†" not in render_markdown(build.results([build.row(test=(0.9, 0.8, 0.95))]))


def test_without_predictions_the_table_by_class_is_left_out(results):
    assert "66 of 70" not in render_markdown(results)


def test_without_a_test_split(build):
    text = render_markdown(build.results([build.row()], n_test=0))
    assert "test accuracy" not in text
    assert "0.950 ± 0.012" in text


def test_a_long_quarantine_is_cut_and_counted(results):
    results["dataset"]["skipped"] = [{"name": f"{i}.jpg", "reason": "broken"} for i in range(205)]
    text = render_markdown(results)
    assert "| 199.jpg | broken |" in text
    assert "200.jpg" not in text
    assert "5 more are in results.json." in text


def test_several_runs(run_folder, build, tmp_path):
    other = build.save(tmp_path / "other", build.results([build.row(cv=0.8, test=(0.79, 0.7, 0.86))]))
    text = render_markdown_runs([load_run(run_folder), load_run(other)])
    assert text.startswith("# 2 runs compared\n")
    assert "| ants-run | hymenoptera | 153 | mobilenet_v2 |" in text
    assert "| ants-run | hymenoptera | 153 | pixels (reference) |" in text
    assert "| other | hymenoptera | 153 | mobilenet_v2 |" in text
    assert "## other: hymenoptera" in text


def test_escaping_keeps_names_readable():
    assert escape_markdown("mobilenet_v2 0.9 [0.8, 1.0]") == "mobilenet_v2 0.9 [0.8, 1.0]"
    assert escape_markdown("_a_ [x](y) #2") == r"\_a\_ \[x\](y) \#2"
    assert escape_markdown("[0.8, 1.0](http://x)") == r"[0.8, 1.0\](http\://x)"
