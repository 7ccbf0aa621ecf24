import io
import pickle
import struct
import tempfile
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

import featx
from featx.dataset import open_dataset
from featx.errors import ImageError, SourceError
from featx.images import stored
from featx.images.arrays import ArraySource
from featx.images.loading import digest_of
from featx.images.sources import list_images, open_source
from featx.images.stored import StoredArray, open_arrays
from featx.records import ImageRecord


def noise(*shape, dtype=np.uint8, top=256, seed=0):
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


GREY = noise(5, 6, 7)


@pytest.fixture
def npy(tmp_path):
    def write(array, name="photos.npy"):
        np.save(tmp_path / name, array)
        return tmp_path / name

    return write


@pytest.fixture
def npz(tmp_path):
    def write(save=np.savez, /, **arrays):
        save(tmp_path / "photos.npz", **arrays)
        return tmp_path / "photos.npz"

    return write


def pixels(path):
    source = ArraySource(path)
    return [source.read(record) for record in source]


def said(path):
    return [
        (record.name, record.label, record.split, record.group, dict(record.columns))
        for record in ArraySource(path)
    ]


def labels(path):
    return [record.label for record in ArraySource(path)]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, GREY),
        (GREY[..., None], GREY),
        (GREY[:, None], GREY),
        (noise(5, 6, 7, 3), noise(5, 6, 7, 3)),
        (noise(5, 6, 7, 4), noise(5, 6, 7, 4)),
        (noise(5, 3, 6, 7), np.moveaxis(noise(5, 3, 6, 7), 1, -1)),
        (noise(5, 4, 6, 7), np.moveaxis(noise(5, 4, 6, 7), 1, -1)),
        (noise(1, 6, 7), noise(1, 6, 7)),
        (noise(1, 6, 7, 3), noise(1, 6, 7, 3)),
        (noise(5, 1, 1, 1)[..., 0], noise(5, 1, 1)),
        (np.asfortranarray(GREY), GREY),
        (np.asfortranarray(noise(5, 6, 7, 3)), noise(5, 6, 7, 3)),
        (np.asfortranarray(noise(5, 3, 6, 7)), np.moveaxis(noise(5, 3, 6, 7), 1, -1)),
    ],
    ids=lambda array: f"{array.shape}",
)
def test_shapes(npy, npz, array, expected):
    for path in (npy(array), npz(x=array), npz(np.savez_compressed, x=array)):
        found = pixels(path)
        np.testing.assert_array_equal(found, expected)
        assert all(image.flags.c_contiguous and image.dtype == np.uint8 for image in found)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (noise(6, 7), r"has the shape \(6, 7\); expected \(N, H, W\) or \(N, H, W, 3\)"),
        (noise(2, 2, 6, 7, 3), r"has the shape \(2, 2, 6, 7, 3\); expected"),
        (np.uint8(3), r"has the shape \(\); expected"),
        (noise(6, 7, 3), r"which is one colour image; expected a stack: save image\[None\]"),
        (noise(6, 7, 4), r"which is one colour image"),
        (noise(5, 3, 7, 3), r"of which either axis may be that of the channels"),
        (noise(5, 4, 4, 1), r"either axis may be"),
        (noise(5, 6, 7, 2), r"of which no axis has 1, 3 or 4"),
        (noise(5, 2, 6, 7), r"no axis has 1, 3 or 4"),
        (noise(0, 6, 7), r"has the shape \(0, 6, 7\): there is no image in it"),
        (noise(5, 0, 7), r"there is no image in it"),
        (noise(5, 0, 7, 3), r"there is no image in it"),
        (GREY.astype(complex), r"is of the dtype complex128; expected uint8, uint16 or float"),
        (GREY.astype("M8[D]"), r"is of the dtype datetime64\[D\]"),
        (GREY.astype("U3"), r"is of the dtype <U3"),
    ],
)
def test_what_is_no_stack_of_images(npy, array, words):
    with pytest.raises(SourceError, match=rf"photos\.npy .*{words}") as caught:
        ArraySource(npy(array))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 10_000, 10_000), (1, 10_000, 10_000, 3), (1, 3, 10_000, 10_000)])
def test_images_of_too_many_pixels(tmp_path, shape):
    path = tmp_path / "photos.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(3 * 10_000**2 + 200)  # a hole, which takes no room
    with pytest.raises(SourceError, match=r"has images of 10000×10000 pixels, more than 89,478,485 allowed"):
        ArraySource(path)


