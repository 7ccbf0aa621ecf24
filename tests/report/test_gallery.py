from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from featx.errors import FeatxError
from featx.report import load_run, thumbnails, write_report
from featx.report.gallery import MOST_EXAMPLES, MOST_MISTAKES, choose_images, mistakes
from featx.report.thumbnails import as_thumbnail, known_places, read_thumbnails


def pixels(address):
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.fixture
def photos(tmp_path):
    """A source whose names are those of ``run_folder``: image i is grey, i bright."""
    folder = tmp_path / "photos"
    (folder / "test").mkdir(parents=True)
    for i in range(153):
        Image.new("RGB", (300, 150), (i, i, i)).save(folder / "test" / f"{i}.jpg", quality=95)
    return folder


@pytest.fixture
def at_home(run_folder, photos):
    """The same run, which knows where its images lie."""
    file = run_folder / "results.json"
    results = json.loads(file.read_text())
    results["dataset"]["source"] = [str(photos)]
    file.write_text(json.dumps(results))
    return run_folder


class TestThumbnail:
    def test_is_small_and_shows_the_image(self):
        image = np.zeros((400, 200, 3), np.uint8)
        image[:200] = (255, 0, 0)
        found = pixels(as_thumbnail(image))
        assert found.shape == (96, 48, 3)
        assert np.abs(found[20, 24].astype(int) - (255, 0, 0)).max() < 20
        assert found[80].max() < 20

    def test_tiny_images_are_enlarged(self):
        image = np.zeros((8, 8), np.uint8)
        image[:, 4:] = 255
        found = pixels(as_thumbnail(image))
        assert found.shape == (48, 48, 3)
        assert found[:, 30:].min() > 200

    def test_a_line_keeps_a_side(self):
        assert pixels(as_thumbnail(np.zeros((1, 900), np.uint8))).shape == (1, 96, 3)


class TestReading:
    def test_reads_what_the_source_lists_and_nothing_else(self, photos, tmp_path):
        (tmp_path / "secret.jpg").write_bytes((photos / "test" / "3.jpg").read_bytes())
        found = read_thumbnails([str(photos)], ["test/9.jpg", "../secret.jpg"])
        assert set(found.images) == {"test/9.jpg"}
        assert abs(int(pixels(found.images["test/9.jpg"]).mean()) - 9) <= 1
        assert found.word == "1 of 2 images could not be read"

    def test_what_cannot_be_decoded_is_counted(self, photos):
        (photos / "test" / "1.jpg").write_bytes(b"no image")
        found = read_thumbnails([str(photos)], ["test/1.jpg", "test/2.jpg"])
        assert (set(found.images), found.word) == ({"test/2.jpg"}, "1 of 2 images could not be read")

    def test_the_first_place_that_holds_some(self, photos, tmp_path):
        places = [str(tmp_path / "gone"), str(photos)]
        assert set(read_thumbnails(places, ["test/2.jpg"]).images) == {"test/2.jpg"}

    def test_none(self, photos, tmp_path):
        assert "gone does not exist" in read_thumbnails([str(tmp_path / "gone")], ["a.jpg"]).word
        assert read_thumbnails([str(photos)], ["a.jpg"]).word.endswith("holds none of these images")
        assert "names no place" in read_thumbnails([], ["a.jpg"]).word
        assert read_thumbnails([], []).word == ""

    def test_the_budget_is_kept(self, photos):
        names = [f"test/{i}.jpg" for i in range(20)]
        found = read_thumbnails([str(photos)], names, budget=5000)
        assert 1 <= len(found.images) < 20
        assert sum(map(len, found.images.values())) <= 5000
        assert found.word == f"{20 - len(found.images)} of 20 images could not be read"

    def test_a_large_source_is_not_read_through(self, photos, monkeypatch):
        monkeypatch.setattr(thumbnails, "MOST_LISTED", 10)
        assert len(read_thumbnails([str(photos)], [f"test/{i}.jpg" for i in range(153)]).images) == 10

    def test_no_report_goes_to_the_network_by_itself(self):
        assert known_places(["s3://b/photos", "https://x/y.zip", "a", "b.tar"]) == ["a", "b.tar"]
        assert known_places("photos") == ["photos"]
        assert known_places(None) == []


