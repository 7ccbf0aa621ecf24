import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featx.images.folders import FolderSource
from featx.listing import Listing
from featx.records import SPLITS, ImageRecord

texts = st.none() | st.text(max_size=4)
numbers = st.integers(-1, 2**62)
records = st.lists(
    st.builds(
        ImageRecord,
        st.text(st.characters(codec=None), max_size=8),
        texts,
        st.sampled_from([None, *SPLITS]),
        texts,
        numbers,
        numbers,
        st.dictionaries(st.sampled_from(["site", "age", ""]), st.text(max_size=3), max_size=3),
    ),
    max_size=8,
)


@given(records)
@settings(deadline=None)
def test_every_record_comes_back(given):
    listing = Listing(iter(given))
    assert list(listing) == given
    assert [listing[place] for place in range(-len(given), 0)] == given
    assert len(listing) == len(given)
    assert [listing.name(place) for place in range(len(given))] == [record.name for record in given]
    assert list(listing[1::2]) == given[1::2]
    assert list(listing.where(lambda name: len(name) > 3)) == [each for each in given if len(each.name) > 3]


def test_names_of_any_bytes_come_back():
    names = ["ants/\udcff\udc80.jpg", "\ud83d", "a\nb", "😀", ""]
    assert [record.name for record in Listing(map(ImageRecord, names))] == names


def test_a_place_beyond_the_end_is_an_error():
    with pytest.raises(IndexError):
        Listing([ImageRecord("a")])[1]
    with pytest.raises(IndexError):
        Listing()[-1]


def test_a_column_that_comes_late_is_empty_before():
    listing = Listing([ImageRecord("a"), ImageRecord("b", columns={"site": ""}), ImageRecord("c")])
    assert [dict(record.columns) for record in listing] == [{}, {"site": ""}, {}]


def held_bytes(make):
    """Memory that a result holds, and the most that was held while it was made."""
    tracemalloc.start()
    try:
        made = make()
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return len(made), held, most


def test_a_record_takes_its_name_and_little_more():
    count, held, most = held_bytes(
        lambda: Listing(
            ImageRecord(
                f"class-{number % 7}/{number:06}.jpg", f"class-{number % 7}", "train", None, number, 1
            )
            for number in range(20_000)
        )
    )
    assert held < 75 * count
    assert most < 100 * count


@pytest.mark.slow
def test_a_million_files_are_listed_in_little_memory(tmp_path):
    """Half of them in one folder, the others in a thousand: at most 300 bytes a file."""
    for number in range(1000):
        folder = tmp_path / f"class-{number:03}"
        folder.mkdir()
        for place in range(500):
            (folder / f"photo-{place:06}.jpg").touch()
    (tmp_path / "many").mkdir()
    for place in range(500_000):
        (tmp_path / "many" / f"photo-{place:06}.jpg").touch()
    count, held, most = held_bytes(lambda: Listing(FolderSource(tmp_path)))
    assert count == 1_000_000
    assert held < 100 * count
    assert most < 300 * count