STEPS = np.linspace(0, 1, 5 * 6 * 7).reshape(5, 6, 7)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (noise(5, 6, 7, dtype=np.uint16, top=65536), noise(5, 6, 7, dtype=np.uint16, top=65536)),
        (noise(5, 6, 7, dtype=">u2", top=65536), noise(5, 6, 7, dtype=np.uint16, top=65536)),
        (GREY > 99, (GREY > 99) * np.uint8(255)),
        *((GREY.astype(dtype), GREY) for dtype in ("i2", ">i4", "i8", "u4", ">u8", "f4", ">f4", "f8", "f2")),
        (noise(5, 6, 7, dtype="i1", top=128), noise(5, 6, 7, top=128)),
        (GREY / 255, GREY),
        ((GREY / 255).astype("f4"), GREY),
        ((GREY / 255).astype(">f4"), GREY),
        (GREY + 0.4, GREY),
        (GREY / 16, (GREY / 16 + 0.5).astype(np.uint8)),
        (STEPS.astype("f2"), (STEPS.astype("f2").astype("f8") * 255 + 0.5).astype(np.uint8)),
        (STEPS - 0.001, (STEPS.clip(0.001) * 255 - 0.255 + 0.5).astype(np.uint8)),
        (np.zeros((5, 6, 7)), np.zeros((5, 6, 7), np.uint8)),
        (np.ones((5, 6, 7)), np.full((5, 6, 7), 255, np.uint8)),
        (np.zeros((5, 6, 7), "i8"), np.zeros((5, 6, 7), np.uint8)),
        (np.ones((5, 6, 7), "i8"), np.ones((5, 6, 7), np.uint8)),
    ],
)
def test_dtypes(npy, array, expected):
    found = pixels(npy(array))
    np.testing.assert_array_equal(found, expected)
    assert {image.dtype for image in found} == {expected.dtype}


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (
            GREY.astype("i2") - 1,
            "values from -1 to 254; expected pixels, from 0 to 255 or floats from 0 to 1",
        ),
        (GREY.astype("i4") + 1, "values from 1 to 256"),
        (GREY / 255 - 0.5, r"values from -0\.5 to 0\.5; .*: undo a standardisation"),
        (GREY / 255 - 0.1, r"values from -0\.1 to 0\.9"),
        (GREY / 170, r"values from 0 to 1\.5"),
        (GREY * 16.0, r"values from 0 to 4080"),
        ((GREY / 255 - 0.45) / 0.225, r"values from -2 to 2\.44444"),
    ],
)
def test_other_ranges_are_refused_and_not_stretched(npy, array, words):
    source = ArraySource(npy(array))
    records = list_images(source)
    for record in records[:2]:
        with pytest.raises(SourceError, match=words):
            source.read(record)


def test_the_range_is_that_of_all_images_and_found_once(npy, monkeypatch):
    monkeypatch.setattr(stored, "BLOCK_BYTES", 700)
    array = np.stack([np.full((6, 7), value, np.float64) for value in (0.5, 1, 200)])
    source = ArraySource(npy(array))
    read, original = [], StoredArray.rows
    monkeypatch.setattr(
        StoredArray,
        "rows",
        lambda self, start, stop: read.append((start, stop)) or original(self, start, stop),
    )
    records = list_images(source)
    assert read == []
    assert [source.read(record)[0, 0] for record in records] == [1, 1, 200]
    assert read == [(0, 1), (0, 2), (2, 4), (1, 2), (2, 3)]


def test_values_that_are_no_numbers(npy):
    array = (GREY / 255).astype("f4")
    array[0, 0, :2] = np.nan, np.inf
    array[1] = np.nan
    array[2] = -np.inf
    source = ArraySource(npy(array))
    records = list_images(source)
    first = GREY[0].copy()
    first[0, :2] = 0
    np.testing.assert_array_equal(source.read(records[0]), first)
    np.testing.assert_array_equal(source.read(records[3]), GREY[3])
    for record in records[1:3]:
        with pytest.raises(ImageError, match=r"^no pixel is a finite number$"):
            source.read(record)
    array = GREY.astype("f4")
    array[0, 0, :2] = np.nan, -np.inf
    np.testing.assert_array_equal(pixels(npy(array)), [first, *GREY[1:]])
    nothing = ArraySource(npy(np.full((2, 6, 7), np.nan)))
    with pytest.raises(ImageError, match="no pixel is a finite number"):
        nothing.read(ImageRecord("0"))


