import gc
import gzip
import io
import os
import random
import shutil
import struct
import tarfile
import tempfile
import threading
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import photo, png

import featx
from featx.errors import ImageError, SourceError
from featx.images import members, reading, tars
from featx.images.sources import list_images, open_source
from featx.images.tars import TarSource
from featx.images.zips import ZipSource

TARS = {"tar": "", "tar.gz": "gz", "tar.bz2": "bz2", "tar.xz": "xz"}


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def write_tar(path, files, **options):
    ending = path.name.split(".", 1)[1]
    with tarfile.open(path, f"w:{TARS[ending]}", **options) as file:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def write(path, files):
    return (write_zip if path.suffix == ".zip" else write_tar)(path, files)


def rows(source):
    return [(record.name, record.label, record.split) for record in source]


def outcome(source, record):
    """The bytes, or the reason why not."""
    try:
        return source.read(record)
    except ImageError as error:
        return str(error)


def outcomes(source):
    return {record.name: outcome(source, record) for record in source}


def patch_entry(path, name, **fields):
    """Change what the directory of a zip says of a member."""
    places = {
        "version": ("<H", 6),
        "flags": ("<H", 8),
        "method": ("<H", 10),
        "crc": ("<I", 16),
        "packed": ("<I", 20),
        "size": ("<I", 24),
        "disk": ("<H", 34),
        "mode": ("<H", 40),
        "offset": ("<I", 42),
    }
    data = bytearray(path.read_bytes())
    start = data.rindex(name.encode(), data.index(b"PK\1\2")) - 46
    assert data[start : start + 4] == b"PK\1\2"
    for field, value in fields.items():
        form, place = places[field]
        struct.pack_into(form, data, start + place, value)
    path.write_bytes(data)


@pytest.fixture(params=["zip", "tar", "tar.gz"])
def archive(request, tmp_path):
    return tmp_path / f"photos.{request.param}"


@pytest.mark.parametrize(
    ("names", "expected", "kind"),
    [
        (["b/2.jpg", "b/10.jpg", "B/1.jpg"], ["B None", "b None", "b None"], "class folders"),
        (["test/a/1.jpg", "Train/b/1.jpg"], ["b train", "a test"], "split folders"),
        (["2.jpg", "1.jpg"], ["None None", "None None"], "flat folder"),
        (["top/a/1.jpg", "top/b/1.jpg"], ["a None", "b None"], "class folders"),
        (["top/next/train/a/1.jpg", "top/next/val/b/1.jpg"], ["a train", "b val"], "split folders"),
        (["a/1.jpg", "a/deep/2.jpg"], ["a None", "a None"], "class folders"),
        (["train/a/1.jpg", "train/b/1.jpg"], ["a train", "b train"], "split folders"),
        (["top/a/1.jpg", "top/b/1.jpg", "1.jpg"], ["None None", "top None", "top None"], "class folders"),
    ],
)
def test_layouts_are_those_of_folders_also_below_one_that_holds_them(archive, names, expected, kind):
    source = open_source(write(archive, {name: name.encode() for name in names}))
    found = rows(source)
    assert source.kind == f"{kind}, in a {'zip' if archive.suffix == '.zip' else 'tar'} archive"
    assert [name for name, *_ in found] == sorted(names)
    assert [f"{label} {split}" for _, label, split in found] == expected
    assert all(source.read(record) == record.name.encode() for record in source)


def test_records_have_the_size_of_the_member_and_the_time_of_the_archive(archive):
    write(archive, {"a/1.jpg": b"12345"})
    later = time.time_ns() + 10**12
    os.utime(archive, ns=(later, later))
    (record,) = open_source(archive)
    assert (record.size, record.mtime_ns, record.columns) == (5, later, {})
    # A time that was set back does not hide that the file is another one.
    os.utime(archive, ns=(7, 7))
    (record,) = open_source(archive)
    assert record.mtime_ns == archive.stat().st_ctime_ns
    source = (ZipSource if archive.suffix == ".zip" else TarSource)(archive, location="s3://x", mtime_ns=9)
    assert (source.location, [record.mtime_ns for record in source]) == ("s3://x", [9])


