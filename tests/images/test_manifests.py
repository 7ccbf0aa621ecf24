import codecs
import csv
import datetime
import decimal
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import photo, png

import featx
from featx.dataset import open_dataset
from featx.errors import ImageError, SourceError
from featx.images import manifests, tables
from featx.images.manifests import ManifestSource
from featx.images.sources import list_images, open_source
from featx.records import SPLITS


def said(record):
    return record.name, record.label, record.split, record.group, dict(record.columns)


def rows(path, **options):
    return [said(record) for record in ManifestSource(path, **options)]


@pytest.fixture
def table(tmp_path):
    def write(text, name="photos.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
        return path

    return write


@pytest.fixture
def parquet(tmp_path):
    def write(columns, **options):
        path = tmp_path / "photos.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
        return path

    return write


WHOLE = ("a.jpg", "ants", "val", "north", {"age": "7"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path,label,split,group,age\na.jpg,ants,val,north,7\n"),
        ("a.csv", "path;label;split;group;age\na.jpg;ants;val;north;7\n"),
        ("a.csv", "path\tlabel\tsplit\tgroup\tage\na.jpg\tants\tval\tnorth\t7\n"),
        ("a.tsv", "path\tlabel\tsplit\tgroup\tage\na.jpg\tants\tval\tnorth\t7\n"),
        ("A.CSV", "path,label,split,group,age\r\na.jpg,ants,val,north,7\r\n"),
        ("a.csv", "path,label,split,group,age\na.jpg,ants,val,north,7"),
        ("a.csv", '"path","label","split","group","age"\n"a.jpg","ants","val","north","7"\n'),
        ("a.csv", '"path";"label";"split";"group";"age"\n"a.jpg";"ants";"val";"north";"7"\n'),
        ("a.csv", "path, label, split, group, age\na.jpg, ants, val, north, 7\n"),
        ("a.csv", ' Path ,LABEL,Split,"Group",age\n  a.jpg  , "ants",VALIDATION , north,7\n'),
        ("a.csv", "age,group,split,label,path\n7,north,dev,ants,a.jpg\n"),
        ("a.csv", "filename,class,split,group,age\na.jpg,ants,Valid,north,7\n"),
        ("a.csv", "\n\npath,label,split,group,age\n\na.jpg,ants,val,north,7\n,,,,\n \n"),
        ("a.csv", "path,label,split,group,age,,\na.jpg,ants,val,north,7,9,9\n"),
        ("a.csv", ",path,label,split,group,age\n0,a.jpg,ants,val,north,7\n"),
        ("a.csv", "path,label,split,group,age\na.jpg,ants,val,north,7,,,\n"),
    ],
)
def test_tables_as_people_write_them_say_the_same(table, name, text):
    (found,) = rows(table(text, name))
    if "class" in text:
        assert found[-1].pop("class") == "ants"
    assert found == WHOLE


def test_a_byte_order_mark_is_no_part_of_a_name(table):
    path = table(codecs.BOM_UTF8 + "path,größe\nä.jpg,ü\n".encode())
    assert rows(path) == [("ä.jpg", None, None, None, {"größe": "ü"})]


def test_quotes_delimiters_and_newlines_are_those_of_the_csv_module(table):
    path = table('path,label,note\n"a,b.jpg","the ""ants""","one\ntwo"\n"new\nline.jpg",bees,x;y\n')
    assert rows(path) == [
        ("a,b.jpg", 'the "ants"', None, None, {"note": "one\ntwo"}),
        ("new\nline.jpg", "bees", None, None, {"note": "x;y"}),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("path;a,b,c\nx.jpg;1,2,3\n", {"a,b,c": "1,2,3"}),
        ("path,a;b;c\nx.jpg,1;2;3\n", {"a;b;c": "1;2;3"}),
        ("path\ta,b;c\nx.jpg\t1,2;3\n", {"a,b;c": "1,2;3"}),
        ("path\nx.jpg\n", {}),
    ],
)
def test_the_delimiter_is_the_one_that_gives_a_column_of_paths(table, text, found):
    assert rows(table(text)) == [("x.jpg", None, None, None, found)]