FIVE = ["ants", "bees", "ants", "", "wasps"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array([3, 1, 0, -1, 12]), ["3", "1", "0", "-1", "12"]),
        (np.array([3, 1, 0, 2, 12], ">i2"), ["3", "1", "0", "2", "12"]),
        (np.array([3, 1, 0, 2, 12], "u1"), ["3", "1", "0", "2", "12"]),
        (np.array([[3], [1], [0], [2], [12]]), ["3", "1", "0", "2", "12"]),
        (np.array([3.0, 1.0, -0.0, np.nan, 12.0]), ["3", "1", "0", None, "12"]),
        (np.array([True, False, True, True, False]), ["1", "0", "1", "1", "0"]),
        (np.array(FIVE), ["ants", "bees", "ants", None, "wasps"]),
        (np.array(FIVE)[:, None], ["ants", "bees", "ants", None, "wasps"]),
        (np.array([" a ", "new\nline", "🦉", "b\udcff", "  "]), ["a", "new\nline", "🦉", "b\udcff", None]),
        (np.array([b"ants", b"\xff", b"", "ü".encode(), b"x"]), ["ants", "\udcff", None, "ü", "x"]),
        (np.array(FIVE).astype(">U8"), ["ants", "bees", "ants", None, "wasps"]),
        (np.eye(3)[[0, 1, 2, 1, 0]], ["0", "1", "2", "1", "0"]),
        (np.eye(3, dtype=bool)[[0, 1, 2, 1, 0]], ["0", "1", "2", "1", "0"]),
        (np.eye(3, dtype=">i8")[[0, 1, 2, 1, 0]], ["0", "1", "2", "1", "0"]),
        (np.asfortranarray(np.eye(3, dtype="f4")[[0, 1, 2, 1, 0]]), ["0", "1", "2", "1", "0"]),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_labels(npz, given, expected, monkeypatch):
    for name in ("labels", "label", "y", "Y", "targets", "target"):
        assert labels(npz(images=GREY, **{name: given})) == expected
    assert labels(npz(np.savez_compressed, images=GREY, labels=given)) == expected
    monkeypatch.setattr(stored, "BLOCK_BYTES", 2 * given[0].nbytes)
    assert labels(npz(images=GREY, labels=given)) == expected


SOFT = np.eye(3)[[0, 1, 2, 1, 0]] * 0.8 + 0.2 / 3
SEVERAL = np.eye(3, dtype=int)[[0, 1, 2, 1, 0]]
SEVERAL[3] = 1, 1, 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            np.arange(4),
            r"labels of .*photos\.npz has the shape \(4,\) beside 5 images; expected one label for each",
        ),
        (np.int64(3), r"has the shape \(\) beside 5 images"),
        (noise(5, 6, 7), r"has the shape \(5, 6, 7\) beside 5 images"),
        (
            SEVERAL,
            r"shape \(5, 3\) and is not one-hot, row 3 being \[1, 1, 0\]; expected one class per image",
        ),
        (SOFT.round(2), r"is not one-hot, row 0 being \[0\.87, 0\.07, 0\.07\]"),
        (np.zeros((5, 3)), r"is not one-hot, row 0 being \[0\.0, 0\.0, 0\.0\]"),
        (np.eye(3)[[0, 1, 2, 1, 0]] * [1, 1, np.nan], r"is not one-hot, row 0 being"),
        (np.eye(3)[[0, 1, 2, 1, 0]] * 2, r"is not one-hot, row 0 being \[2\.0, 0\.0, 0\.0\]"),
        (np.full((5, 2), 2), r"is not one-hot, row 0 being \[2, 2\]"),
        (np.zeros((5, 0)), r"is not one-hot, row 0 being \[\]"),
        (np.zeros((5, 12)), r"row 0 being \[(0\.0, ){10}…\]"),
        (np.array([FIVE, FIVE]).T, r"has the shape \(5, 2\); expected one class per image"),
        (np.array([1, 2, 0.5, 3, 4]), r"holds 0\.5 at 2, which is no class; expected integers or text"),
        (np.array([1, 2, 3, np.inf, 4]), r"holds inf at 3, which is no class"),
        (np.arange(5) * 1j, r"is of the dtype complex128; expected numbers or text"),
        (np.zeros(5, [("a", int)]), r"is of the dtype \[\('a', '<i8'\)\]; expected numbers or text"),
        (np.array(["a", "b\0c", "d", "e", "f"]), r"holds a NUL character or half of a surrogate pair at 1"),
        (np.array(["a", "b", "\ud800", "e", "f"]), r"half of a surrogate pair at 2; save it as plain text"),
        (np.full(5, 0x7FFFFFFF, "<i4").view("<U1"), r"labels of .* cannot be read as text"),
    ],
)
def test_what_is_no_label_is_refused_with_the_remedy(npz, given, words, monkeypatch):
    for save in (np.savez, np.savez_compressed):
        with pytest.raises(SourceError, match=words) as caught:
            labels(npz(save, images=GREY, labels=given))
        assert "\n" not in str(caught.value)
    if given.ndim == 2 and len(given) == 5 and given.size:
        monkeypatch.setattr(stored, "BLOCK_BYTES", 2 * given[0].nbytes)
        with pytest.raises(SourceError, match=words):
            labels(npz(images=GREY, labels=given))


