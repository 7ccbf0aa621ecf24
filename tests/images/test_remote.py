import errno
import functools
import gc
import http.server
import importlib
import io
import random
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import boto3
import fsspec
import numpy as np
import pytest
from fsspec.config import conf, set_conf_env
from moto.server import ThreadedMotoServer

import featx
from featx.errors import ImageError, SourceError
from featx.images import remote
from featx.images.remote import RemoteSource, open_url, read_url
from featx.images.sources import list_images, open_source
from featx.images.urls import public_url, told

PHOTOS = {"train/ants/1.jpg": b"one", "train/bees/2.jpg": b"two", "test/ants/3 ä%41#.jpg": b"three"}


def rows(source):
    return [(record.name, record.label, record.split) for record in source]


def outcomes(source):
    found = {}
    for record in source:
        try:
            found[record.name] = source.read(record)
        except ImageError as error:
            found[record.name] = str(error)
    return found


@pytest.fixture
def memory():
    """A file system in memory that was empty before and is after."""
    fs = fsspec.filesystem("memory")
    store, folders = dict(fs.store), list(fs.pseudo_dirs)
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()
    fs.store.update(store)
    fs.pseudo_dirs[:] = folders


@pytest.fixture
def web(tmp_path):
    """A folder, the address at which it is served, and what was asked; some paths answer as they say."""
    (tmp_path / "web").mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/status/"):
                self.send_error(int(self.path.rpartition("/")[2]))
            elif self.path.startswith("/cut"):
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"half")
                self.close_connection = True
            elif self.path.startswith("/endless"):
                self.send_response(200)
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(bytes(2**16))
                except OSError:
                    self.close_connection = True
            elif self.path.startswith("/timeless"):
                self.send_response(200)
                self.send_header("Content-Length", "3")
                self.end_headers()
                self.wfile.write(b"one")
            else:
                super().do_GET()

        def do_HEAD(self):
            if self.path.startswith(("/status/", "/timeless")):
                self.do_GET() if self.path.startswith("/status/") else self.send_error(405)
            else:
                super().do_HEAD()

        def log_message(self, *arguments):
            asked.append(f"{self.command} {self.path}")

    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield tmp_path / "web", f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def s3_server():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A bucket of a server that is named as a user names it: in the environment."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    fs = fsspec.filesystem("s3")
    fs.mkdir("photos")
    yield fs
    fs.rm("photos", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def put(folder, files):
    for name, data in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def zipped(make_photos, tmp_path):
    root = make_photos(splits={"train": 2, "test": 1})
    return root, Path(shutil.make_archive(str(tmp_path / "photos"), "zip", root))


def test_a_folder_in_memory(memory):
    memory.pipe({f"/set/{name}": data for name, data in PHOTOS.items()})
    memory.pipe({"/set/train/notes.txt": b"", "/set/train/.hidden/1.jpg": b"", "/settee/1.jpg": b""})
    source = open_source("memory://set/")
    assert source.kind == "split folders, over memory"
    assert source.location == "memory://set"
    assert rows(source) == [
        ("test/ants/3 ä%41#.jpg", "ants", "test"),
        ("train/ants/1.jpg", "ants", "train"),
        ("train/bees/2.jpg", "bees", "train"),
    ]
    assert outcomes(source) == PHOTOS
    assert [record.size for record in source] == [5, 3, 3]
    before = [record.mtime_ns for record in source]
    assert all(time > datetime(2024, 1, 1).timestamp() * 10**9 for time in before)
    memory.pipe("/set/train/ants/1.jpg", b"new")
    after = [record.mtime_ns for record in open_source("memory://set")]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    memory.rm("/set/train/ants/1.jpg")
    assert outcomes(source)["train/ants/1.jpg"] == "cannot be read: it does not exist"


def test_names_are_in_byte_order_and_keep_what_other_names_begin_with(memory):
    memory.pipe({f"/a/{name}": b"x" for name in ("b/2.jpg", "b/10.jpg", "B/1.jpg", "a/a/1.jpg", "é/1.jpg")})
    names = [record.name for record in open_source("memory:///a")]
    assert names == ["B/1.jpg", "a/a/1.jpg", "b/10.jpg", "b/2.jpg", "é/1.jpg"]


def test_a_mixture_of_splits_and_classes_is_refused(memory):
    memory.pipe({"/set/train/a/1.jpg": b"x", "/set/more/1.jpg": b"x"})
    with pytest.raises(SourceError, match=r"no splits \(more\)"):
        open_source("memory://set")


def test_one_file_is_opened_by_its_ending_and_its_copy_goes(memory, make_photos, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    root, path = zipped(make_photos, tmp_path)
    memory.pipe({"/far/photos.zip": path.read_bytes(), "/far/one.jpg": b"one"})
    source = open_source("memory://far/photos.zip")
    assert (source.kind, source.location) == ("split folders, in a zip archive", "memory://far/photos.zip")
    assert rows(source) == rows(open_source(root))
    assert outcomes(source) == {record.name: (root / record.name).read_bytes() for record in source}
    image = open_source("memory://far/one.jpg")
    assert rows(image) == [("one.jpg", None, None)]
    assert outcomes(image) == {"one.jpg": b"one"}
    assert len(list((tmp_path / "temporary").iterdir())) == 2
    del source, image
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []
    memory.pipe("/far/bad.zip", b"no zip")
    with pytest.raises(SourceError, match=r"memory://far/bad\.zip is no whole zip"):
        open_source("memory://far/bad.zip")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_manifest_and_arrays_behind_a_url(memory):
    memory.pipe({"/far/a.jpg": b"a", "/far/deep/b.jpg": b"b"})
    memory.pipe("/far/set.csv", b"path,label\ndeep/b.jpg,ants\nmemory://far/a.jpg,bees\ngone.jpg,bees\n")
    source = open_source("memory://far/set.csv")
    assert source.location == "memory://far/set.csv"
    assert outcomes(source) == {
        "deep/b.jpg": b"b",
        "memory://far/a.jpg": b"a",
        "gone.jpg": "cannot be read: it does not exist",
    }
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((2, 5, 5), np.uint8))
    memory.pipe("/far/set.npz", buffer.getvalue())
    source = open_source("memory://far/set.npz")
    assert source.location == "memory://far/set.npz"
    assert [source.read(record).shape[:2] for record in source] == [(5, 5)] * 2


def test_a_copy_for_which_there_is_no_room(memory, monkeypatch):
    memory.pipe("/far/photos.zip", bytes(1000))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=999))
        with pytest.raises(SourceError, match=r"takes 1,000 bytes, and .* has 999; set TMPDIR"):
            open_source("memory://far/photos.zip")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(memory), "get_file", full)
    with pytest.raises(SourceError, match=r"no room in .*; set TMPDIR"):
        open_source("memory://far/photos.zip")


