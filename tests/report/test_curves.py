import json

import pytest

from featx.report.curve_pictures import draw_few_shot, draw_learning_curve
from featx.report.curves import curve_notes, curve_sections, curve_sentences
from featx.report.writing import write_report


def score(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.fixture
def curves():
    points = [
        {"n": n, "accuracy": score(a, a - 0.01, a + 0.01), "draws": [a, a]}
        for n, a in ((24, 0.88), (61, 0.91), (154, 0.93), (244, 0.94))
    ]
    return {
        "schema": "featx.curves/1",
        "learning": {
            "row": 0,
            "of": "the same 153 test images",
            "draws": 10,
            "points": points,
            "law": {"asymptote": 0.02, "scale": 0.04, "exponent": 0.5, "unit": 244.0},
            "n_now": 244,
            "n_doubled": 488,
            "now": score(0.94, 0.92, 0.96),
            "doubled": score(0.961, 0.948, 0.972),
            "gain": score(0.0084, 0.0021, 0.0151),
            "notes": ["3 draws of each size instead of 10: the set is large"],
        },
        "few_shot": {
            "of": "the same 153 test images",
            "draws": 10,
            "shots": [1, 5],
            "rows": [
                {
                    "row": row,
                    "points": [
                        {"shots": 1, "n": 2, "accuracy": score(0.6 + row / 10, 0.5, 0.8)},
                        {"shots": 5, "n": 10, "accuracy": score(0.8 + row / 100, 0.75, 0.9)},
                    ],
                }
                for row in range(5)
            ],
            "notes": ["200 shots are left out: the smallest class, 'bees', has 121 images to draw from"],
        },
    }


class TestSentence:
    def test_a_gain(self, curves):
        said = "Twice the labels (488) would bring about 0.961 [0.948, 0.972], +0.8 points [+0.2, +1.5]."
        assert curve_sentences(curves) == [said]

    def test_one_that_cannot_be_told(self, curves):
        curves["learning"]["gain"] = score(0.008, 0.0004, 0.011)
        (said,) = curve_sentences(curves)
        assert said.startswith(
            "Whether twice the labels (488) would bring anything cannot be told: about 0.961"
        )
        assert said.endswith("+0.8 points [+0.0, +1.1].")

    def test_a_little(self, curves):
        curves["learning"]["gain"] = score(0.001, 0.0, 0.0031)
        assert curve_sentences(curves)[0].startswith("Twice the labels (488) would bring little: about 0.961")

    @pytest.mark.parametrize("learning", [None, {}, {"points": [], "notes": ["too few"]}])
    def test_none(self, learning):
        assert curve_sentences({"learning": learning}) == []


class TestSections:
    def test_learning(self, results, curves):
        section = curve_sections(results, curves)[0]
        assert section.title == "With more labels"
        assert section.table.rows[0] == ("24", "0.880 [0.870, 0.890]")
        assert len(section.table.rows) == 5
        # All labels are one draw: no interval over draws.
        assert section.table.rows[-2:] == (("244", "0.940"), ("488 (extrapolated)", "0.961 [0.948, 0.972]"))
        assert "error = 0.020 + 0.040 (n / 244)^-0.50" in section.table.note
        assert section.notes == ("3 draws of each size instead of 10: the set is large",)

    def test_few_shot_in_the_order_of_the_leaderboard(self, results, curves):
        section = curve_sections(results, curves)[1]
        assert section.table.columns == ("model", "1 image a class", "5 images a class")
        assert [row[1][:5] for row in section.table.rows] == ["0.600", "0.800", "0.700", "0.900", "1.000"]
        assert section.table.chosen == 0

    def test_repeats(self, results):
        assert curve_sections(results, {}) == ()
        for row in results["rows"]:
            row["repeats"] = {"seeds": [0, 1], "test": [0.9, 0.94], "mean": 0.92, "sd": 0.028, "won": 1}
        (section,) = curve_sections(results, {})
        assert section.table.rows[0][1:] == ("0.920 ± 0.028", "0.900 to 0.940", "1 of 2")

    def test_notes_once(self, curves):
        curves["few_shot"]["notes"] = curves["learning"]["notes"]
        assert curve_notes(curves) == curves["learning"]["notes"]


class TestPictures:
    def test_learning_curve(self, curves):
        picture = draw_learning_curve(curves, "a")
        assert picture.svg.startswith("<svg")
        assert "488 labels, extrapolated: 0.961 [0.948, 0.972]" in picture.svg
        assert draw_learning_curve({}) is None
        curves["learning"]["points"] = []
        assert draw_learning_curve(curves) is None

    def test_few_shot(self, results, curves):
        picture = draw_few_shot(results, curves, "a")
        assert "1 a class 0.600 [0.500, 0.800], 5 a class 0.800 [0.750, 0.900]" in picture.svg
        curves["few_shot"]["shots"] = [1]
        for row in curves["few_shot"]["rows"]:
            del row["points"][1]
        assert draw_few_shot(results, curves) is None


class TestReport:
    def test_both_have_it(self, run_folder, curves):
        write_report(run_folder)
        before = (run_folder / "report.html").read_text()
        assert "With more labels" not in before
        (run_folder / "curves.json").write_text(json.dumps(curves))
        write_report(run_folder)
        markdown, page = ((run_folder / f"report.{kind}").read_text() for kind in ("md", "html"))
        for text in (markdown, page.replace("\xa0", " ")):
            assert "would bring about 0.961 [0.948, 0.972], +0.8 points [+0.2, +1.5]." in text
            assert "With few labels" in text
            assert "200 shots are left out" in text
        assert page.count("<figure>") == before.count("<figure>") + 2
        assert page.count('role="img"') == page.count("<figure>")

    def test_several_runs(self, run_folder, curves, tmp_path):
        (run_folder / "curves.json").write_text(json.dumps(curves))
        write_report([run_folder, run_folder], tmp_path)
        assert (tmp_path / "report.md").read_text().count("### With more labels") == 2

    def test_hostile_text_is_escaped(self, run_folder, curves, build):
        curves["few_shot"]["notes"] = [build.evil]
        curves["learning"]["of"] = build.evil
        (run_folder / "curves.json").write_text(json.dumps(curves))
        write_report(run_folder)
        assert (run_folder / "report.html").read_text().count("<script") == 1
        assert "<script" not in (run_folder / "report.md").read_text()

    @pytest.mark.parametrize(
        "content", [{}, {"learning": {"points": [{}]}}, {"few_shot": {"shots": [1], "rows": []}}]
    )
    def test_what_is_missing_is_left_out(self, run_folder, content):
        (run_folder / "curves.json").write_text(json.dumps(content))
        assert write_report(run_folder).exists()
