"""``featx extract``: how fast it was, in words and as JSON."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from pictures import photo, png

from featx.cli import cli

LINE = re.compile(
    r"(\d+) images/s once it ran, (\d+)% of the (\d+) that decoder \((\d+) alone\) "
    r"and network \((\d+) alone\) can give together"
)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr("featx.spent.SHORTEST", 0.0)
    folder = tmp_path / "photos" / "ants"
    folder.mkdir(parents=True)
    for index in range(40):
        (folder / f"{index:03}.png").write_bytes(png(photo("ants", index)))
    return folder.parent


def run(photos, *more):
    arguments = ["extract", str(photos), "-o", str(photos.parent / "x.h5"), "--backbone", "pixels", *more]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_speed_and_what_held_it_back(photos):
    lines = run(photos).splitlines()
    places = [place for place, line in enumerate(lines) if LINE.fullmatch(line)]
    assert len(places) == 1
    rate, share, bound, decode, network = map(int, LINE.fullmatch(lines[places[0]]).groups())
    assert bound <= min(decode, network)
    assert share == pytest.approx(100 * rate / bound, abs=2)
    assert re.search(r"held it back|was lost", lines[places[0] + 1])
    # Nothing was computed: nothing is said.
    assert "once it ran" not in run(photos)


def test_the_speed_as_json(photos):
    speed = json.loads(run(photos, "--json"))["speed"]
    assert set(speed) == {
        "images_per_second",
        "decode_per_second",
        "network_per_second",
        "bound_per_second",
        "sentence",
        "share",
    }
    assert all(np.isfinite(value) and value > 0 for value in speed.values() if isinstance(value, float))
    assert speed["share"] == pytest.approx(speed["images_per_second"] / speed["bound_per_second"])
    assert json.loads(run(photos, "--json"))["speed"] is None


def test_few_images_say_nothing(photos):
    for index in range(31, 40):
        (photos / "ants" / f"{index:03}.png").unlink()
    text = run(photos)
    assert "31 computed" in text
    assert "once it ran" not in text


class TestCollection:
    @pytest.fixture
    def messy(self, tmp_path):
        """A photo under both labels, one in both splits, two nearly alike across splits, two bad files."""
        root = tmp_path / "messy"
        changed = photo("bees", 2, (64, 48))
        changed.putpixel((0, 0), (0, 0, 0))
        files = {
            "train/ants/0.png": png(photo("ants", 0, (64, 48))),
            "train/ants/1.png": png(photo("ants", 1, (64, 48))),
            "train/bees/0.png": png(photo("ants", 0, (64, 48))),
            "train/bees/2.png": png(photo("bees", 2, (64, 48))),
            "train/bees/3.png": png(photo("bees", 3, (48, 64)).convert("L")),
            "test/ants/1.png": png(photo("ants", 1, (64, 48))),
            "test/bees/2.png": png(changed),
            "test/bees/4.png": png(photo("bees", 4, (64, 48))),
            "test/bees/bad\n[red].png": b"no image",
            "test/bees/empty.png": b"",
        }
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root

    def extract(self, messy, *more):
        arguments = ["extract", str(messy), "-o", str(messy.parent / "x.h5"), "--backbone", "pixels", *more]
        result = CliRunner().invoke(cli, [*arguments, "--max-skip", "0.5"])
        assert result.exit_code == 0, result.output
        return result.stdout

    def test_what_would_mislead_is_said_at_the_end(self, messy):
        for _ in range(2):  # the second time nothing is computed
            lines = self.extract(messy).splitlines()
            seen = f"; see `featx info {messy.parent / 'x.h5'}`"
            assert lines[-4:-1] == [
                f"note: 1 image stands under several labels{seen}",
                f"note: 1 image stands in several splits{seen}",
                f"note: 1 near-duplicate stands across splits{seen}",
            ]
            assert lines[-1].startswith("next: ")

    def test_what_misleads_nobody_is_not(self, photos):
        folder = photos / "ants"
        (folder / "copy.png").write_bytes((folder / "000.png").read_bytes())
        assert "several" not in run(photos)

    def test_json_has_all_of_it(self, messy):
        found = json.loads(self.extract(messy, "--json"))
        collection = found["collection"]
        assert collection["images"] == 8
        assert collection["conflicts"]["examples"] == [
            {"names": ["train/ants/0.png", "train/bees/0.png"], "values": ["ants", "bees"]}
        ]
        assert [one["values"] for one in collection["across_splits"]["examples"]] == [["test", "train"]]
        assert collection["near_duplicates"]["across_splits"] == 1
        assert collection["near_duplicates"]["across_labels"] == 0
        assert collection["sizes"]["width"] == {"min": 48, "median": 64.0, "max": 64}
        assert collection["sizes"]["unknown"] == 0
        assert collection["modes"] == {"RGB": 7, "L": 1}
        assert collection["classes"]["counts"] == {"ants": 3, "bees": 5}
        assert sum(collection["skipped"].values()) == 2

    def test_the_quarantine_stands_in_json_as_it_is(self, messy):
        for _ in range(2):
            first, second = json.loads(self.extract(messy, "--json"))["skipped"]
            assert first["name"] == "test/bees/bad\n[red].png"
            assert first["digest"] == hashlib.sha256(b"no image").hexdigest()
            assert "not an image" in first["reason"]
            assert second["name"] == "test/bees/empty.png"
            assert second["digest"] == hashlib.sha256(b"").hexdigest()
            assert "empty" in second["reason"]

    def test_info_says_the_same(self, messy):
        text = self.extract(messy)
        assert "2 skipped" in text
        assert "skipped test/bees/bad\\n[red].png: not an image" in text
        store = str(messy.parent / "x.h5")
        info = CliRunner().invoke(cli, ["info", store], env={"COLUMNS": "200"}).stdout
        assert "  test/bees/bad\\n[red].png: not an image" in info
        assert "1 image stands under several labels" in info
        data = json.loads(CliRunner().invoke(cli, ["info", store, "--json"]).stdout)
        assert data["collection"] == json.loads(self.extract(messy, "--json"))["collection"]
        assert [item["name"] for item in data["skipped"]] == [
            "test/bees/bad\n[red].png",
            "test/bees/empty.png",
        ]

    def test_a_shard_alone_is_not_judged(self, messy):
        """Its contradictions would be few of all; what is whole is judged."""
        for number in range(8):  # some of them in every shard
            for label in ("ants", "bees"):
                copy = messy / "train" / label / f"copy-{number}.png"
                copy.write_bytes((messy / "train/ants/0.png").read_bytes())
        root = str(messy.parent / "store")
        arguments = [
            "extract",
            str(messy),
            "-o",
            root,
            "--backbone",
            "pixels",
            "--max-skip",
            "0.5",
            "--shard",
        ]
        assert "several" not in CliRunner().invoke(cli, [*arguments, "0/2"]).stdout
        assert "note: 1 image stands in several splits" in CliRunner().invoke(cli, [*arguments, "1/2"]).stdout

    def test_a_second_run_loads_neither_torch_nor_scikit_learn(self, messy):
        self.extract(messy)
        code = "import sys; from featx.cli import cli; cli.main(sys.argv[1:], standalone_mode=False); "
        code += "print(sorted({'torch', 'sklearn', 'scipy'} & set(sys.modules)))"
        arguments = ["extract", str(messy), "-o", str(messy.parent / "x.h5"), "--backbone", "pixels"]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--max-skip", "0.5"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "\n0 computed" in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"