class Trap:
    """An object whose unpickling would be noticed."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


@pytest.mark.parametrize("name", ["labels", "groups", "names", "images", "site"])
def test_objects_are_never_unpickled(npz, name):
    trap = np.array([Trap()] * 5, dtype=object)
    arrays = {"images": GREY, "labels": np.arange(5)} | {name: trap}
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung
    Trap.sprung = False
    path = npz(**arrays)
    if name in ("names", "site"):  # nobody needs them
        assert said(path) == [(str(index), str(index), None, None, {}) for index in range(5)]
    else:
        words = {
            "labels": r"labels of .* holds objects of Python, which can be code and are not read",
            "groups": r"groups of .* is object \(5,\) beside 5 images; expected numbers or text",
            "images": r"holds images object \(5,\), labels int64 \(5,\); expected images, .*of several sizes",
        }
        with pytest.raises(SourceError, match=words[name]):
            said(path)
    assert not Trap.sprung


@pytest.mark.parametrize(
    ("images", "others"),
    [
        ("images", {}),
        ("anything", {}),
        ("arr_0", {"arr_1": np.arange(5)}),
        ("X", {"y": np.arange(5)}),
        ("Images", {"masks": GREY, "depth": GREY}),
        ("data", {"boxes": noise(5, 9, 4)}),
        ("x", {"class_names": np.array(["a", "b"])}),
        ("images", {"weights": np.zeros(3), "matrix": np.zeros((5, 5)), "zero": 1}),
    ],
)
def test_the_images_are_found(npz, images, others):
    path = npz(**others, **{images: GREY})
    np.testing.assert_array_equal(pixels(path), GREY)
    labelled = "arr_1" in others or "y" in others
    assert said(path) == [
        (str(index), str(index) if labelled else None, None, None, {}) for index in range(5)
    ]


TEN, TWO = noise(10, 6, 7, seed=1), noise(2, 6, 7, seed=2)


@pytest.mark.parametrize(
    "names",
    [
        "x_train y_train x_val y_val x_test y_test",
        "X_train Y_train X_valid Y_valid X_test Y_test",
        "train_images train_labels val_images val_labels test_images test_labels",
        "images_training labels_training images_dev labels_dev images_testing labels_testing",
        "train train_y val val_y test test_y",
    ],
)
def test_splits_by_name(npz, names):
    values = (TEN, np.arange(10)[:, None], GREY, np.arange(5), TWO, np.arange(2))
    pairs = list(zip(names.split(), values, strict=True))
    path = npz(**dict(pairs[::-1]))
    expected = [
        (f"{split}/{index}", str(index), split, None, {})
        for split, count in (("train", 10), ("val", 5), ("test", 2))
        for index in range(count)
    ]
    assert said(path) == expected
    np.testing.assert_array_equal(pixels(path), [*TEN, *GREY, *TWO])


def test_what_belongs_to_each_split(npz):
    path = npz(
        train_images=TEN,
        train_labels=np.arange(10) % 2,
        train_groups=np.arange(10) // 5,
        train_site=np.array(["n", "s"] * 5),
        test_images=TWO,
        test_labels=np.array([1, 0]),
        test_names=np.array(["a.png", "b.png"]),
        class_names=np.array(["ants", "bees"]),
    )
    found = said(path)
    assert found[0] == ("train/0", "ants", "train", "0", {"site": "n"})
    assert found[9] == ("train/9", "bees", "train", "1", {"site": "s"})
    assert found[10:] == [
        ("test/a.png", "bees", "test", None, {}),
        ("test/b.png", "ants", "test", None, {}),
    ]
    np.testing.assert_array_equal(pixels(path), [*TEN, *TWO])


def test_what_is_said_of_each_image(npz):
    path = npz(
        images=GREY,
        labels=np.array([1, 0, 1, 0, 1]),
        categories=np.array([b"ants", b"bees"]),
        group=np.array([7.0, np.nan, 8.0, 8.0, 9.0]),
        split=np.array(["train", "Training", "", "dev", "test"]),
        filenames=np.array(["a.png", "b\n.png", "\udcff", "x/c.png", "4"]),
        site=np.array(["n", "", "s", "s", "n"]),
        age=np.array([1.0, np.nan, 3.0, 4.0, 5.0], "f4"),
        Dose=np.array([0.1, 0.2, 0.3, np.nan, 2.0], "f4"),
        ok=np.array([[True], [False], [True], [True], [True]]),
        seen=np.array(["2026-11-21", "NaT", "2026-11-22", "NaT", "NaT"], "M8[D]"),
        matrix=np.eye(5),
        short=np.arange(4),
        wave=np.arange(5) * 1j,
    )
    assert said(path) == [
        (
            "a.png",
            "bees",
            "train",
            "7",
            {"site": "n", "age": "1", "Dose": "0.1", "ok": "True", "seen": "2026-11-21"},
        ),
        ("b\n.png", "ants", "train", None, {"Dose": "0.2", "ok": "False"}),
        (
            "\udcff",
            "bees",
            None,
            "8",
            {"site": "s", "age": "3", "Dose": "0.3", "ok": "True", "seen": "2026-11-22"},
        ),
        ("x/c.png", "ants", "val", "8", {"site": "s", "age": "4", "ok": "True"}),
        ("4", "bees", "test", "9", {"site": "n", "age": "5", "Dose": "2.0", "ok": "True"}),
    ]
    np.testing.assert_array_equal(pixels(path), GREY)


@pytest.mark.parametrize("name", ["class_names", "classes", "Classes", "label_names", "categories"])
def test_names_of_classes(npz, name):
    names = np.array(["ants", "bees", "wasps"])
    assert labels(npz(images=GREY, y=np.array([2, 0, 1, 1, 0]), **{name: names})) == [
        "wasps", "ants", "bees", "bees", "ants",
    ]  # fmt: skip
    assert labels(npz(images=GREY, y=np.eye(3)[[2, 0, 1, 1, 0]], **{name: names}))[0] == "wasps"
    assert labels(npz(images=GREY, y=np.array([2, 0, np.nan, 1, 0]), **{name: names}))[1:3] == ["ants", None]
    # What is text already needs no names, and one for each image is a column.
    assert labels(npz(images=GREY, y=np.array(FIVE), **{name: names}))[0] == "ants"
    assert said(npz(images=GREY, **{name: np.array(FIVE)}))[1][-1] == {name: "bees"}
    each = np.array(["a", "b", "c", "d", "e"])
    assert said(npz(images=GREY, y=np.array(FIVE), **{name: each}))[1][1:] == (
        "bees",
        None,
        None,
        {name: "b"},
    )
    assert said(npz(images=GREY, y=np.array([2, 0, 1, 1, 0]), **{name: each}))[1][1:] == ("a", None, None, {})
    for bad in (3, -1):
        with pytest.raises(
            SourceError, match=rf"holds {bad} at 2, and there are 3 names of classes, from 0 on"
        ):
            labels(npz(images=GREY, y=np.array([2, 0, bad, 1, 0]), **{name: names}))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, r"holds no arrays; expected images"),
        ({"X": noise(5, 42)}, r"holds X uint8 \(5, 42\); expected images, .*: reshape rows of pixels"),
        ({"a": GREY, "b": GREY}, r"may have its images in any of a, b; rename the right one to images"),
        ({"images": GREY, "data": GREY}, r"in any of images, data; rename"),
        (
            {"images": GREY, "labels": np.arange(5), "y": np.arange(5)},
            r"has labels, y, which mean the same; keep one",
        ),
        ({"X": GREY, "x": GREY}, r"in any of X, x"),
        (
            {"images": GREY, "groups": np.arange(4)},
            r"groups of .* is int64 \(4,\) beside 5 images; expected numbers",
        ),
        (
            {"images": GREY, "split": np.array(["a"] * 5)},
            r"split of .* holds a at 0; expected train, val or test",
        ),
        ({"images": GREY, "split": np.arange(5)}, r"holds 0 at 0; expected train"),
        ({"images": GREY, "names": np.array([*"abcab"])}, r"names a at 0 and at 3; make the names differ"),
        ({"images": GREY, "names": np.array([*FIVE[1:], "x"])}, r"has no name for the image at 2; add it"),
        ({"x_train": TEN, "x_val": GREY, "x_valid": TWO}, r"has both x_val and x_valid; keep one"),
        ({"x_train": TEN, "train_x": TEN}, r"has both x_train and train_x; keep one"),
        (
            {"x_train": TEN, "images": TEN},
            r"has the images images beside those of splits; rename them to train_im",
        ),
        (
            {"x_train": TEN, "y_test": np.arange(2)},
            r"has labels of the split test and no images of it; add them",
        ),
        ({"x_train": TEN, "y_train": np.arange(9)}, r"y_train of .* has the shape \(9,\) beside 10 images"),
        ({"images": noise(5, 3, 7, 3)}, r"the array images of .* either axis may be"),
    ],
)
def test_what_can_be_meant_in_two_ways_or_is_missing(npz, arrays, words):
    with pytest.raises(SourceError, match=words) as caught:
        said(npz(**arrays))
    assert "\n" not in str(caught.value)


def test_a_second_array_is_labels_only_where_the_first_has_no_name_either(npz):
    assert said(npz(images=GREY, arr_1=np.arange(5)))[3] == ("3", None, None, None, {"arr_1": "3"})


def test_objects_that_take_fewer_bytes_in_the_file_than_in_memory(npz):
    images, nothing = noise(900, 2, 2), np.full(900, None)
    assert said(npz(images=images, note=nothing))[899] == ("899", None, None, None, {})
    with pytest.raises(SourceError, match=r"labels of .* holds objects of Python"):
        said(npz(images=images, labels=nothing))


def test_a_column_that_is_called_like_a_split_is_none_without_images_of_it(npz):
    assert said(npz(images=GREY, test_id=np.arange(5)))[3] == ("3", None, None, None, {"test_id": "3"})


def test_records_know_size_and_time(npy, npz):
    path = npy(noise(5, 6, 7, 3))
    for record in ArraySource(path):
        assert (record.size, record.mtime_ns) == (6 * 7 * 3, path.stat().st_mtime_ns)
    path = npz(np.savez_compressed, x=GREY.astype("f4"))
    source = ArraySource(path, location="s3://bucket/x.npz", mtime_ns=7)
    assert {(record.size, record.mtime_ns) for record in source} == {(6 * 7 * 4, 7)}
    assert (source.kind, source.location) == ("arrays", "s3://bucket/x.npz")
    assert ArraySource(path).location == str(path.resolve())
    with pytest.raises(SourceError, match=r"^s3://bucket/y holds no arrays"):
        ArraySource(npz(), location="s3://bucket/y")


def test_equal_pixels_have_one_digest_however_they_are_stored(npy, npz):
    expected = [digest_of(image) for image in GREY]
    for path in (
        npy(GREY),
        npy(GREY[..., None], "b.npy"),
        npy(GREY[:, None], "c.npy"),
        npy(np.asfortranarray(GREY), "d.npy"),
        npy(GREY.astype(">f8"), "e.npy"),
        npy(GREY / 255, "f.npy"),
        npz(np.savez_compressed, x=GREY),
    ):
        assert list(map(digest_of, pixels(path))) == expected
    colour = noise(5, 6, 7, 3)
    expected = [digest_of(image) for image in colour]
    assert list(map(digest_of, pixels(npy(np.moveaxis(colour, -1, 1))))) == expected


def test_listing_reads_no_pixel(npz, monkeypatch):
    read, original = [], StoredArray.rows
    monkeypatch.setattr(
        StoredArray, "rows", lambda self, start, stop: read.append(self.called) or original(self, start, stop)
    )
    for save in (np.savez, np.savez_compressed):
        list_images(ArraySource(npz(save, x_train=TEN / 255, y_train=np.arange(10), x_test=TWO / 255)))
    assert {called.partition(" of ")[0] for called in read} == {"the array y_train"}


def test_what_is_compressed_is_unpacked_once_by_many_threads(npz, monkeypatch):
    many = noise(64, 6, 7)
    source = ArraySource(npz(np.savez_compressed, x_train=many, x_test=np.asfortranarray(many[::-1])))
    made, original = [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: made.append(0) or original())
    records = list_images(source)
    barrier = threading.Barrier(8)

    def read(start):
        barrier.wait()
        return [(index, source.read(records[index])) for index in range(start, 128, 8)]

    with ThreadPoolExecutor(8) as pool:
        found = dict(pair for pairs in pool.map(read, range(8)) for pair in pairs)
    np.testing.assert_array_equal([found[index] for index in range(128)], [*many, *many[::-1]])
    assert len(made) == 3  # one of them twice: unpacked, and turned


def test_stored_members_are_read_where_they_lie(npz, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    path = npz(first=np.arange(77), images=noise(5, 6, 7, 3), labels=np.arange(5))
    np.testing.assert_array_equal(pixels(path), noise(5, 6, 7, 3))
    # A zip may stand behind something else, as in a program that unpacks itself.
    path.write_bytes(b"#!/bin/sh\n" * 9 + path.read_bytes())
    np.testing.assert_array_equal(pixels(path), noise(5, 6, 7, 3))


@pytest.mark.parametrize("has_pread", [True, False])
def test_machines_without_pread(npz, has_pread, monkeypatch):
    if not has_pread:
        monkeypatch.delattr(stored.os, "pread")
    many = noise(64, 6, 7)
    for save in (np.savez, np.savez_compressed):
        source = ArraySource(npz(save, x=many))
        records = list_images(source)
        with ThreadPoolExecutor(8) as pool:
            np.testing.assert_array_equal(list(pool.map(source.read, records)), many)


def test_nothing_is_left_open(npz):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for save in (np.savez, np.savez_compressed):
            source = ArraySource(npz(save, x=np.asfortranarray(GREY), y=np.arange(5)))
            assert len([source.read(record) for record in source]) == 5
            files = [
                array._place[0].raw for array in (source._parts[0].stack._array, source._parts[0].labels)
            ]
            assert not any(file.closed for file in files)
            del source
            assert all(file.closed for file in files)


def header_of(shape, dtype="|u1", length=None):
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    data = bytearray(stream.getvalue())
    if length is not None:
        data[8:12] = struct.pack("<I", length)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"cannot be read as NumPy's arrays \(File is not a zip file\); save them again"),
        (b"no arrays at all", r"cannot be read as NumPy's arrays"),
        (b"\x93NUMPY", r"cannot be read as NumPy's arrays \(.*magic string"),
        (b"\x93NUMPY\x09\x00" + b"x" * 99, r"version \(9, 0\)"),
        (b"\x93NUMPY\x01\x00\x05\x00{'a':", r"cannot be read as NumPy's arrays"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, r"cannot be read as NumPy's arrays"),
        (
            header_of((9, 6, 7)) + b"x" * 377,
            r"promises 378 bytes of values of the shape \(9, 6, 7\), and has 377",
        ),
        (
            header_of((10**12, 10**6, 10**6)),
            r"promises 1,000,000,000,000,000,000,000,000 bytes .*, and has 0",
        ),
        (header_of((5, -6, 7)) + b"x" * 999, r"it is not whole: get the file again"),
        (header_of((10**12, 0, 7)), r"there is no image in it"),
        (header_of((10**12, 6, 7), "|S0"), r"is of the dtype \|S0"),
        (header_of((5, 6, 7), length=2**31), r"cannot be read as NumPy's arrays"),
    ],
)
def test_files_that_are_damaged_or_promise_too_much(tmp_path, data, words):
    for name in ("photos.npy", "photos.npz"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=rf"photos\.np[yz] .*{words}") as caught:
            said(tmp_path / name)
        assert "\n" not in str(caught.value)


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header_of((100_000, 1000, 1000)), r"x of .* promises 100,000,000,000 bytes of values of the shape"),
        (header_of((9, 6, 7)) + b"x" * 377, r"promises 378 bytes .*, and has 377"),
        (header_of((9, 6, 7), length=2**31 - 1) + b" " * 5_000_000, r"cannot be read as NumPy's arrays"),
        (b"text", r"cannot be read as NumPy's arrays"),
    ],
)
def test_members_that_promise_too_much(tmp_path, compression, data, words):
    path = zipped(tmp_path / "photos.npz", {"x.npy": data}, compression)
    with pytest.raises(SourceError, match=words):
        ArraySource(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_small_file_that_says_it_holds_a_hundred_gigabytes_is_not_believed(tmp_path, compression):
    header = header_of((100_000, 1000, 1000))
    path = zipped(tmp_path / "photos.npz", {"x.npy": header + b"x" * 100}, compression)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    # Sizes of more than 32 bits stand in a field of their own, 4 GiB is enough here.
    size = struct.pack("<I", 2**32 - 2)
    data[entry + 24 : entry + 28] = size
    if compression == zipfile.ZIP_STORED:
        data[entry + 20 : entry + 24] = size
    path.write_bytes(data)
    with pytest.raises(
        SourceError, match=r"promises 4,294,967,294 bytes, more than can be in this file; it is not"
    ):
        ArraySource(path)


def test_a_member_that_unpacks_to_less_than_it_says(tmp_path):
    array = np.zeros((50, 6, 7), np.uint8)
    stream = io.BytesIO()
    np.save(stream, array)
    path = zipped(tmp_path / "photos.npz", {"x.npy": stream.getvalue()[:-42]})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", len(stream.getvalue()))
    path.write_bytes(data)
    source = ArraySource(path)
    with pytest.raises(
        SourceError, match=r"cannot be read as NumPy's arrays \((42 bytes are missing|Bad CRC-32)"
    ):
        source.read(ImageRecord("0"))


def test_a_changed_byte_of_what_is_compressed_is_noticed(npz):
    path = npz(np.savez_compressed, images=noise(50, 60, 70))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    source = ArraySource(path)
    with pytest.raises(
        SourceError, match=r"images of .*photos\.npz cannot be read as NumPy's arrays \(.+\); save"
    ):
        source.read(ImageRecord("0"))


def test_a_temporary_disk_without_room(npz, monkeypatch):
    for save, array in ((np.savez_compressed, GREY), (np.savez, np.asfortranarray(GREY))):
        source = ArraySource(npz(save, x=array))
        with monkeypatch.context() as patched:
            patched.setattr(stored.shutil, "disk_usage", lambda folder: SimpleNamespace(free=209))
            with pytest.raises(
                SourceError, match=r"^210 bytes have to be unpacked, and .* has room for 209; set TMPDIR"
            ):
                source.read(ImageRecord("0"))
        assert source.read(ImageRecord("0")).shape == (6, 7)  # there is room now


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_numpy_does_not_write(tmp_path, compression):
    stream = io.BytesIO()
    np.save(stream, GREY)
    path = zipped(tmp_path / "photos.npz", {"x.npy": stream.getvalue()}, compression)
    with pytest.raises(
        SourceError, match=r"x of .* is compressed as NumPy never does it; save it with numpy.savez"
    ):
        ArraySource(path)


def test_other_files_in_a_zip_are_no_arrays(tmp_path):
    stream = io.BytesIO()
    np.save(stream, GREY)
    path = zipped(tmp_path / "photos.npz", {"readme.txt": b"hello", "images.npy": stream.getvalue()})
    np.testing.assert_array_equal(pixels(path), GREY)
    with pytest.raises(SourceError, match="holds no arrays"):
        ArraySource(zipped(tmp_path / "other.npz", {"readme.txt": b"hello"}))


def test_a_file_that_becomes_shorter_costs_images_and_no_more(npy, npz):
    for path in (npy(GREY), npz(x=GREY)):
        source = ArraySource(path)
        records = list_images(source)
        with path.open("r+b") as file:
            file.truncate(path.read_bytes().index(GREY.tobytes()) + 3 * 42 + 1)
        np.testing.assert_array_equal([source.read(record) for record in records[:3]], GREY[:3])
        for record in records[3:]:
            with pytest.raises(OSError, match="the file has become shorter"):
                source.read(record)


def test_a_file_that_is_replaced_is_read_as_it_was(npy):
    path = npy(GREY)
    source = ArraySource(path)
    path.unlink()
    npy(GREY + 1)
    np.testing.assert_array_equal([source.read(record) for record in source], GREY)


def test_records_of_another_source(npy, npz):
    for source in (ArraySource(npy(GREY)), ArraySource(npz(x_train=GREY, train_names=np.array([*"abcde"])))):
        for name in ("5", "-1", "0.5", "x", "train/0", "train/", "test/0", "", "/0"):
            with pytest.raises(ImageError, match="is no image of these arrays"):
                source.read(ImageRecord(name))


def test_a_number_without_its_split_is_no_name(npz):
    source = ArraySource(npz(x_train=GREY))
    np.testing.assert_array_equal(source.read(ImageRecord("train/4")), GREY[4])
    for name in ("4", "test/4", "train/5", "train/train/4"):
        with pytest.raises(ImageError, match="is no image of these arrays"):
            source.read(ImageRecord(name))


def test_a_source_that_cannot_be_read(tmp_path):
    with pytest.raises(SourceError, match=r"gone\.npz cannot be read: No such file"):
        ArraySource(tmp_path / "gone.npz")


def test_rows_and_blocks(npz, monkeypatch):
    monkeypatch.setattr(stored, "BLOCK_BYTES", 100)
    array = open_arrays(npz(x=GREY), "photos.npz")["x"]
    np.testing.assert_array_equal(array.rows(1, 99), GREY[1:])
    assert array.rows(3, 2).shape == (0, 6, 7)
    assert [len(block) for block in array.blocks()] == [2, 2, 1]
    assert (array.nbytes, array.row_bytes, str(array)) == (210, 42, "uint8 (5, 6, 7)")


@pytest.mark.parametrize("ending", ["npy", "npz", "compressed"])
def test_end_to_end(tmp_path, ending, monkeypatch):
    images = noise(12, 10, 9, 3)
    images[7] = images[0]
    path = tmp_path / ("photos.npy" if ending == "npy" else "photos.npz")
    if ending == "npy":
        np.save(path, images / 255)
    else:
        save = np.savez if ending == "npz" else np.savez_compressed
        sites = np.array(["n", "s", ""] * 4)
        save(path, images=images, labels=np.arange(12) % 2, classes=["ants", "bees"], site=sites)
    options = {"backbone": "pixels", "image_size": 8}
    store = featx.extract(path, tmp_path / "x.h5", **options)
    assert list(store.names) == [str(index) for index in range(12)]
    assert (store.summary.computed, len(store.skipped)) == (11, 0)
    digests = [digest_of(image) for image in images]
    assert [digest.tobytes() for digest in np.asarray(store.digests)] == digests
    if ending != "npy":
        assert list(store.y) == ["ants", "bees"] * 6
        assert open_dataset([store], label="site").labels.tolist() == ["n", "s", ""] * 4
    memory = featx.extract(images, tmp_path / "y.h5", **options)
    np.testing.assert_array_equal(store.X("flatten"), memory.X("flatten"))

    monkeypatch.setattr(ArraySource, "read", None)  # an unchanged file is known by size and time
    again = featx.extract(path, tmp_path / "x.h5", **options)
    assert again.summary.computed == 0


def test_values_that_are_no_pixels_end_the_run(npy, tmp_path):
    with pytest.raises(SourceError, match=r"values from -0\.5 to 0\.5; expected pixels"):
        featx.extract(npy(GREY / 255 - 0.5), tmp_path / "x.h5", backbone="pixels", image_size=8)


def test_arrays_are_opened_by_their_ending(npy):
    source = open_source(npy(GREY).rename(npy(GREY).with_name("PHOTOS.NPY")))
    assert (type(source), source.kind) == (ArraySource, "arrays")
    assert len(list_images(source)) == 5
