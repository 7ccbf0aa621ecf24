import os
import sys

import numpy as np
import pytest
from PIL import Image

from featx.errors import SourceError
from featx.images.sources import list_images, open_source


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def rows(root):
    return [(record.name, record.label, record.split) for record in list_images(open_source(root))]


def test_class_folders_in_byte_order(tmp_path):
    touch(tmp_path, "b/2.jpg", "b/10.jpg", "a/x/deep.png", "B/1.jpg")
    assert rows(tmp_path) == [
        ("B/1.jpg", "B", None),
        ("a/x/deep.png", "a", None),
        ("b/10.jpg", "b", None),
        ("b/2.jpg", "b", None),
    ]
    assert open_source(tmp_path).kind == "class folders"


def test_split_folders(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "Validation/a/2.jpg", "test/b/3.jpg")
    assert rows(tmp_path) == [
        ("Validation/a/2.jpg", "a", "val"),
        ("test/b/3.jpg", "b", "test"),
        ("train/a/1.jpg", "a", "train"),
    ]
    assert open_source(tmp_path).kind == "split folders"


@pytest.mark.parametrize(
    ("folder", "split"), [("training", "train"), ("Testing", "test"), ("dev", "val"), ("valid", "val")]
)
def test_other_names_of_splits(tmp_path, folder, split):
    other = "val" if split == "train" else "train"
    touch(tmp_path, f"{folder}/a/1.jpg", f"{other}/a/2.jpg")
    assert sorted(rows(tmp_path)) == sorted(
        [(f"{folder}/a/1.jpg", "a", split), (f"{other}/a/2.jpg", "a", other)]
    )


def test_images_beside_split_folders_have_no_split_and_are_not_dropped(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "stray.jpg", "readme.txt")
    assert rows(tmp_path) == [("stray.jpg", None, None), ("train/a/1.jpg", "a", "train")]


def test_one_class_may_be_called_like_a_rarer_split_name(tmp_path):
    touch(tmp_path, "dev/1.jpg", "ops/1.jpg")
    assert rows(tmp_path) == [("dev/1.jpg", "dev", None), ("ops/1.jpg", "ops", None)]


def test_flat_folder_has_no_labels(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    assert rows(tmp_path) == [("1.jpg", None, None), ("2.jpg", None, None)]


def test_sidecars_and_hidden_files_are_no_images_but_unknown_endings_are_tried(tmp_path):
    touch(
        tmp_path,
        "a/1.jpg",
        "a/notes.txt",
        "a/.DS_Store",
        "a/Thumbs.db",
        "a/scan.dcm",
        "a/noending",
        ".git/x.jpg",
    )
    assert [name for name, *_ in rows(tmp_path)] == ["a/1.jpg", "a/noending", "a/scan.dcm"]


def test_a_circle_of_links_ends_and_a_linked_class_folder_is_listed(tmp_path):
    touch(tmp_path / "elsewhere", "1.jpg")
    touch(tmp_path / "root", "a/1.jpg")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "again").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    names = [name for name, *_ in rows(tmp_path / "root")]
    assert names == ["a/1.jpg", "a/gone.jpg", "b/1.jpg"]


def test_a_link_to_nowhere_is_listed_and_its_reading_fails(tmp_path):
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "self.jpg").symlink_to(tmp_path / "a" / "self.jpg")
    source = open_source(tmp_path)
    good, gone, itself = list_images(source)
    assert good.size > 0
    assert (gone.name, gone.label, gone.size, gone.mtime_ns) == ("a/gone.jpg", "a", -1, -1)
    assert (itself.name, itself.size) == ("a/self.jpg", -1)
    for record in (gone, itself):
        with pytest.raises(OSError, match=r"No such file|symbolic links"):
            source.read(record)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_listed(tmp_path):
    touch(tmp_path, "a/1.jpg")
    os.mkfifo(tmp_path / "a" / "pipe")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "pipe")
    assert [name for name, *_ in rows(tmp_path)] == ["a/1.jpg"]