def test_a_tsv_has_no_other_delimiter(table):
    with pytest.raises(SourceError, match="has the columns path,label; expected one named path"):
        ManifestSource(table("path,label\na.jpg,ants\n", "a.tsv"))


def test_stray_bytes_survive(table, tmp_path):
    name = b"caf\xe9.jpg"
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"image")
    source = ManifestSource(table(b"path,label,gr\xf6\xdfe\n" + name + b",\xff,\xe9\n"))
    (record,) = source
    assert os.fsencode(record.name) == name
    assert os.fsencode(record.label) == b"\xff"
    assert {key: os.fsencode(value) for key, value in record.columns.items()} == {
        r"gr\udcf6\udcdfe": b"\xe9"  # what HDF5 can have as a name
    }
    assert source.read(record) == b"image"
    assert record.size == 5


@pytest.mark.parametrize("name", manifests.PATH_COLUMNS)
def test_other_names_of_the_column_of_paths(table, name):
    assert rows(table(f"id,{name.upper()}\n1,a.jpg\n")) == [("a.jpg", None, None, None, {"id": "1"})]


def test_a_column_called_path_comes_before_the_others(table):
    assert rows(table("image,path\n1,a.jpg\n")) == [("a.jpg", None, None, None, {"image": "1"})]


def test_class_is_the_label_where_there_is_no_other_and_stays_a_column(table):
    assert rows(table("path,class\na,ants\n")) == [("a", "ants", None, None, {"class": "ants"})]
    assert rows(table("path,class,label\na,ants,bees\n")) == [("a", "bees", None, None, {"class": "ants"})]


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("VALID", "val"),
        ("dev", "val"),
        ("test", "test"),
        ("", None),
    ],
)
def test_words_of_splits(table, word, split):
    assert rows(table(f"path,split\na,{word}\nb,train\n"))[0][2] == split


def test_empty_cells_are_nothing(table):
    path = table("path,label,split,group,x,y\na,,,,,1\nb, , , , ,\nc\n")
    assert rows(path) == [
        ("a", None, None, None, {"y": "1"}),
        ("b", None, None, None, {}),
        ("c", None, None, None, {}),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"photos\.csv has no header; expected a first row of names, path among them"),
        ("\n\n", r"has no header"),
        ("name,label\na,ants\n", r"has the columns name, label; expected one named path, or file, filename,"),
        ("a.jpg,ants\nb.jpg,bees\n", r"has the columns a\.jpg, ants; expected one named path"),
        ("\x1b[2J,x\n", r"has the columns \\x1b\[2J, x; expected"),
        ("file,image\na,b\n", r"may have its paths in one of file, image; rename the right one to path"),
        ("file,File\na,b\n", r"may have its paths in one of file, File; rename"),
        ("path,Path\na,b\n", r"has two columns named path; rename one"),
        ("path,label,Label\na,b,c\n", r"has two columns named label; rename one"),
        ("path,x, x\na,b,c\n", r"has two columns named x; rename one"),
        ("path,label\n", r"has no rows; expected a header and one row per image"),
        ("path,label\n\n,\n", r"has no rows"),
        ("path,label\na,x\n,y\n", r"has no path in row 3; fill it in, or remove the row"),
        ("path,label\n\n\n  ,y\n", r"has no path in row 4"),
        ('path,label\n"a\nb",x\n,y\n', r"has no path in row 3"),
        ("path,split\na,\nb,holdout\n", r"has the split holdout in row 3; expected train, val or test"),
        ("path,split\na,\x1b\n", r"has the split \\x1b in row 2"),
        ("path,label\na,x\nb,y\na,z\n", r"names a in row 2 and in row 4; keep one row per image"),
        ("path,label\na\tb,x\na\tb,z\n", r"names a\\tb in row 2 and in row 3"),
        ("path,label\na,b,c\n", r"has 3 cells in row 2, more than its header's 2; .* cells that hold commas"),
        ("path;label\na;b;c\n", r"quotes around cells that hold semicolons"),
        (
            'path,label\na,b\n"c,d\ne,f\n',
            r"is no CSV from row 3 on \(unexpected end of data\); look for a quote",
        ),
        ('path,label\n"a"b,c\n', r"is no CSV from row 2 on"),
        ("path,label\na,x\0y\n", r"has a NUL character in row 2; remove it"),
        ("path,label\na," + "x" * 140_000, r"is no CSV from row 2 on \(field larger than field limit"),
        ("path,label\n" + "x" * 1_100_000, r"is no CSV from row 2 on \(a line has more than 1,048,576 char"),
        ("path,label\na,b\n".encode("utf-16"), r"photos\.csv is UTF-16; save it as CSV in UTF-8"),
    ],
)
def test_errors_name_the_row_and_what_to_do(table, text, words):
    with pytest.raises(SourceError, match=words) as caught:
        rows(table(text))
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_manifest_that_cannot_be_read(tmp_path):
    for name in ("gone.csv", "gone.parquet"):
        with pytest.raises(SourceError, match=r"gone\.\w+ cannot be read"):
            ManifestSource(tmp_path / name)