def test_what_is_no_image_of_a_folder_is_none_of_an_archive(archive):
    names = ["./a/./1.jpg", "a/.hidden.jpg", "__MACOSX/a/1.jpg", "a/notes.TXT", ".git/x.jpg", "a//2.jpg"]
    with_folder = {"a/": b""} if archive.suffix == ".zip" else {}
    source = open_source(write(archive, dict.fromkeys(names, b"x") | with_folder))
    assert [record.name for record in source] == ["a/1.jpg", "a/2.jpg"]
    assert source.location == str(archive.resolve())


@pytest.mark.parametrize(
    "name",
    ["../1.jpg", "/etc/1.jpg", "a/../../1.jpg", "C:/1.jpg", "C:\\1.jpg", "..\\1.jpg", "\\\\host\\1.jpg"],
)
def test_a_name_that_leads_out_is_refused_and_the_others_are_read(archive, name):
    source = open_source(write(archive, {"a/1.jpg": b"good", name: b"bad"}))
    assert outcomes(source) == {"a/1.jpg": b"good", name: "its name leads out of the archive"}
    assert {record.name: record.label for record in source} == {"a/1.jpg": "a", name: None}


def test_refused_names_take_no_part_in_the_layout(archive):
    source = open_source(
        write(archive, {"top/train/a/1.jpg": b"x", "top/test/b/1.jpg": b"x", "../1.jpg": b"x"})
    )
    assert source.kind.startswith("split folders")
    assert ("top/train/a/1.jpg", "a", "train") in rows(source)


def test_of_a_name_that_stands_twice_the_later_counts(tmp_path):
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as file:
        for name, data in (("a/1.jpg", b"first"), ("a/2.jpg", b"two"), ("./a/1.jpg", b"second")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    assert outcomes(open_source(path)) == {"a/1.jpg": b"second", "a/2.jpg": b"two"}
    path = tmp_path / "photos.zip"
    write_zip(path, {"a/1.jpg": b"first", "a//1.jpg": b"second"})
    assert outcomes(open_source(path)) == {"a/1.jpg": b"second"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mode": 0o120777}, "a symbolic link"),
        ({"mode": 0o020666}, "a device"),
        ({"mode": 0o060666}, "a device"),
        ({"mode": 0o010666}, "a pipe"),
        ({"flags": 1}, "encrypted"),
        ({"flags": 0x41}, "encrypted"),
        ({"flags": 0x20}, "cannot read"),
        ({"method": 9}, "method 9"),
        ({"method": 99}, "cannot read"),
        ({"crc": 1}, "CRC"),
        ({"size": 3}, "damaged"),
        ({"size": 4000}, "fewer bytes than the 4,000"),
        ({"packed": 3}, "damaged"),
        ({"size": reading.MAX_IMAGE_BYTES + 1}, "536,870,913 bytes"),
        ({"packed": 1000}, "other members"),
        ({"offset": 0}, "other members|damaged"),
        ({"offset": 2**31}, "other members"),
    ],
)
def test_zip_members_that_are_refused(tmp_path, fields, reason):
    path = write_zip(tmp_path / "x.zip", {"a/1.jpg": b"first" * 9, "a/2.jpg": b"second" * 9, "a/3.jpg": b"3"})
    patch_entry(path, "a/2.jpg", **fields)
    found = outcomes(open_source(path))
    assert found.keys() == {"a/1.jpg", "a/2.jpg", "a/3.jpg"}
    assert found["a/3.jpg"] == b"3"
    with pytest.raises(ImageError, match=reason):
        raise ImageError(found["a/2.jpg"])


