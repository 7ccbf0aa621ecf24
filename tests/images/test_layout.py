import pytest

from featx.errors import SourceError
from featx.images.layout import Layout


@pytest.mark.parametrize(
    ("folders", "kind", "name", "place"),
    [
        ([], "flat folder", "a.jpg", (None, None)),
        (["ants", "bees"], "class folders", "ants/1.jpg", ("ants", None)),
        (["ants", "bees"], "class folders", "ants/old/1.jpg", ("ants", None)),
        (["ants", "bees"], "class folders", "1.jpg", (None, None)),
        (["train", "val"], "split folders", "val/ants/1.jpg", ("ants", "val")),
        (["Training", "validation", "TEST"], "split folders", "validation/ants/1.jpg", ("ants", "val")),
        (["Training", "validation", "TEST"], "split folders", "TEST/1.jpg", (None, "test")),
        (["train", "test"], "split folders", "1.jpg", (None, None)),
        (["ants", "dev"], "class folders", "dev/1.jpg", ("dev", None)),
    ],
)
def test_folders_say_class_and_split(folders, kind, name, place):
    layout = Layout.of(folders, "photos")
    assert (layout.kind, layout.place(name)) == (kind, place)


def test_folders_above_say_nothing():
    layout = Layout.of(["train", "test"], "photos", depth=2)
    assert layout.place("a/b/test/ants/1.jpg") == ("ants", "test")
    assert layout.place("a/1.jpg") == (None, None)


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["train", "ants"], r"^photos has folders of splits \(train\) and others .* \(ants\)"),
        (["val", "dev", "bees"], r"^photos has folders of splits \(val, dev\) and others"),
        (
            ["val", "valid", "train"],
            r"^photos has several folders of one split \(val, valid, train\); keep one$",
        ),
    ],
)
def test_what_can_be_meant_in_two_ways_is_refused(folders, words):
    with pytest.raises(SourceError, match=words):
        Layout.of(folders, "photos")