def test_names_of_one_hash_are_told_apart(table, monkeypatch):
    monkeypatch.setattr(manifests, "hash", lambda name: 0, raising=False)
    assert len(rows(table("path\na\nb\nc\n"))) == 3
    with pytest.raises(SourceError, match="names b in row 3 and in row 4"):
        rows(table("path\na\nb\nb\n"))


def test_an_error_calls_a_copy_by_what_it_is_a_copy_of(table):
    with pytest.raises(SourceError, match=r"^s3://bucket/all\.csv has no path in row 2"):
        rows(table("path,label\n,x\n"), location="s3://bucket/all.csv")


def test_files_are_found_beside_the_manifest_and_by_absolute_paths(table, tmp_path):
    (tmp_path / "deep").mkdir()
    elsewhere = tmp_path / "elsewhere" / "b.jpg"
    for path, data in ((tmp_path / "deep" / "a.jpg", b"one"), (elsewhere, b"three")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    source = ManifestSource(table(f"path\ndeep/a.jpg\ndeep/../deep/./a.jpg\n{elsewhere}\n"))
    records = list(source)
    assert [record.size for record in records] == [3, 3, 5]
    assert [record.mtime_ns for record in records] == [
        path.stat().st_mtime_ns for path in (tmp_path / "deep" / "a.jpg",) * 2 + (elsewhere,)
    ]
    assert [source.read(record) for record in records] == [b"one", b"one", b"three"]
    assert records[2].name == str(elsewhere)
    assert (source.kind, source.location) == ("manifest", str((tmp_path / "photos.csv").resolve()))


def test_paths_of_windows(table, tmp_path):
    (tmp_path / "ants").mkdir()
    (tmp_path / "ants" / "1.jpg").write_bytes(b"one")
    (tmp_path / "ants\\2.jpg").write_bytes(b"really so")
    (tmp_path / "ants" / "2.jpg").write_bytes(b"two")
    source = ManifestSource(table("path\nants\\1.jpg\nants\\2.jpg\nants\\3.jpg\n"))
    first, second, third = source
    assert (first.name, first.size, source.read(first)) == ("ants\\1.jpg", 3, b"one")
    assert source.read(second) == b"really so"
    assert third.size == -1
    with pytest.raises(FileNotFoundError):
        source.read(third)


def test_what_is_no_file_has_no_size_and_is_not_read(table, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "pipe")
    names = ["folder", "pipe", "/dev/zero", "gone", "self", "x" * 300, ".", f"file://{tmp_path}/pipe"]
    source = ManifestSource(table("path\n" + "\n".join(names) + "\n"))
    records = list(source)
    assert [(record.name, record.size, record.mtime_ns) for record in records] == [
        (name, -1, -1) for name in names
    ]
    for record in records:
        is_there = record.name in ("folder", "pipe", "/dev/zero", ".", names[-1])
        with pytest.raises(ImageError if is_there else OSError, match="^is no file$" if is_there else None):
            source.read(record)


@pytest.fixture
def urls(monkeypatch):
    """What is asked for, in place of a network."""
    from featx.images import remote

    asked = []
    monkeypatch.setattr(remote, "read_url", lambda url: asked.append(url) or url.encode())
    return asked


@pytest.mark.parametrize(
    ("location", "name", "url"),
    [
        (None, "s3://bucket/a b.jpg", "s3://bucket/a b.jpg"),
        ("s3://bucket/all.csv", "a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/deep/all.csv", "ants/a.jpg", "s3://bucket/deep/ants/a.jpg"),
        ("s3://bucket/deep/all.csv", "../ants/a.jpg", "s3://bucket/ants/a.jpg"),
        ("s3://bucket/all.csv", "../../other/a.jpg", "s3://bucket/other/a.jpg"),
        ("s3://bucket/all.csv", "ants\\a #1?.jpg", "s3://bucket/ants/a #1?.jpg"),
        ("memory://all.csv", "a.jpg", "memory:///a.jpg"),
        ("file:///tmp/all.csv", "a.jpg", "file:///tmp/a.jpg"),
        ("https://host:1/x/all.csv?token=/a/b#c", "a #1?.jpg", "https://host:1/x/a%20%231%3F.jpg"),
        ("https://host/all.csv", "https://other/a.jpg?x=1", "https://other/a.jpg?x=1"),
    ],
)
def test_urls_in_manifests_and_manifests_behind_urls(table, urls, location, name, url):
    source = ManifestSource(table(f'path\n"{name}"\n'), location=location, mtime_ns=7)
    (record,) = source
    assert (record.name, record.size, record.mtime_ns) == (name, -1, -1)
    assert source.read(record) == url.encode()
    assert urls == [url]


def test_an_absolute_path_is_one_of_this_machine_wherever_the_manifest_lies(table, tmp_path, urls):
    (tmp_path / "a.jpg").write_bytes(b"here")
    source = ManifestSource(table(f"path\n{tmp_path}/a.jpg\n"), location="s3://bucket/all.csv")
    (record,) = source
    assert (source.read(record), record.size, urls) == (b"here", 4, [])
    assert source.location == "s3://bucket/all.csv"


def test_a_manifest_in_a_bucket_end_to_end(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({f"/manifests/{index}.png": png(photo("ants", index)) for index in range(3)})
    memory.pipe("/manifests/all.csv", b"path,label\n0.png,ants\n1.png,bees\ngone.png,ants\n")
    store = featx.extract(
        "memory://manifests/all.csv", tmp_path / "x.h5", backbone="pixels", image_size=8, max_skip=0.5
    )
    assert (list(store.names), list(store.y)) == (["0.png", "1.png"], ["ants", "bees"])
    assert [item.name for item in store.skipped] == ["gone.png"]


MIDNIGHT = datetime.datetime(2026, 11, 21, 12, 30, 15, 250_000)
COLUMNS = {
    "whole": ([1, None, 3], pyarrow.int64(), ["1", "", "3"]),
    "large": ([2**53 + 1, None, 2**63], pyarrow.uint64(), [str(2**53 + 1), "", str(2**63)]),
    "gaps": ([1.0, None, 3.0], pyarrow.float64(), ["1", "", "3"]),
    "nan": ([1.0, float("nan"), -0.0], pyarrow.float64(), ["1", "", "0"]),
    "measured": ([1.0, None, 2.5], pyarrow.float64(), ["1.0", "", "2.5"]),
    "single": ([0.1, None, 1e10], pyarrow.float32(), ["0.1", "", "1e+10"]),
    "half": ([0.5, None, 2.0], pyarrow.float16(), ["0.5", "", "2.0"]),
    "infinite": ([1.0, float("inf"), 2.0], pyarrow.float64(), ["1.0", "inf", "2.0"]),
    "yes": ([True, None, False], pyarrow.bool_(), ["True", "", "False"]),
    "text": ([" ants ", None, "new\nline"], pyarrow.string(), ["ants", "", "new\nline"]),
    "long": (["a", "", "c"], pyarrow.large_string(), ["a", "", "c"]),
    "category": (["a", None, "a"], pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), ["a", "", "a"]),
    "price": (
        [decimal.Decimal("1.50"), None, decimal.Decimal("2.00")],
        pyarrow.decimal128(9, 2),
        ["1.50", "", "2.00"],
    ),
    "day": ([datetime.date(2026, 11, 21), None, None], pyarrow.date32(), ["2026-11-21", "", ""]),
    "seen": ([MIDNIGHT, None, None], pyarrow.timestamp("ns"), ["2026-11-21T12:30:15.250000", "", ""]),
    "utc": (
        [MIDNIGHT, None, None],
        pyarrow.timestamp("ms", "UTC"),
        ["2026-11-21T12:30:15.250000+00:00", "", ""],
    ),
    "hour": ([MIDNIGHT.time(), None, None], pyarrow.time64("ns"), ["12:30:15.250000", "", ""]),
    "nanoseconds": (
        [1_000_000_789, None, 0],
        pyarrow.timestamp("ns"),
        ["1970-01-01T00:00:01", "", "1970-01-01T00:00:00"],
    ),
    "few": ([0.1, None, 0.1], pyarrow.dictionary(pyarrow.int8(), pyarrow.float32()), ["0.1", "", "0.1"]),
    "nothing": ([None, None, None], pyarrow.null(), ["", "", ""]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_values_of_parquet_as_text(parquet, name):
    values, kind, texts = COLUMNS[name]
    path = parquet({"path": ["a", "b", "c"], name: pyarrow.array(values, kind)})
    assert [record.columns.get(name, "") for record in ManifestSource(path)] == texts


def test_parquet_says_what_csv_says_whatever_the_size_of_batches(parquet, table, monkeypatch):
    columns = {
        "Path": [f"{index}.jpg" for index in range(23)],
        "label": [index % 3 if index != 5 else None for index in range(23)],
        "SPLIT": [["Train", "dev", "test", None][index % 4] for index in range(23)],
        "group": [float(index) if index > 20 else None for index in range(23)],
        "late": [float(index) if index != 22 else 0.5 for index in range(23)],
    }
    lines = [",".join(columns)]
    lines += [
        ",".join(
            "" if value is None else str(int(value)) if name == "group" else str(value) for name, value in row
        )
        for row in (list(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
    ]
    expected = rows(table("\n".join(lines)))
    path = parquet(columns, row_group_size=7)
    assert rows(path) == expected
    monkeypatch.setattr(tables, "_BATCH_ROWS", 3)
    assert rows(path) == expected
    assert expected[22][3:] == ("22", {"late": "0.5"})
    assert rows(path) == expected  # the same order again
    columns["Path"][21] = columns["Path"][1]
    with pytest.raises(SourceError, match=r"names 1\.jpg in row 2 and in row 22"):
        rows(parquet(columns))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"path": ["a", None, "c"], "x": [1, 2, 3]}, r"has no path in row 2; fill it in"),
        ({"path": ["a", "b", "a"]}, r"names a in row 1 and in row 3; keep one row per image"),
        ({"path": ["a"], "split": ["holdout"]}, r"has the split holdout in row 1"),
        (
            {"path": ["a"], "label": [[1, 2]]},
            r"a column label of the type list<.*>; expected text or numbers",
        ),
        ({"path": ["a"], "group": [b"x"]}, r"a column group of the type binary"),
        (
            {"image": [{"bytes": b"", "path": "a"}]},
            r"has the columns image \(struct<.*>\); expected one named path",
        ),
        ({"path": ["a"], "x": [1], "x ": [2]}, r"has two columns named x; rename one"),
        ({"path": pyarrow.array([], pyarrow.string())}, r"has no rows"),
        ({"path": ["a\0b"]}, r"has a NUL character in row 1"),
    ],
)
def test_errors_of_parquet_name_the_row(parquet, columns, words):
    with pytest.raises(SourceError, match=words) as caught:
        rows(parquet(columns))
    assert "\n" not in str(caught.value)


def test_a_row_of_nothing_is_no_row(parquet):
    found = rows(parquet({"path": ["a", None, "c"], "label": ["x", None, "z"]}))
    assert [name for name, *_ in found] == ["a", "c"]


def test_nested_and_binary_columns_are_left_out(parquet):
    columns = {
        "file_name": ["a"],
        "image": [{"bytes": b"", "path": "a"}],
        "boxes": [[1, 2]],
        "raw": [b"\0"],
        "x": [1],
    }
    assert rows(parquet(columns)) == [("a", None, None, None, {"x": "1"})]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"path,label\na,b\n"])
