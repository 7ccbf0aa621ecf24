"""``featx extract``: how fast it was, in words and as JSON."""

import json
import re

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
