from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from featx.report.html import render_html, tidy
from featx.report.runs import load_run

VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser makes of the file: elements, attributes, visible text; checks the nesting."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).replace("\xa0", " ").split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def page(run_folder):
    return Page(render_html([load_run(run_folder)]))


def test_holds_the_numbers(page):
    assert "accuracy 0.941 [0.892, 0.969] on 153 test images." in page.text
    assert "+0.261 [+0.190, +0.330], p < 0.001" in page.text
    assert "66 of 70" in page.text
    assert "Rank 2: C = 100 is the edge of the grid" in page.text
    assert "featx fit ants.h5 -o run" in page.text
    assert "scikit-learn=1.9.0" in page.text


def test_says_what_makes_the_run_again(results, build, tmp_path):
    results["dataset"].update(digest="d1935", space_keys=["5bace"])
    page = Page(render_html([load_run(build.save(tmp_path / "run", results))]))
    assert "digest of the images, their names and labelsd1935" in page.text
    assert "(digests of network, weights and preprocessing)5bace" in page.text


def test_suspected_labels_have_a_table(build, results, tmp_path):
    image = {"name": build.evil, "split": "train", "label": "ants", "predicted": "bees"}
    image |= {"probability": 0.981, "label_probability": 0.012}
    results["suspects"] = {"method": "m", "checked": 9, "contradicted": 1, "count": 1, "images": [image]}
    page = Page(render_html([load_run(build.save(tmp_path / "run", results))]))
    assert "Images to look at: their labels may be wrong" in page.text
    assert "trainants0.012bees0.981" in page.text
    assert len(page.all("script")) == 1


def test_the_verdict_comes_before_tables_and_pictures(run_folder):
    text = render_html([load_run(run_folder)])
    body = text[text.index("<body>") :]
    assert body.index("Verdict") < body.index("<svg")
    assert body.index("Verdict") < body.index("<table")


def test_the_policy_forbids_loading_and_all_scripts_but_its_own(run_folder):
    text = render_html([load_run(run_folder)])
    found = Page(text).all("meta")
    (policy,) = [a["content"] for a in found if a.get("http-equiv") == "Content-Security-Policy"]
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    )


def test_nothing_comes_from_outside(run_folder):
    text = render_html([load_run(run_folder)])
    assert "http" not in text.replace("http-equiv", "")
    assert "//" not in re.sub(r"\s//\s", "", text)
    assert not re.search(r"@import|url\((?!#)", text)
    page = Page(text)
    assert page.all("script") == [{}]
    assert not page.all("link")
    for _, attributes in page.elements:
        for name in ("href", "src", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")


def test_pictures_say_what_they_show(page):
    assert len(page.all("svg")) == 6
    assert all(attributes["role"] == "img" for attributes in page.all("svg"))
    assert len(page.all("title")) == 1 + 6
    assert "pixels, logreg: 0.680 [0.603, 0.749]" in page.text
    assert "Most often confused: bees taken for ants: 5; ants taken for bees: 4" in page.text


def test_ids_are_unique_and_references_resolve(build, run_folder, tmp_path):
    other = build.save(tmp_path / "other", build.results([build.row(cv=0.8, test=(0.79, 0.7, 0.86))]))
    page = Page(render_html([load_run(run_folder), load_run(other)]))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("href", "xlink:href"):
            if name in attributes:
                assert attributes[name][1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
        if found := re.fullmatch(r"url\(#(.*)\)", attributes.get("clip-path", "")):
            assert found[1] in ids


def test_drawings_take_the_colours_and_the_font_of_the_page(run_folder):
    text = render_html([load_run(run_folder)])
    drawing = text[text.index("<svg") : text.index("</svg>")]
    assert "var(--accent)" in drawing
    assert not re.search(r"#[0-9a-f]{6}\b(?!\w)", re.sub(r'(id|href|clip-path)="[^"]*"', "", drawing))
    assert "font-family" not in drawing
    assert "DejaVu" not in drawing
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_hostile_names_are_shown_and_not_run(evil_folder):
    text = render_html([load_run(evil_folder)])
    assert text.count("<script") == 1
    page = Page(text)
    assert page.all("script") == [{}]
    assert r"<script>alert('x')</script>|a\nb" in page.text
    assert "$x^$ ~~b~~" in page.text


def test_a_class_called_like_a_colour_keeps_its_name(results, build, tmp_path):
    results["dataset"]["classes"] = ["#070809", "font: 10px 'x'"]
    page = Page(render_html([load_run(build.save(tmp_path / "run", results, [0, 1], [0, 1]))]))
    assert "var(--accent)" not in page.text
    assert page.text.count("#070809") >= 3


def test_letters_that_matplotlib_lacks_are_no_warning(results, build, tmp_path):
    results["dataset"]["classes"] = ["🐜", "蜂"]
    page = Page(render_html([load_run(build.save(tmp_path / "run", results, [0, 1], [0, 1]))]))
    assert "🐜" in page.text


def test_many_classes_have_no_confusion_matrix(build, tmp_path):
    classes = [f"class {i}" for i in range(60)]
    results = build.results([build.row(test=(0.9, 0.8, 0.95))], classes=classes, counts={})
    run = build.save(tmp_path / "run", results, list(range(60)), list(range(60)))
    page = Page(render_html([load_run(run)]))
    assert not any("Confusion matrix" in text for text in page.text.split("."))
    assert "the mean over 60 classes" in page.text
    assert "class 59" in page.text


def test_only_cross_validation(build, tmp_path):
    results = build.results([build.row()], n_test=0)
    page = Page(render_html([load_run(build.save(tmp_path / "run", results))]))
    assert "There is no test split" in page.text
    assert "Cross-validation accuracy, mean ± standard deviation" in page.text


def test_lines_may_break_in_long_names_but_not_in_intervals():
    assert tidy("a.b 0.9 [0.8, 1.0] p = 0.25 ± 0.1") == "a.<wbr>b 0.9 [0.8,\xa01.0] p\xa0=\xa00.25 ±\xa00.1"
    assert tidy("f" * 64).count("<wbr>") == 2
    assert tidy("f" * 64).replace("<wbr>", "") == "f" * 64
    assert tidy("<b>") == "&lt;b&gt;"


def test_several_runs_have_one_comparison(build, run_folder, tmp_path):
    other = build.save(tmp_path / "other", build.results([build.row(cv=0.8, test=(0.79, 0.7, 0.86))]))
    page = Page(render_html([load_run(run_folder), load_run(other)]))
    assert "2 runs compared" in page.text
    assert "across runs no paired test was made" in page.text
    assert [a["href"] for a in page.all("a")] == ["#run-1", "#run-2"]
