"""What `info` and `verify` say of stores that are hostile, foreign or not finished."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from featx.cli import cli
from featx.records import ImageRecord, LayerInfo, SkippedImage, Space
from featx.sharding import Shard
from featx.store.directorywriter import DirectoryWriter
from featx.store.foreign import describe_foreign
from featx.store.schema import IndexRow
from featx.store.writer import StoreWriter

EVIL = "\x1b]0;owned\x07\x1b[2J[bold]:bee:"
SHOWN = r"\x1b]0;owned\x07\x1b[2J[bold]:bee:"
STRAY = os.fsdecode(b"\xff")
SPACE = Space("custom", "net", {"digest": "0" * 64}, {"image_size": 8}, "1", "fp32", "float32")
LAYER = LayerInfo("fc", "avg", 2)
ONE = (ImageRecord("a.jpg"),)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.h5"


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], env={"COLUMNS": "500"})
    assert result.exit_code == code, result.output
    return result


def pairs(result):
    """Read the table again, without the line above it."""
    lines = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in result.stdout.splitlines()[1:]]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def add(writer, keys, layer=LAYER):
    digests = np.stack([np.full(32, key + 1, np.uint8) for key in keys])
    rows = np.ones((len(keys), layer.dim), np.float32)
    writer.add(digests, np.zeros(len(keys), np.uint64), {layer.name: rows})
    writer.flush()


def write(path, space=SPACE, layer=LAYER, records=ONE, skipped=(), source="photos", request=None):
    with StoreWriter(path, space, [layer], request=request or {}, source=source) as writer:
        add(writer, range(len(records)), layer)
        images = [IndexRow(record, bytes([key + 1] * 32)) for key, record in enumerate(records)]
        writer.finish(images, skipped, {})


def leave_parts(path, keys=range(2)):
    """Write a part of each row, and go."""
    with StoreWriter(path, SPACE, [LAYER], request={}, source="photos") as writer:
        for key in keys:
            add(writer, [key])
    return sorted(path.with_name(f"{path.name}.parts").iterdir())


def flip(file):
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


class TestHostile:
    @pytest.fixture
    def hostile(self, path):
        write(
            path,
            replace(SPACE, backbone=EVIL, provider=EVIL, decoding=EVIL, preprocess={"resize": EVIL}),
            LayerInfo(EVIL, "avg", 2),
            [ImageRecord("a.jpg", label=EVIL, split=EVIL), ImageRecord("b.jpg", label=STRAY)],
            [SkippedImage(f"{EVIL}.jpg", b"", EVIL), SkippedImage(STRAY, b"", "no image")],
            source=EVIL,
        )
        return path

    def test_nothing_of_it_reaches_the_terminal(self, hostile):
        text = run("info", hostile).stdout
        assert all(line.isprintable() for line in text.splitlines())
        for line in (
            f"{SHOWN} 1, \\udcff 1",
            f"{SHOWN} ({SHOWN}), weights 000",
            f"{SHOWN}:avg (2)",
            f"  {SHOWN}.jpg: {SHOWN}",
            "  \\udcff: no image",
        ):
            assert line in text
        assert text.count(SHOWN) == 9

    def test_json_escapes_itself_alone(self, hostile):
        data = json.loads(run("info", hostile, "--json").stdout)
        assert data["classes"] == {EVIL: 1, STRAY: 1}
        assert data["splits"] == {EVIL: 1}
        assert data["source"] == EVIL
        assert data["layers"][0]["node"] == EVIL
        assert data["skipped"][0]["name"] == f"{EVIL}.jpg"
        assert data["skipped"][1]["name"] == STRAY

    def test_what_is_wrong_with_it_neither(self, path):
        with h5py.File(path, "w") as h5:
            h5[EVIL] = np.eye(2)
        for command in ("info", "verify"):
            line = run(command, path, code=1).stderr.removesuffix("\n")
            assert line.isprintable()
            assert SHOWN in line


class TestForeign:
    def test_info_and_verify_say_the_same(self, path):
        with h5py.File(path, "w") as h5:
            h5["emb"] = np.eye(2)
        line = f"Error: {describe_foreign(path).describe()}\n"
        assert "1 dataset: /emb float64 (2, 2)" in line
        assert run("info", path, code=1).stderr == line
        assert run("verify", path, code=1).stderr == line

    def test_paths_are_shortened(self, path):
        with h5py.File(path, "w") as h5:
            h5["/".join(["deep" * 50] * 4 + ["emb"])] = np.eye(2)
            h5["link"] = h5py.SoftLink("/far" * 300)
        line = run("verify", path, code=1).stderr
        assert len(line) < 700
        assert "/deepdeep" in line
        assert "eep/emb float64 (2, 2)" in line
        assert "/link is a soft link to /far/far" in line

    def test_what_is_no_hdf5(self, path):
        path.write_text("mine")
        assert "is no featx store" in run("info", path, code=1).stderr


class TestUnfinishedFile:
    def test_info_shows_what_is_there(self, path):
        parts = leave_parts(path)
        result = run("info", path)
        assert result.stdout.startswith(f"{path}: an unfinished store;")
        lines = pairs(result)
        assert lines["rows"] == "2 in 2 parts"
        assert lines["layers"] == "fc:avg (2)"
        assert lines["space"] == SPACE.key[:16]
        assert lines["backbone"].startswith("net (custom)")
        assert lines["size"].endswith("kB")
        assert "locked by" not in lines
        data = json.loads(run("info", path, "--json").stdout)
        assert data["kind"] == "unfinished store"
        assert (data["rows"], data["parts"], data["shards"], data["locks"]) == (2, 2, None, [])
        assert data["layers"] == [{"node": "fc", "pool": "avg", "dim": 2}]
        assert data["spaces"] == [SPACE.to_json()]
        assert data["bytes"] == sum(part.stat().st_size for part in parts)
        assert data["seconds"] >= 0

    def test_info_says_who_writes_it(self, path):
        with StoreWriter(path, SPACE, [LAYER], request={}, source="photos") as writer:
            add(writer, [0])
            lock = path.with_name("x.h5.lock")
            os.utime(lock, (0, time.time() - 75))
            lines = pairs(run("info", path))
            data = json.loads(run("info", path, "--json").stdout)
        assert lines["rows"] == "1 in 1 part"
        assert lines["locked by"].startswith(f"process {os.getpid()} on ")
        assert lines["locked by"].endswith("last sign of life 1 min 15 s ago")
        assert data["locks"][0]["pid"] == os.getpid()
        assert 75 <= data["locks"][0]["silent_seconds"] < 100

    def test_verify_names_damaged_parts(self, path):
        first, second = leave_parts(path)
        assert run("verify", path, code=1).stderr.count("\n") == 1
        flip(second)
        *damaged, last = run("verify", path, code=1).stderr.splitlines()
        assert len(damaged) == 1
        assert str(second) in damaged[0]
        assert "SHA-256" in damaged[0]
        assert f"{path} is not finished: 2 parts" in last
        data = json.loads(run("verify", path, "--json", code=1).stdout)
        assert data["ok"] is False
        assert len(data["problems"]) == 2
        assert first.exists()

    def test_a_cut_part_is_named_by_info(self, path):
        _, second = leave_parts(path)
        second.write_bytes(second.read_bytes()[:-9])
        result = run("info", path)
        assert pairs(result)["rows"] == "1 in 1 part"
        assert f"  {second} is damaged: truncated" in result.stdout
        assert len(json.loads(run("info", path, "--json").stdout)["problems"]) == 1

    def test_a_wrong_path_stays_an_error(self, path):
        assert "There is no store" in run("info", path, code=1).stderr


class TestUnfinishedDirectory:
    @pytest.fixture
    def root(self, tmp_path):
        """Shard 0 of 3 is finished, 1 was killed, 2 never started."""
        root = tmp_path / "photos"
        listing = [ImageRecord(f"{key}.jpg") for key in range(12)]
        for number in range(2):
            shard = Shard(number, 3)
            options = {"shard": shard, "listing": listing, "request": {}, "source": "photos"}
            with DirectoryWriter(root, SPACE, [LAYER], **options) as writer:
                keys = [key for key, record in enumerate(listing) if shard.holds(record.name)]
                add(writer, keys)
                if number == 0:
                    writer.finish([IndexRow(listing[key], bytes([key + 1] * 32)) for key in keys], [], {})
        return root

    def test_info_tells_the_shards_apart(self, root):
        lines = pairs(run("info", root))
        assert (lines["shards done"], lines["shards begun"], lines["shards missing"]) == ("0/3", "1/3", "2/3")
        assert lines["rows"].endswith(" in 2 parts")
        data = json.loads(run("info", root, "--json").stdout)
        assert data["kind"] == "unfinished store"
        assert data["shards"] == {"done": ["0/3"], "begun": ["1/3"], "missing": ["2/3"]}

    def test_verify_names_a_damaged_part(self, root):
        part = next(root.glob("shards/1-of-3/part-*.h5"))
        flip(part)
        damaged, last = run("verify", root, code=1).stderr.splitlines()
        assert str(part) in damaged
        assert f"{root} is not finished: shard" in last


def test_one_of_a_thing_is_no_plural(path, tmp_path):
    write(path)
    assert f"{path}: whole, 1 image, 1 layer\n" == run("verify", path).stdout
    options = {"shard": Shard(0, 1), "listing": [ImageRecord("a.jpg")], "request": {}, "source": "photos"}
    with DirectoryWriter(tmp_path / "photos", SPACE, [LAYER], **options) as writer:
        add(writer, [0])
        writer.finish([IndexRow(ImageRecord("a.jpg"), bytes([1] * 32))], [], {})
    assert run("verify", tmp_path / "photos").stdout.endswith("1 image, 1 layer, 1 part\n")
    assert pairs(run("info", tmp_path / "photos"))["size"].endswith("in 1 part")


@pytest.mark.parametrize(("used", "more"), [("bf16", ""), ("fp32", ", too far")])
def test_the_comparison_with_fp32_is_shown(path, used, more):
    check = {"precision": "bf16", "images": 8, "cosine_median": 0.99991, "cosine_worst": 0.99984}
    write(path, space=replace(SPACE, precision=used), request={"precision_check": check})
    shown = pairs(run("info", path))
    assert shown["checked"] == f"bf16 against fp32 on 8 images: cosine median 0.9999, worst 0.9998{more}"
    assert shown["computed in"] == f"{used}, stored as float32"
    assert json.loads(run("info", path, "--json").stdout)["precision_check"] == check


def test_where_nothing_was_compared_nothing_is_shown(path):
    write(path)
    assert "checked" not in pairs(run("info", path))
    assert json.loads(run("info", path, "--json").stdout)["precision_check"] is None


def write_collection(path, images, skipped=()):
    """Write images given as (name, content, hash, label, split, width, height, mode)."""
    with StoreWriter(path, SPACE, [LAYER], request={}, source="photos") as writer:
        by_content = {content: rest for _, content, *rest in images}
        digests = np.array([[content] * 32 for content in by_content], np.uint8).reshape(-1, 32)
        hashes, _, _, widths, heights, modes = zip(*by_content.values(), strict=True)
        rows = {LAYER.name: np.ones((len(digests), LAYER.dim), np.float32)}
        shapes = {"widths": widths, "heights": heights, "modes": modes}
        writer.add(digests, np.array(hashes, np.uint64), rows, **shapes)
        index = [
            IndexRow(ImageRecord(name, label=label or None, split=split or None), bytes([content] * 32))
            for name, content, _, label, split, *_ in images
        ]
        writer.finish(index, list(skipped), {})


MESSY = [
    ("train/ant/0.png", 1, 0x0F0F, "ant", "train", 640, 480, "RGB"),
    ("train/ant/1.png", 1, 0x0F0F, "ant", "train", 640, 480, "RGB"),
    ("train/bee/2.png", 1, 0x0F0F, "bee", "train", 640, 480, "RGB"),
    ("test/ant/3.png", 1, 0x0F0F, "ant", "test", 640, 480, "RGB"),
    ("train/bee/4.png", 2, 0xFF0000FF, "bee", "train", 4000, 20, "L"),
    ("test/bee/5.png", 3, 0xFF0000FE, "bee", "test", 24, 3000, "RGB"),
    ("train/ant/6.png", 4, 0xAAAA00000000, "ant", "train", 640, 480, "RGB"),
]


class TestCollection:
    def test_what_was_found_in_80_columns(self, path):
        write_collection(path, MESSY)
        result = CliRunner().invoke(cli, ["info", str(path)], env={"COLUMNS": "80"})
        assert result.exit_code == 0
        text = result.stdout
        start = text.index("duplicates ")
        block = [line.rstrip() for line in text[start:].splitlines()]
        assert all(len(line) <= 80 for line in block)
        assert block == [
            "duplicates       3 images repeat the bytes of others (1 group)",
            "conflicts        1 image stands under several labels",
            "across splits    1 image stands in several splits",
            "near-duplicates  2 images look nearly like another (1 pair or group, 1 across",
            "                 splits)",
            "sizes            width 24 to 4000 (median 640), height 20 to 3000 (median 480)",
            "                 pixels; 3 different; 2 images with a side under 32",
            "modes            RGB 6, L 1",
            "  same bytes: train/ant/0.png = train/ant/1.png and more",
            "  several labels: train/ant/0.png (ant) = train/bee/2.png (bee) and more",
            "  several splits: train/ant/0.png (train) = test/ant/3.png (test) and more",
            "  nearly alike: train/bee/4.png ~ test/bee/5.png",
        ]

    def test_everything_stands_in_json(self, path):
        reasons = ["not an image", "9×8 pixels are more than 7 allowed", "6×5 pixels are more than 7 allowed"]
        write_collection(
            path, MESSY, [SkippedImage(f"{r}.png", b"", reason) for r, reason in enumerate(reasons)]
        )
        found = json.loads(run("info", path, "--json").stdout)["collection"]
        assert found["images"] == 7
        assert found["duplicates"] == {
            "groups": 1,
            "images": 3,
            "examples": [[image[0] for image in MESSY[:4]]],
        }
        assert found["conflicts"]["count"] == found["across_splits"]["count"] == 1
        assert found["across_splits"]["examples"][0]["values"] == ["train", "test", "train", "train"]
        assert found["near_duplicates"] == {
            "count": 1,
            "across_splits": 1,
            "across_labels": 0,
            "images": 2,
            "complete": True,
            "examples": [
                {
                    "names": ["train/bee/4.png", "test/bee/5.png"],
                    "bits": 1,
                    "labels": ["bee", "bee"],
                    "splits": ["train", "test"],
                }
            ],
        }
        assert found["sizes"]["width"] == {"min": 24, "median": 640.0, "max": 4000}
        assert found["modes"] == {"RGB": 6, "L": 1}
        assert found["classes"]["counts"] == {"ant": 4, "bee": 3}
        assert found["skipped"] == {"N×N pixels are more than N allowed": 2, "not an image": 1}

    def test_nothing_found_is_one_line(self, path):
        write_collection(path, [MESSY[0], MESSY[4]])
        lines = pairs(run("info", path))
        assert lines["collection"] == "no duplicates"
        assert lines["modes"] == "RGB 1, L 1"
        assert not {"duplicates", "conflicts", "across splits", "near-duplicates"} & set(lines)

    def test_what_is_not_known_is_not_said(self, path):
        write(path)
        lines = pairs(run("info", path))
        assert lines["collection"] == "no duplicates"
        assert not {"sizes", "modes"} & set(lines)

    @pytest.mark.parametrize(
        ("sizes", "text"),
        [
            ([(224, 224), (224, 224)], "all 224×224 pixels"),
            ([(9, 224), (9, 224)], "all 9×224 pixels; 2 images with a side under 32"),
            ([(224, 50), (224, 60)], "width 224, height 50 to 60 (median 55) pixels; 2 different"),
            ([(224, 224), (0, 0)], "all 224×224 pixels; 1 not known"),
        ],
    )
    def test_sizes_in_words(self, path, sizes, text):
        images = [(f"{n}.png", n + 1, 0, "", "", *size, "RGB") for n, size in enumerate(sizes)]
        write_collection(path, images)
        assert pairs(run("info", path))["sizes"] == text

    def test_of_many_examples_five_are_named(self, path):
        write_collection(path, [(f"{n}.png", n % 9 + 1, 0, "", "", 0, 0, "") for n in range(18)])
        text = run("info", path).stdout
        assert pairs(run("info", path))["duplicates"] == "9 images repeat the bytes of others (9 groups)"
        assert text.count("same bytes: ") == 5
        assert (
            len(json.loads(run("info", path, "--json").stdout)["collection"]["duplicates"]["examples"]) == 9
        )

    def test_names_and_labels_are_no_command_to_the_terminal(self, path):
        names = [f"{EVIL}.png", STRAY]
        labels = [EVIL, "[red]b"]
        write_collection(
            path, [(name, 1, 0, label, label, 0, 0, "") for name, label in zip(names, labels, strict=True)]
        )
        result = run("info", path)
        assert all(line.isprintable() for line in result.stdout.splitlines())
        assert f"  several labels: {SHOWN}.png ({SHOWN}) = \\udcff ([red]b)" in result.stdout
        found = json.loads(run("info", path, "--json").stdout)["collection"]
        assert found["conflicts"]["examples"] == [{"names": names, "values": labels}]

    def test_no_embedding_is_read(self, path, monkeypatch):
        write_collection(path, MESSY)
        for method in ("X", "take", "blocks"):
            monkeypatch.setattr(f"featx.store.embeddings.Embeddings.{method}", None)
        assert "duplicates" in pairs(run("info", path))

    def test_a_search_that_was_ended_says_at_least(self, path, monkeypatch):
        monkeypatch.setattr(
            "featx.collection.lookalikes.near_pairs.__kwdefaults__", {"most_compared": 1000, "most_found": 9}
        )
        write_collection(path, [(f"{n}.png", n + 1, n + 1, "", "", 0, 0, "") for n in range(20)])
        assert pairs(run("info", path))["near-duplicates"].startswith("at least ")