def test_bytes_longer_than_declared_are_noticed_even_where_their_beginning_has_the_crc(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a/1.jpg": b"first and more"})
    patch_entry(path, "a/1.jpg", size=5, crc=zipfile.crc32(b"first"))
    assert "damaged" in outcomes(open_source(path))["a/1.jpg"]


@pytest.mark.parametrize(
    ("method", "peak"),
    [(zipfile.ZIP_DEFLATED, 2**20), (zipfile.ZIP_LZMA, 2**24), (zipfile.ZIP_BZIP2, 100 * 2**20)],
)
def test_a_bomb_is_not_unpacked_further_than_it_says(tmp_path, method, peak):
    path = write_zip(
        tmp_path / "x.zip", {"a/1.jpg": bytes(2**26 if method == zipfile.ZIP_LZMA else 2**27)}, method
    )
    patch_entry(path, "a/1.jpg", size=1000)
    source = open_source(path)
    tracemalloc.start()
    try:
        found = outcomes(source)
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()
    assert "damaged" in found["a/1.jpg"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_every_compression_that_python_has_is_read(tmp_path, method):
    data = {f"a/{size}.jpg": random.Random(size).randbytes(size) for size in (0, 1, 5000, 200_000)}
    assert outcomes(open_source(write_zip(tmp_path / "x.zip", data, method))) == data


def test_names_without_the_flag_of_utf8_survive(tmp_path):
    path = write_zip(
        tmp_path / "x.zip", {"aXXXX/1.jpg": b"mac", "aYYYY/1.jpg": b"dos", "日本/1.jpg": b"flag"}
    )
    data = path.read_bytes().replace(b"aXXXX", "aäö".encode()).replace(b"aYYYY", b"a\x84\x94\x81\xff")
    path.write_bytes(data)
    assert outcomes(open_source(path)) == {
        "aäö/1.jpg": b"mac",
        "aäöü\xa0/1.jpg": b"dos",
        "日本/1.jpg": b"flag",
    }


def test_backslashes_separate_folders_in_a_zip_of_windows_only(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a\\1.jpg": b"1", "b/2.jpg": b"2"})
    assert {record.label for record in open_source(path)} == {None, "b"}
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 5] = 0  # made by DOS
    path.write_bytes(data)
    assert outcomes(open_source(path)) == {"a/1.jpg": b"1", "b/2.jpg": b"2"}


def test_zip64_with_members_beyond_four_gigabytes(tmp_path):
    path = tmp_path / "x.zip"
    with path.open("wb") as file:
        file.truncate(5 * 2**30)  # a hole
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/1.jpg", b"far")
        with file.open("a/2.jpg", "w", force_zip64=True) as member:
            member.write(b"wide")
    with path.open("rb") as file:
        file.seek(-300, os.SEEK_END)
        assert b"PK\6\6" in file.read()
    assert outcomes(open_source(path)) == {"a/1.jpg": b"far", "a/2.jpg": b"wide"}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path.write_bytes(b"no zip"), "no whole zip archive"),
        (lambda path: path.write_bytes(b""), "no whole zip archive"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "no whole zip archive"),
        (lambda path: patch_entry(path, "a/1.jpg", disk=1), "one part of a split zip"),
        (lambda path: patch_entry(path, "a/1.jpg", version=99), "no whole zip archive"),
        (lambda path: path.write_bytes(_other_disk(path.read_bytes())), "one part of a split zip"),
    ],
)
def test_what_is_no_whole_zip(tmp_path, make, text):
    path = write_zip(tmp_path / "x.zip", {"a/1.jpg": b"1"})
    make(path)
    with pytest.raises(SourceError, match=text):
        open_source(path)


def _other_disk(data):
    end = data.rindex(b"PK\5\6")
    return data[: end + 4] + struct.pack("<H", 3) + data[end + 6 :]


@pytest.mark.parametrize("kind", [ZipSource, TarSource])
def test_a_file_that_is_gone_or_is_none(tmp_path, kind):
    with pytest.raises(SourceError, match="No such file"):
        kind(tmp_path / "gone")
    with pytest.raises(SourceError, match="directory"):
        kind(tmp_path)


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (b"V", "an entry of type"),
    ],
)
def test_tar_members_that_are_refused(tmp_path, type_, reason):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as file:
        member = tarfile.TarInfo("a/1.jpg")
        member.type, member.linkname = type_, "/etc/passwd"
        file.addfile(member)
        good = tarfile.TarInfo("a/2.jpg")
        good.size = 4
        file.addfile(good, io.BytesIO(b"good"))
    found = outcomes(open_source(path))
    assert found.pop("a/2.jpg") == b"good"
    assert list(found) == ["a/1.jpg"]
    assert found["a/1.jpg"].startswith(reason)