def test_a_file_url_is_the_path_in_it(tmp_path):
    put(tmp_path, PHOTOS)
    source = open_source(f"file://{tmp_path}")
    assert source.location == str(tmp_path.resolve())
    assert rows(source) == rows(open_source(tmp_path))
    assert read_url(f"file://{tmp_path}/train/ants/1.jpg") == b"one"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nothere://bucket/photos", "the protocol 'nothere', which fsspec does not know"),
        ("simplecache::memory://set", "is a chain of URLs"),
        ("zip://a.jpg::memory://set.zip", "is a chain of URLs"),
        ("memory://set/gone", "memory://set/gone cannot be read: it does not exist"),
        ("memory://", "holds no images"),
        ("http://127.0.0.1:9/x.zip", r"http://127\.0\.0\.1:9/x\.zip cannot be read: .*127\.0\.0\.1:9"),
    ],
)
def test_what_cannot_be_opened(memory, url, text):
    with pytest.raises(SourceError, match=text) as caught:
        list_images(open_source(url))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "todo"),
    [
        ("s3://photos/x", "s3fs", r"pip install 'featx\[s3\]'"),
        ("gs://photos/x", "gcsfs", "gcsfs"),
        ("https://host/x", "fsspec.implementations.http", "pip install 'aiohttp'"),
    ],
)
def test_a_package_that_is_missing_is_named(monkeypatch, url, module, todo):
    registry = importlib.import_module("fsspec.registry")  # fsspec.registry is something else
    original = registry._import_class

    def missing(name):
        if module in name:
            raise ImportError(f"No module named {name}")
        return original(name)

    monkeypatch.setattr(registry, "_registry", {})
    monkeypatch.setattr(registry, "_import_class", missing)
    assert url.partition(":")[0] in fsspec.available_protocols()
    with pytest.raises(SourceError, match=f"a package that is not installed: .*{todo}"):
        open_url(url)


def test_a_zip_over_http(web, make_photos, tmp_path):
    folder, address, _ = web
    root, path = zipped(make_photos, tmp_path)
    shutil.copy(path, folder / "photos.zip")
    source = open_source(f"{address}/photos.zip?token=secret")
    assert source.location == f"{address}/photos.zip"
    assert rows(source) == rows(open_source(root))
    assert outcomes(source) == {record.name: (root / record.name).read_bytes() for record in source}
    stamp = int((folder / "photos.zip").stat().st_mtime)
    assert {record.mtime_ns for record in source} == {stamp * 10**9} or all(
        record.mtime_ns > 0 for record in source
    )
    assert {record.mtime_ns for record in open_source(f"{address}/photos.zip")} == {
        record.mtime_ns for record in source
    }