def test_what_is_no_parquet(tmp_path, data):
    path = tmp_path / "photos.parquet"
    path.write_bytes(data)
    with pytest.raises(
        SourceError, match=r"photos\.parquet cannot be read as Parquet \(.+\); save the table"
    ):
        rows(path)


def test_without_pyarrow_the_error_says_what_to_install(parquet, monkeypatch):
    path = parquet({"path": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=r"run `pip install featx\[parquet\]`"):
        ManifestSource(path)


ANY_TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.binary(max_size=8)
    .filter(lambda data: b"\0" not in data)
    .map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.text(st.sampled_from(" \"',;\t\n\r\\\ufeff🦉"), max_size=8),
)


@settings(max_examples=50, deadline=None)
@given(
    cells=st.lists(
        st.tuples(
            ANY_TEXT.filter(str.strip), ANY_TEXT, st.sampled_from(("", *SPLITS)), ANY_TEXT, ANY_TEXT, ANY_TEXT
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda row: row[0].strip(),
    ),
    order=st.permutations(range(6)),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    mark=st.booleans(),
)
def test_any_text_survives(cells, order, delimiter, quoting, mark):
    header = ("path", "label", "split", "group", "site", "Größe, in cm")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        encoding = "utf-8-sig" if mark else "utf-8"
        with path.open("w", newline="", encoding=encoding, errors="surrogateescape") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
            for row in (header, *cells):
                writer.writerow([row[place] for place in order])
        found = rows(path)
    expected = []
    for name, label, split, group, site, size in cells:
        others = {"site": site.strip(), "Größe, in cm": size.strip()}
        others = {column: text for column, text in others.items() if text}
        expected.append((name.strip(), label.strip() or None, split or None, group.strip() or None, others))
    assert found == expected


@pytest.fixture
def pictures(tmp_path):
    for index in range(6):
        (tmp_path / f"{index}.png").write_bytes(png(photo("ants" if index % 2 else "bees", index)))
    (tmp_path / "twin.png").write_bytes((tmp_path / "0.png").read_bytes())
    return tmp_path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_end_to_end(pictures, ending, monkeypatch):
    columns = {
        "path": [*(f"{index}.png" for index in range(6)), "twin.png", "gone.png"],
        "label": ["bees", "ants"] * 4,
        "split": ["train"] * 4 + ["test"] * 2 + [None] * 2,
        "group": [*"aabbccdd"],
        "site": ["north", "south", None, None, "north", "south", "north", "south"],
    }
    path = pictures / f"all.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if ending == "tsv" else ",")
            writer.writerows([tuple(columns), *zip(*columns.values(), strict=True)])
    options = {"backbone": "pixels", "image_size": 8, "max_skip": 0.2}
    store = featx.extract(path, pictures / "x.h5", **options)
    assert list(store.names) == columns["path"][:7]
    assert list(store.y) == columns["label"][:7]
    assert list(store.splits) == [split or "" for split in columns["split"][:7]]
    assert list(store.groups) == columns["group"][:7]
    assert list(store.columns["site"]) == [site or "" for site in columns["site"][:7]]
    (gone,) = store.skipped
    assert (gone.name, gone.reason) == ("gone.png", "cannot be read: No such file or directory")
    assert store.summary.computed == 6  # the twin has the same bytes
    digests = np.asarray(store.digests)
    assert (digests[0] == digests[6]).all()
    by_column = open_dataset([store], label="site", group="group")
    assert by_column.labels.tolist() == [site or "" for site in columns["site"][:7]]
    assert open_dataset([store], group="site").groups.tolist() == by_column.labels.tolist()
    folder = featx.extract([pictures / name for name in columns["path"][:7]], pictures / "y.h5", **options)
    np.testing.assert_array_equal(store.X("flatten"), folder.X("flatten"))

    read = []
    original = ManifestSource.read
    monkeypatch.setattr(
        ManifestSource, "read", lambda self, record: read.append(record.name) or original(self, record)
    )
    again = featx.extract(path, pictures / "x.h5", **options)
    assert again.summary.computed == 0
    assert set(read) <= {"gone.png"}  # of the others size and time say enough


def test_a_manifest_is_opened_by_its_ending(pictures):
    (pictures / "ALL.TSV").write_text("path\n0.png\n")
    source = open_source(pictures / "ALL.TSV")
    assert (type(source), source.kind) == (ManifestSource, "manifest")
    assert [record.name for record in list_images(source)] == ["0.png"]