class TestChoice:
    def test_the_surest_mistakes_first(self, build, tmp_path):
        results = build.results([build.row(test=(0.5, 0.2, 0.8))])
        arrays = {
            "names": np.array([b"a.jpg", b"b\n.jpg", b"c.jpg"]),
            "truth": np.array([0, 0, 1]),
            "probabilities_0": np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]]),
        }
        found = mistakes(results, arrays)
        assert [(one.name, one.label, one.predicted) for one in found] == [
            (r"b\n.jpg", "ants", "bees"),
            ("a.jpg", "ants", "bees"),
        ]
        assert (found[0].probability, found[0].label_probability) == (0.9, 0.1)
        assert mistakes(results, {}) == []
        assert mistakes(results, arrays | {"truth": np.array([0, 0, 7])}) == []

    def test_shelves(self, build, run_folder):
        run = load_run(run_folder)
        image = {"name": "train/1.jpg", "split": "train", "label": "ants", "predicted": "bees"}
        run.results["suspects"] = {"images": [image | {"probability": 0.9}]}
        run.results["dataset"]["audit"] = {
            "duplicates": {"count": 1, "examples": [["test/2.jpg", "train/a.jpg"]]},
            "near_duplicates": {"count": 1, "examples": [["test/66.jpg", "train/b.jpg", 3]]},
        }
        shelves = {shelf.key: shelf for shelf in choose_images(run.results, run.predictions)}
        assert list(shelves) == ["mistakes", "suspect-images", "lookalikes", "examples"]
        assert len(shelves["mistakes"].cards) == 9
        assert shelves["suspect-images"].cards[0].lines == ("train, labelled ants", "predicted bees, 0.900")
        assert [card.name for card in shelves["lookalikes"].cards] == [
            "test/2.jpg",
            "train/a.jpg",
            "test/66.jpg",
            "train/b.jpg",
        ]
        assert shelves["lookalikes"].cards[2].lines == ("test", "labelled ants", "predicted bees, 1.000")
        names = [card.name for card in shelves["examples"].cards]
        assert names == [f"test/{i}.jpg" for i in (0, 23, 46, 69, 70, 97, 125, 152)]

    def test_never_more_than_about_sixty(self, build):
        k = 400
        results = build.results(classes=[f"class {i}" for i in range(k)], counts={})
        arrays = {
            "names": np.array([f"{i}.jpg".encode() for i in range(k)]),
            "truth": np.arange(k),
            "probabilities_0": np.roll(np.eye(k), 1, axis=1),
        }
        shelves = choose_images(results, arrays)
        assert [len(shelf.cards) for shelf in shelves] == [MOST_MISTAKES, MOST_EXAMPLES]
        assert "376 further classes are not shown" in shelves[1].note


class TestReport:
    def test_shows_the_images_where_the_run_says_they_lie(self, at_home):
        page = write_report(at_home).read_text()
        images = re.findall(r'<img src="([^"]*)" alt="([^"]*)">', page)
        assert len(images) == 9 + 8
        spoken = "test/66.jpg, labelled ants, predicted bees, 1.000"
        (address,) = {address for address, said in images if said == spoken}
        assert abs(int(pixels(address).mean()) - 66) <= 1
        assert "No thumbnails" not in page

    def test_source_says_where_they_are_now(self, at_home, photos, tmp_path):
        photos.rename(tmp_path / "moved")
        page = write_report(at_home).read_text()
        assert "<img" not in page
        assert "No thumbnails:" in page
        assert "photos does not exist" in page.replace("<wbr>", "")
        assert "<img" in write_report(at_home, source=tmp_path / "moved").read_text()

    def test_a_source_that_shows_nothing_is_an_error(self, at_home, tmp_path):
        with pytest.raises(FeatxError, match=r"elsewhere does not exist.*give --source what was given"):
            write_report(at_home, source=tmp_path / "elsewhere")
        (tmp_path / "others").mkdir()
        Image.new("L", (9, 9)).save(tmp_path / "others" / "x.png")
        with pytest.raises(FeatxError, match="others holds none of these images; give --source"):
            write_report(at_home, source=tmp_path / "others")

    def test_mistakes_are_listed_without_images_too(self, run_folder):
        write_report(run_folder)
        for kind in ("md", "html"):
            text = (run_folder / f"report.{kind}").read_text()
            assert "The most confident mistakes" in text
            assert "test/66.jpg" in text.replace("<wbr>", "")

    def test_hostile_names(self, evil_folder, tmp_path):
        folder = tmp_path / "<img src=x onerror=alert(1)>"
        folder.mkdir()
        arrays = dict(np.load(evil_folder / "predictions.npz"))
        name = '"><script>alert(1)</script>.png'.replace("/", "\\")
        Image.new("L", (9, 9)).save(folder / name)
        arrays["names"] = np.array([name.encode(), b"b", b"c"])
        arrays["probabilities_0"] = arrays["probabilities_0"][::-1]
        np.savez(evil_folder / "predictions.npz", **arrays)
        page = write_report(evil_folder, source=folder).read_text()
        assert page.count("<img") == 2
        assert page.count("<script") == 1
        assert "onerror" not in page