def test_sparse_files_and_large_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "MAX_IMAGE_BYTES", 5)
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        member = tarfile.TarInfo("a/1.jpg")
        member.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "a/1.jpg",
            "GNU.sparse.realsize": "10",
        }
        member.size = 512
        file.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
        for name, size in (("a/2.jpg", 5), ("a/3.jpg", 6)):
            member = tarfile.TarInfo(name)
            member.size = size
            file.addfile(member, io.BytesIO(bytes(size)))
    found = outcomes(open_source(path))
    assert found["a/1.jpg"].startswith("a sparse file")
    assert found["a/2.jpg"] == bytes(5)
    assert found["a/3.jpg"].startswith("6 bytes: an image may have 5")


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_bytes_and_length_survive_in_tars(tmp_path, format_):
    names = ["a/new\nline.jpg", "a/emoji-🦉.jpg", "a/latin-\udce9.jpg", "a/\udc80.jpg", "a/é.jpg"]
    if format_ != tarfile.USTAR_FORMAT:
        names.append(f"{'long/' * 40}{'x' * 251}.jpg")
    data = {name: os.fsencode(name) for name in names}
    path = write_tar(tmp_path / "x.tar", data, format=format_, encoding="utf-8", errors="surrogateescape")
    source = open_source(path)
    assert outcomes(source) == data
    assert [record.name for record in source] == sorted(names, key=os.fsencode)


def test_a_cut_tar_gives_what_lies_before_and_one_row_for_the_cut(tmp_path):
    data = {f"a/{number}.jpg": bytes([number]) * 700 for number in range(4)} | {"a/notes.txt": bytes(700)}
    whole = write_tar(tmp_path / "x.tar", data).read_bytes()
    path = tmp_path / "x.tar"
    member = 512 + 1024
    for length in range(member, 5 * member + 1, 97):
        path.write_bytes(whole[:length])
        found = outcomes(open_source(path))
        complete = [name for name, image in found.items() if isinstance(image, bytes)]
        begun, inside = divmod(length, member)
        expected = begun + (inside >= 512 + 700)
        assert complete == sorted(data)[: min(expected, 4)]
        assert all(found[name] == data[name] for name in complete)
        (cut,) = found.keys() - complete
        assert cut == (f"a/{begun}.jpg" if begun < 4 and 512 <= inside < 1212 else cut)
        assert "cut" in found[cut] or "ends in the middle" in found[cut]
    path.write_bytes(whole[: 5 * member + 512])
    assert len(outcomes(open_source(path))) == 4


def test_a_damaged_header_is_heard_of(tmp_path):
    path = write_tar(tmp_path / "x.tar", {f"a/{number}.jpg": b"data" for number in range(3)})
    data = bytearray(path.read_bytes())
    data[1024 + 3] ^= 1
    path.write_bytes(data)
    found = outcomes(open_source(path))
    assert found.keys() == {"a/0.jpg", "(x.tar, byte 1024)"}
    assert "damaged at byte 1,024 (a bad header)" in found["(x.tar, byte 1024)"]


def header(name="a/1.jpg", size=4, type_=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, type_
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "bad",
    [
        header(size=-1024),
        header(size=2**70),
        header(size=-(2**60), type_=b"Z"),
        header(size=2**40, type_=tarfile.XHDTYPE),
        header(size=-512, type_=tarfile.XHDTYPE),
        header(size=2**40, type_=tarfile.GNUTYPE_LONGNAME),
        b"".join([header(size=0, type_=tarfile.XHDTYPE)] * 3000),
        header(size=512, type_=tarfile.XHDTYPE) + b"0 path=x\n".ljust(512, b"\0"),
        header(size=512, type_=tarfile.XHDTYPE) + b"20 size=-99999999999\n".ljust(512, b"\0") + header(),
    ],
)
def test_headers_that_lie_end_a_tar_and_nothing_else(tmp_path, bad):
    path = tmp_path / "x.tar"
    path.write_bytes(header("a/0.jpg") + b"good".ljust(512, b"\0") + bad)
    started = time.monotonic()
    found = outcomes(open_source(path))
    assert time.monotonic() - started < 5
    assert found.pop("a/0.jpg") == b"good"
    assert len(found) == 1
    assert all(isinstance(reason, str) for reason in found.values())