def test_a_folder_over_http(web):
    folder, address, _ = web
    put(folder / "set", PHOTOS | {"train/notes.txt": b""})
    for url in (f"{address}/set/", f"{address}/set"):
        source = open_source(url)
        assert source.location == f"{address}/set"
        assert rows(source) == rows(open_source(folder / "set"))
        assert outcomes(source) == PHOTOS
        # No time is known, and so no size that could be believed.
        assert {(record.size, record.mtime_ns) for record in source} == {(-1, -1)}
    (folder / "set" / "train/ants/1.jpg").unlink()
    assert outcomes(source)["train/ants/1.jpg"] == "cannot be read: it does not exist"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("status/404", "it does not exist"),
        ("status/403", "the server answers 403 Forbidden"),
        ("status/500", "the server answers 500 Internal Server Error"),
        ("cut", "not completed|payload"),
        ("endless", "more than 1,000 bytes"),
        ("timeless", None),
    ],
)
def test_one_image_over_http(web, path, text):
    _, address, asked = web
    url = f"{address}/{path}"
    if text is None:
        assert read_url(url, 3) == b"one"
        assert asked == ["GET /timeless"]
        with pytest.raises(ImageError, match="more than 2 bytes"):
            read_url(url, 2)
        return
    with pytest.raises(ImageError, match=text) as caught:
        read_url(url, 1000)
    assert "\n" not in str(caught.value)


def test_errors_tell_no_secret(web):
    _, address, _ = web
    host = address.removeprefix("http://")
    for path in ("status/404", "status/403", "gone/x.zip"):
        url = f"http://me:hunter2@{host}/{path}?X-Amz-Signature=hunter2"
        for call, failure in ((open_url, SourceError), (read_url, ImageError)):
            with pytest.raises(failure) as caught:
                call(url)
            assert "hunter2" not in str(caught.value)
    with pytest.raises(ImageError) as caught:
        read_url("http://me:hunter2@127.0.0.1:9/x?sig=hunter2")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ImageError, match=r"of 'https://host/x' twice$"), told(ImageError):
        raise ValueError("of 'https://me:hunter2@host/x?sig=hunter2'\n twice")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://photos/a b/1.jpg?x=1", "s3://photos/a b/1.jpg?x=1"),
        ("ftp://me:secret@host/x", "ftp://host/x"),
        ("sftp://me@host/x@y", "sftp://me@host/x@y"),
        ("abfs://box@account.dfs/x", "abfs://box@account.dfs/x"),
        ("https://token@host/x", "https://host/x"),
        ("HTTPS://host/x?sv=1&sig=2", "HTTPS://host/x"),
        ("https://host/x?AWSAccessKeyId=1", "https://host/x"),
        ("https://host/x?access_token=", "https://host/x"),
        ("https://host/x?page=2#token=3", "https://host/x?page=2"),
        ("https://host?sig=a@b/c", "https://host"),
        ("https://host/x@y?a=b@c", "https://host/x@y?a=b@c"),
    ],
)
def test_what_is_shown_of_a_url(url, shown):
    assert public_url(url) == shown


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"mtime": 2}, 2 * 10**9),
        ({"LastModified": datetime(1970, 1, 1, 0, 0, 1, 5, UTC)}, 1_000_005_000),
        ({"LastModified": datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))}, 0),
        ({"LastModified": datetime(1970, 1, 1, 0, 0, 1), "ETag": "x"}, 10**9),
        ({"mtime": float("nan"), "size": 3}, -1),
        ({"mtime": None, "ETag": ""}, -1),
        ({}, -1),
    ],
)
def test_the_time_of_change(info, expected):
    assert remote._changed_ns(info) == expected


def test_without_a_time_a_checksum_tells_a_change():
    numbers = [remote._changed_ns({"ETag": text}) for text in ("a", "b", "a")]
    assert numbers[0] == numbers[2] != numbers[1]
    assert all(0 <= number < 2**63 for number in numbers)
    assert remote._changed_ns({"md5": b"a"}) == numbers[0]
    assert 0 <= remote._changed_ns({"mtime": 1.7e12}) < 2**63


def test_a_file_without_any_is_told_apart_by_its_bytes(memory, monkeypatch):
    monkeypatch.setattr(remote, "_CHANGED", ())
    times = []
    for data in (b"one", b"two", b"one"):
        memory.pipe({"/far/1.jpg": data})
        (record,) = open_source("memory://far/1.jpg")
        times.append(record.mtime_ns)
    assert times[0] == times[2] != times[1]