def test_what_featx_writes_into_its_source_is_no_image_of_it(tmp_path):
    touch(
        tmp_path,
        "train/a/1.jpg",
        "test/a/2.jpg",
        "photos.h5",
        "photos.h5.lock",
        "photos.h5.0123.tmp",
        "photos.h5.parts/part-000000-ab.h5",
        "photos.h5.parts/part-000000-ab.noending",
        "run/report.jpg",
        "model.featx",
        "weights.pth.part",
    )
    (tmp_path / "run" / "results.json").write_text('{\n "schema": "featx.results/1"}')
    assert [name for name, *_ in rows(tmp_path)] == ["test/a/2.jpg", "train/a/1.jpg"]


def test_a_class_with_results_of_its_own_is_kept(tmp_path):
    touch(tmp_path, "spare.parts/1.jpg", "b/1.jpg")
    (tmp_path / "b" / "results.json").write_text("{}")
    assert [name for name, *_ in rows(tmp_path)] == ["b/1.jpg", "spare.parts/1.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_names_of_any_bytes_survive(tmp_path):
    names = [b"new\nline.jpg", "emoji-🦉.jpg".encode(), b"latin-\xe9.jpg", b"x" * 251 + b".jpg"]
    os.mkdir(os.path.join(os.fsencode(tmp_path), b"a"))
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), b"a", name), "wb") as file:
            file.write(name)
    source = open_source(tmp_path)
    records = list_images(source)
    assert sorted(os.fsencode(record.name) for record in records) == sorted(b"a/" + name for name in names)
    assert all(b"a/" + source.read(record) == os.fsencode(record.name) for record in records)
    assert all(record.size == len(source.read(record)) for record in records)


def test_one_file_and_items(tmp_path):
    touch(tmp_path, "one.jpg")
    assert rows(tmp_path / "one.jpg") == [("one.jpg", None, None)]
    array, image = np.zeros((4, 4, 3), np.uint8), Image.new("L", (3, 3))
    source = open_source([tmp_path / "one.jpg", array, image])
    records = list_images(source)
    assert source.read(records[0]) == b"one.jpg"
    assert source.read(records[1]) is array
    assert source.read(records[2]) is image
    assert len(list_images(open_source(np.zeros((5, 4, 8), np.uint8)))) == 5
    assert len(list_images(open_source(np.zeros((1, 4, 4, 3), np.uint8)))) == 1


def test_a_path_may_be_bytes(tmp_path):
    touch(tmp_path, "a/1.jpg")
    assert rows(os.fsencode(tmp_path)) == rows(tmp_path)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda root: root / "missing", "does not exist"),
        (lambda root: root, "holds no images"),
        (lambda root: touch(root, "labels.txt") or root / "labels.txt", r"a \.txt file; expected a folder"),
        (lambda root: touch(root, "train/a/1.jpg", "more/a/1.jpg") or root, r"no splits \(more\)"),
        (lambda root: touch(root, "test/a/1.jpg", "more/a/1.jpg") or root, r"no splits \(more\)"),
        (
            lambda root: touch(root, "Training/a/1.jpg", "testing/a/1.jpg", "x/1.jpg") or root,
            r"no splits \(x\)",
        ),
        (lambda root: touch(root, "train/a/1.jpg", "training/a/1.jpg") or root, "several folders"),
        (lambda root: np.zeros((20, 30, 3), np.uint8), r"give image\[None\]"),
        (lambda root: np.zeros((20, 30, 4), np.uint8), r"give image\[None\]"),
        (lambda root: (path for path in [root]), "a generator is no source of images"),
        (lambda root: Image.new("L", (3, 3)), "a Image is no source of images"),
        (lambda root: None, "a NoneType is no source of images"),
        (
            lambda root: touch(root, "train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg") or root,
            "several folders",
        ),
        (lambda root: [1, 2], "item 0 is a int"),
        (lambda root: np.zeros((4, 4)), "no stack of images"),
        (lambda root: [], "holds no images"),
    ],
)
def test_errors_say_what_to_do(tmp_path, make, text):
    with pytest.raises(SourceError, match=text):
        list_images(open_source(make(tmp_path)))