def test_what_is_no_tar(tmp_path):
    for data in (b"", b"no tar" * 1000, gzip.compress(b""), gzip.compress(b"no tar"), b"\x1f\x8b"):
        (tmp_path / "x.tar").write_bytes(data)
        with pytest.raises(SourceError, match="no tar archive"):
            open_source(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(bytes(10240))
    with pytest.raises(SourceError, match="holds no images"):
        list_images(open_source(tmp_path / "x.tar"))


@pytest.mark.parametrize("ending", ["tar.gz", "tar.bz2", "tar.xz"])
def test_compressed_tars(tmp_path, ending):
    data = {f"a/{number}.jpg": random.Random(number).randbytes(200_000) for number in range(8)}
    path = write_tar(tmp_path / f"x.{ending}", data)
    assert outcomes(open_source(path)) == data
    path.rename(tmp_path / "misnamed.tar")
    assert outcomes(open_source(tmp_path / "misnamed.tar")) == data
    packed = (tmp_path / "misnamed.tar").read_bytes()
    path.write_bytes(packed[: len(packed) * 3 // 4])
    found = outcomes(open_source(path))
    good = {name: image for name, image in found.items() if isinstance(image, bytes)}
    assert 0 < len(good) < 8
    assert good.items() <= data.items()
    assert len(found) == len(good) + 1
    path.write_bytes(packed[:-8] + bytes(8))
    with pytest.raises(SourceError, match=r"compressed bytes of .* are damaged"):
        open_source(path)


def test_a_temporary_disk_that_is_full_is_named(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar.gz", {"a/1.jpg": bytes(2**20)})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    with pytest.raises(SourceError, match="has not the room; set TMPDIR"):
        open_source(path)
    monkeypatch.undo()
    open_source(path)


def test_nothing_is_left_behind(archive, monkeypatch, tmp_path):
    """Open files too: that they are not closed would be a warning, which is an error here."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    source = open_source(write(archive, {"a/1.jpg": b"x"}))
    assert outcomes(source) == {"a/1.jpg": b"x"}
    del source
    archive.write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(SourceError):
        open_source(archive)
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_too_many_members(archive, monkeypatch):
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    assert len(list(open_source(write(archive, {f"{number}.jpg": b"" for number in range(3)})))) == 3
    with pytest.raises(SourceError, match="more than 3"):
        open_source(write(archive, {f"{number}.jpg": b"" for number in range(4)}))


def test_a_record_of_another_source_is_no_member(archive):
    source = open_source(write(archive, {"a/1.jpg": b"x"}))
    for name in ("a/0.jpg", "a/1.jpg2", "z"):
        with pytest.raises(ImageError, match="not in the archive"):
            source.read(featx.records.ImageRecord(name))


def test_threads_read_at_random(archive):
    data = {
        f"{number % 7}/{number}.jpg": random.Random(number).randbytes(3000 + 97 * number)
        for number in range(99)
    }
    source = open_source(write(archive, data))
    records = list(source) * 8
    random.Random(0).shuffle(records)
    together = threading.Barrier(8)

    def read(share):
        together.wait()
        return [source.read(record) == data[record.name] for record in share]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, [records[start::8] for start in range(8)]))
    assert [len(share) for share in found] == [99] * 8
    assert all(all(share) for share in found)


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_a_member_takes_little_memory(tmp_path, ending):
    count = 5_000 if ending == "zip" else 20_000
    names = [f"photos/class{n % 9}/{n:08}.jpg" for n in range(count)]
    path = tmp_path / f"x.{ending}"
    if ending == "zip":
        write_zip(path, dict.fromkeys(names, b""))
    else:
        path.write_bytes(b"".join(header(name, 0) for name in names) + bytes(1024))
    gc.collect()
    tracemalloc.start()
    try:
        source = open_source(path)
        gc.collect()
        now, peak = tracemalloc.get_traced_memory()
        assert now < count * 150
        assert peak < count * (1000 if ending == "zip" else 350)
    finally:
        tracemalloc.stop()
    assert sum(1 for _ in source) == count


def test_an_archive_gives_what_its_folder_gives(make_photos, tmp_path):
    root = make_photos(splits={"train": 3, "test": 2})
    (root / "train" / "ants" / "bad.png").write_bytes(b"no image")
    paths = [tmp_path / f"photos.{ending}" for ending in ("zip", "tar", "tar.gz")]
    shutil.make_archive(str(tmp_path / "photos"), "zip", root)
    shutil.make_archive(str(tmp_path / "photos"), "tar", root)
    shutil.make_archive(str(tmp_path / "photos"), "gztar", root)
    options = {"backbone": "pixels", "image_size": 8}
    expected = featx.extract(root, tmp_path / "folder.h5", **options)
    for path in paths:
        store = featx.extract(path, tmp_path / f"{path.name}.h5", **options)
        assert store.names == expected.names
        assert (store.y.tolist(), store.splits.tolist()) == (expected.y.tolist(), expected.splits.tolist())
        np.testing.assert_array_equal(store.digests, expected.digests)
        np.testing.assert_array_equal(store.X("flatten"), expected.X("flatten"))
        assert store.skipped == expected.skipped
        assert store.summary.computed == 10
        again = featx.extract(path, tmp_path / f"{path.name}.h5", **options)
        assert (again.summary.computed, len(again)) == (0, 10)


def test_what_an_archive_refuses_is_skipped_in_the_store(tmp_path):
    path = write_zip(
        tmp_path / "x.zip", {f"a/{n}.png": png(photo("ants", n)) for n in range(3)} | {"../b.png": b""}
    )
    options = {"backbone": "pixels", "image_size": 8, "max_skip": 0.5}
    store = featx.extract(path, tmp_path / "x.h5", **options)
    (skipped,) = store.skipped
    assert (skipped.name, skipped.reason) == ("../b.png", "its name leads out of the archive")
    assert len(store) == 3
    again = featx.extract(path, tmp_path / "x.h5", **options)
    assert (again.summary.computed, again.skipped) == (0, store.skipped)


def flipped(data, seed):
    """A copy with one to four changed bytes."""
    chance = random.Random(seed)
    copy = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        copy[chance.randrange(len(copy))] ^= 1 << chance.randrange(8)
    return bytes(copy)


@pytest.mark.parametrize("seed", range(10))
def test_flipped_bytes_of_a_zip_end_as_errors_or_the_right_bytes(tmp_path, seed):
    data = {f"a/{n}.jpg": random.Random(n).randbytes(20 * n) for n in range(6)}
    method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[seed % 4]
    whole = write_zip(tmp_path / "x.zip", data, method).read_bytes()
    for number in range(30):
        (tmp_path / "x.zip").write_bytes(flipped(whole, 1000 * seed + number))
        try:
            source = open_source(tmp_path / "x.zip")
        except SourceError:
            continue
        found = outcomes(source)
        assert all(image in data.values() for image in found.values() if isinstance(image, bytes))


@pytest.mark.parametrize("ending", TARS)
def test_flipped_bytes_of_a_tar_end_as_errors_or_bytes_of_the_tar(tmp_path, ending):
    data = {f"a{'x' * 60 * n}/{n}.jpg": random.Random(n).randbytes(20 * n) for n in range(6)}
    path = write_tar(tmp_path / f"x.{ending}", data)
    whole = path.read_bytes()
    # A tar has sums of its headers only; most flips shall hit those.
    for number in range(150):
        path.write_bytes(flipped(whole, number))
        try:
            source = open_source(path)
        except SourceError:
            continue
        found = outcomes(source)
        assert all(len(image) <= 100 for image in found.values() if isinstance(image, bytes))
