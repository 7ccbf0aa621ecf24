"""Names of files as a file system allows them: any bytes but NUL and the slash."""

import os
import sys
import tempfile

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import photo, png

import featx
from featx.cli import cli
from featx.images.folders import FolderSource
from featx.images.layout import SIDECARS, SPLIT_FOLDERS
from featx.images.sources import list_images
from featx.records import escape_name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")


def write(folder, name, data):
    """Write a file below a folder; all of it is bytes."""
    path = os.path.join(os.fsencode(folder), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def listed(root):
    return [os.fsencode(record.name) for record in list_images(FolderSource(root))]


def is_image_name(name):
    """Whether a file of this name is listed: hidden ones and those with another ending are not."""
    return name[:1] != b"." and os.fsdecode(os.path.splitext(name)[1]).lower() not in SIDECARS


ANY_NAME = (
    st.one_of(
        st.binary(min_size=1, max_size=255),
        st.text(st.sampled_from("a\n\r\t\x1b\\🦉é\u202e '\"[]%."), min_size=1, max_size=20).map(str.encode),
        st.binary(min_size=1, max_size=3).map(lambda data: (data * 255)[:255]),
    )
    .map(lambda data: data.replace(b"\0", b"z").replace(b"/", b"y"))
    .filter(is_image_name)
)

ANY_CLASS = ANY_NAME.filter(
    lambda name: os.fsdecode(name).lower() not in SPLIT_FOLDERS and not name.endswith(b".parts")
)


@settings(max_examples=50, deadline=None)
@given(label=ANY_CLASS, names=st.lists(ANY_NAME, min_size=1, max_size=6, unique=True))
def test_any_name_is_listed_in_byte_order_and_read(label, names):
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            write(root, label + b"/" + name, name)
        source = FolderSource(root)
        records = list_images(source)
        assert [os.fsencode(record.name) for record in records] == [
            label + b"/" + name for name in sorted(names)
        ]
        for record, name in zip(records, sorted(names), strict=True):
            assert (source.read(record), record.size) == (name, len(name))
            assert os.fsencode(record.label) == label
            assert escape_name(record.name).isprintable()


NASTY = [
    b"new\nline.png",
    b"return\r.png",
    b"\x1b[2J\x07bell.png",
    "emoji-🦉.png".encode(),
    "right-to-left-\u202egnp.exe".encode(),
    b"latin-\xe9.png",
    b"half-\xed\xa0\x80.png",
    b"\xff\xfe\xfd",
    b"back\\slash.png",
    b" space .png ",
    b"[bold]markup[/bold].png",
    b"-o --overwrite.png",
    b"percent%2F%00.png",
    b"n" * 255,
    ("é" * 127).encode() + b"x",
]


def test_names_reach_the_store_and_are_shown_on_one_line_each(tmp_path):
    root, path = tmp_path / "photos", tmp_path / "x.h5"
    classes = (b"an\nts", b"b\xe9\xe9s")
    for index, name in enumerate(NASTY):
        write(root, classes[index % 2] + b"/" + name, png(photo("ants", index)))
    bad = [b"an\nts/" + b"broken\n" + name[:200] for name in NASTY[:4]]
    for name in bad:
        write(root, name, b"no image: " + name)
    store = featx.extract(root, path, backbone="pixels", image_size=8, max_skip=0.5)
    good = sorted(classes[index % 2] + b"/" + name for index, name in enumerate(NASTY))
    assert [os.fsencode(name) for name in store.names] == good
    assert [os.fsencode(label) for label in store.y] == [name.split(b"/")[0] for name in good]
    assert [os.fsencode(item.name) for item in store.skipped] == sorted(bad)
    assert len({row.tobytes() for row in store.X("flatten")}) == len(NASTY)

    with featx.FeatureStore(path) as opened:
        assert [os.fsencode(name) for name in opened.names] == good
    result = CliRunner().invoke(cli, ["info", str(path)], env={"COLUMNS": "500"})
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(line.isprintable() for line in lines)
    shown = [line.strip() for line in lines if "broken" in line]
    assert len(shown) == len(bad)
    for line, name in zip(shown, sorted(bad), strict=True):
        assert line.startswith(f"{escape_name(os.fsdecode(name))}: ")
    (classes_line,) = [line for line in lines if line.strip().startswith("classes")]
    assert r"an\nts 8" in classes_line
    assert r"b\udce9\udce9s 7" in classes_line


def test_the_longest_names_below_each_other(tmp_path):
    folders = b"/".join(bytes([byte]) * 255 for byte in b"abc")
    write(tmp_path, folders + b"/" + b"x" * 255, b"deep")
    source = FolderSource(tmp_path)
    (record,) = list_images(source)
    assert os.fsencode(record.name) == folders + b"/" + b"x" * 255
    assert (record.label, source.read(record)) == ("a" * 255, b"deep")


@pytest.mark.parametrize(
    ("links", "names"),
    [
        ({b"a/here": b"."}, [b"a/1.jpg", b"b/2.jpg"]),
        ({b"a/up": b".."}, [b"a/1.jpg", b"b/2.jpg"]),
        ({b"a/self": b"self"}, [b"a/1.jpg", b"a/self", b"b/2.jpg"]),
        ({b"a/x": b"y", b"a/y": b"x"}, [b"a/1.jpg", b"a/x", b"a/y", b"b/2.jpg"]),
        ({b"a/deep/er/top": b"../../.."}, [b"a/1.jpg", b"b/2.jpg"]),
        ({b"a/to-b": b"../b", b"b/to-a": b"../a"}, [b"a/1.jpg", b"b/2.jpg"]),
    ],
    ids=["to itself", "to the top", "link to itself", "two links", "from the depth", "two folders"],
)
def test_circles_of_links_end_and_a_circle_lists_nothing_again(tmp_path, links, names):
    write(tmp_path, b"a/1.jpg", b"one")
    write(tmp_path, b"b/2.jpg", b"two")
    for link, target in links.items():
        path = os.path.join(os.fsencode(tmp_path), link)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
    assert listed(tmp_path) == names
    assert listed(tmp_path) == names  # the order is the same every time


def test_a_link_out_of_the_root_is_followed_once(tmp_path):
    root, pool = tmp_path / "root", tmp_path / "pool"
    write(root, b"a/1.jpg", b"one")
    write(pool, b"deep/2.jpg", b"two")
    (pool / "back").symlink_to(pool)
    (root / "b").symlink_to(pool)
    (root / "c").symlink_to(pool)
    assert listed(root) == [b"a/1.jpg", b"b/deep/2.jpg"]


def test_folders_as_deep_as_a_path_can_be(tmp_path):
    folders = [os.fsencode(tmp_path) + b"/d" * (depth + 1) for depth in range(1100)]
    for folder in folders:
        os.mkdir(folder)
    write(folders[-1], b"1.jpg", b"deep")
    assert listed(tmp_path) == [b"d/" * 1100 + b"1.jpg"]
    # Here, because what tidies up after tests does not go so deep.
    os.unlink(folders[-1] + b"/1.jpg")
    for folder in reversed(folders):
        os.rmdir(folder)


def test_what_macos_adds_is_no_class(tmp_path):
    write(tmp_path, b"train/a/1.jpg", b"one")
    write(tmp_path, b"test/a/1.jpg", b"two")
    write(tmp_path, b"__MACOSX/train/a/._1.jpg", b"none")
    assert listed(tmp_path) == [b"test/a/1.jpg", b"train/a/1.jpg"]