def test_s3_at_an_endpoint_of_the_environment(bucket):
    bucket.pipe({f"photos/set/{name}": data for name, data in PHOTOS.items()} | {"photos/set/x.txt": b""})
    bucket.pipe("photos/set/train/empty.jpg", b"")
    bucket.touch("photos/set/train/ants/")  # a marker, as consoles make for a folder
    source = open_source("s3://photos/set")
    assert source.kind == "split folders, over s3"
    assert outcomes(source) == PHOTOS | {"train/empty.jpg": b""}
    assert ("test/ants/3 ä%41#.jpg", "ants", "test") in rows(source)
    assert {record.size for record in source} == {0, 3, 5}
    assert all(record.mtime_ns > datetime(2024, 1, 1).timestamp() * 10**9 for record in source)
    assert read_url("s3://photos/set/train/ants/1.jpg", 3) == b"one"
    with pytest.raises(ImageError, match="3 bytes: an image may have 2"):
        read_url("s3://photos/set/train/ants/1.jpg", 2)
    for call, url, failure in (
        (open_url, "s3://photos/gone", SourceError),
        (open_url, "s3://gone/x.zip", SourceError),
        (read_url, "s3://photos/gone.jpg", ImageError),
    ):
        with pytest.raises(failure, match="it does not exist"):
            call(url)
    # What somebody else puts there, or takes away, is seen: no listing is remembered.
    client = boto3.client("s3")
    bucket.ls("photos")
    client.put_object(Bucket="photos", Key="fresh/1.jpg", Body=b"new")
    assert outcomes(open_source("s3://photos/fresh")) == {"1.jpg": b"new"}
    client.put_object(Bucket="photos", Key="set/test/new.jpg", Body=b"new")
    assert "test/new.jpg" in outcomes(open_source("s3://photos/set"))
    client.delete_object(Bucket="photos", Key="set/test/new.jpg")
    assert "test/new.jpg" not in outcomes(open_source("s3://photos/set"))


def test_s3_at_an_endpoint_of_fsspecs_own_configuration(bucket, s3_server, monkeypatch):
    import s3fs

    bucket.pipe("photos/a/1.jpg", b"one")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    read = {}
    set_conf_env(read, {"FSSPEC_S3_ENDPOINT_URL": s3_server})
    monkeypatch.setitem(conf, "s3", read["s3"])
    s3fs.S3FileSystem.clear_instance_cache()
    assert outcomes(open_source("s3://photos")) == {"a/1.jpg": b"one"}


def test_a_server_that_refuses_or_is_gone_costs_a_row_each(bucket, monkeypatch):
    bucket.pipe({"photos/a/1.jpg": b"one", "photos/a/2.jpg": b"two"})
    source = open_source("s3://photos")
    original = bucket.cat_file

    def refuse(path, **options):
        if path.endswith("1.jpg"):
            raise PermissionError("Access Denied")
        return original(path, **options)

    monkeypatch.setattr(bucket, "cat_file", refuse)
    assert outcomes(source) == {"a/1.jpg": "cannot be read: Access Denied", "a/2.jpg": b"two"}


@pytest.mark.parametrize("place", ["memory", "http", "s3"])
def test_threads_read_at_random(place, request):
    data = {
        f"{number % 5}/{number}.jpg": random.Random(number).randbytes(500 + number) for number in range(40)
    }
    if place == "http":
        folder, address, _ = request.getfixturevalue("web")
        put(folder / "set", data)
        source = open_source(f"{address}/set/")
    else:
        fs = request.getfixturevalue({"memory": "memory", "s3": "bucket"}[place])
        fs.pipe({f"photos/{name}": image for name, image in data.items()})
        source = open_source(f"{place}://photos")
    records = list(source) * 2
    random.Random(0).shuffle(records)
    together = threading.Barrier(8)

    def read(share):
        together.wait()
        return [source.read(record) == data[record.name] for record in share]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, [records[start::8] for start in range(8)]))
    assert [len(share) for share in found] == [10] * 8
    assert all(all(share) for share in found)


def test_a_store_of_a_bucket_is_that_of_its_folder(bucket, make_photos, tmp_path):
    root, path = zipped(make_photos, tmp_path)
    bucket.put(str(root), "photos/set", recursive=True)
    bucket.put_file(str(path), "photos/set.zip")
    options = {"backbone": "pixels", "image_size": 8}
    expected = featx.extract(root, tmp_path / "folder.h5", **options)
    for url in ("s3://photos/set", "s3://photos/set.zip"):
        output = tmp_path / f"{url.rpartition('/')[2]}.h5"
        store = featx.extract(url, output, **options)
        assert store.names == expected.names
        assert store.meta["source"] == url
        np.testing.assert_array_equal(store.digests, expected.digests)
        np.testing.assert_array_equal(store.X("flatten"), expected.X("flatten"))
        again = featx.extract(url, output, **options)
        assert (store.summary.computed, again.summary.computed) == (6, 0)


def test_a_remote_folder_is_a_source(memory):
    memory.pipe("/set/a/1.jpg", b"x")
    source = RemoteSource("memory://set")
    assert open_source(source) is source
