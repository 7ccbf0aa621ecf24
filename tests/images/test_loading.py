import hashlib
import io
import threading

import numpy as np
import pytest
from PIL import Image

from featx.images import reading
from featx.images.decoding import MAX_PIXELS
from featx.images.loading import digest_of, load
from featx.images.preparing import difference_hash
from featx.images.sources import list_images, open_source
from featx.records import Preprocess

SMALL = Preprocess("squash", 8, 8, "bilinear", (0, 0, 0), (1, 1, 1))


def png(seed):
    buffer = io.BytesIO()
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    for index in range(40):
        (tmp_path / "a" / f"{index:02}.png").write_bytes(png(index))
    return tmp_path


@pytest.mark.parametrize("workers", [1, 3])
def test_pixels_and_digests_come_in_order(folder, workers):
    source = open_source(folder)
    loaded = list(load(source, list_images(source), SMALL, workers=workers))
    assert [item.index for item in loaded] == list(range(40))
    for index, item in enumerate(loaded):
        data = png(index)
        assert item.digest == hashlib.sha256(data).digest()
        np.testing.assert_array_equal(item.pixels, np.asarray(Image.open(io.BytesIO(data))))
        assert item.reason == ""


def test_a_bad_file_costs_one_reason(folder):
    (folder / "a" / "07.png").write_bytes(b"nonsense")
    (folder / "a" / "08.png").unlink()
    (folder / "a" / "08.png").mkdir()  # listed as a folder, without files
    source = open_source(folder)
    records = list_images(source)
    (folder / "a" / "09.png").unlink()  # gone after it was listed
    loaded = list(load(source, records, SMALL, workers=2))
    reasons = {records[item.index].name: item.reason for item in loaded if item.reason}
    assert reasons.keys() == {"a/07.png", "a/09.png"}
    assert "cannot be read: No such file" in reasons["a/09.png"]
    assert all((item.pixels is None) == bool(item.reason) for item in loaded)


def test_what_is_not_claimed_is_not_decoded(folder):
    wanted = hashlib.sha256(png(3)).digest()
    asked, lock = [], threading.Lock()

    def claim(digest):
        with lock:
            asked.append(digest)
        return digest == wanted

    source = open_source(folder)
    loaded = list(load(source, list_images(source), SMALL, workers=2, claim=claim))
    assert [item.index for item in loaded if item.pixels is not None] == [3]
    assert len(asked) == len(set(asked)) == 40


def test_trusted_files_are_not_read_again(folder):
    source = open_source(folder)
    records = list_images(source)
    read = []
    original = source.read
    source.read = lambda record: read.append(record.name) or original(record)
    trusted = {
        record.name: (record.size, record.mtime_ns, hashlib.sha256(png(index)).digest())
        for index, record in enumerate(records)
    }
    trusted[records[5].name] = (records[5].size, records[5].mtime_ns + 1, b"x" * 32)
    loaded = list(load(source, records, SMALL, workers=2, claim=lambda digest: False, trusted=trusted))
    assert read == [records[5].name]
    assert [item.digest for item in loaded] == [hashlib.sha256(png(index)).digest() for index in range(40)]


def test_the_decoder_stays_a_bounded_number_ahead(folder):
    source = open_source(folder)
    started = []
    original = source.read
    source.read = lambda record: started.append(record.name) or original(record)
    stream = load(source, list_images(source), SMALL, workers=1)
    next(stream)
    stream.close()
    assert len(started) <= 18


def test_difference_hash_is_close_for_a_smaller_copy_and_far_for_another_picture():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
        (300, 200), Image.BICUBIC
    )
    other = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((300, 200), Image.BICUBIC)
    same = difference_hash(smooth) ^ difference_hash(smooth.resize((120, 80)))
    assert same.bit_count() <= 4
    assert (difference_hash(smooth) ^ difference_hash(other)).bit_count() > 15
    assert difference_hash(smooth.resize((31, 100))) == 0


def test_array_digests_know_shape_and_dtype():
    zeros = np.zeros((2, 8), np.uint8)
    digests = {digest_of(array) for array in (zeros, zeros.reshape(4, 4), zeros.view(np.uint16), zeros + 1)}
    assert len(digests) == 4
    assert digest_of(zeros) == digest_of(zeros.copy())


def test_pil_images_that_look_different_have_different_digests():
    images = []
    for palette in ([0, 0, 0, 255, 255, 255], [255, 255, 255, 0, 0, 0]):
        image = Image.new("P", (2, 1))
        image.putpalette(palette)
        image.putdata([0, 1])
        images.append(image)
    assert digest_of(images[0]) != digest_of(images[1])


def test_what_cannot_be_loaded_never_is_an_exception():
    truncated = Image.open(io.BytesIO(png(0)[:60]))
    thin = Image.new("RGB", (1, 60_000))
    source = open_source(["zero\0byte.png", truncated, thin])
    record = Preprocess("crop", 256, 224, "bilinear", (0, 0, 0), (1, 1, 1))
    reasons = [item.reason for item in load(source, list_images(source), record, workers=1)]
    assert "cannot be read" in reasons[0]
    assert "broken image" in reasons[1]
    assert "too thin" in reasons[2]


def test_the_difference_hash_sees_what_is_in_the_box():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8))
    wide = Image.new("RGB", (190, 80), "white")
    wide.paste(picture, (70, 0))
    assert difference_hash(wide, (70, 0, 160, 80)) == difference_hash(picture)
    assert difference_hash(wide) != difference_hash(picture)


class TestTooLarge:
    @pytest.fixture
    def limited(self, folder, monkeypatch):
        monkeypatch.setattr(reading, "MAX_IMAGE_BYTES", 1000)
        (folder / "a" / "05.png").write_bytes(png(5) + bytes(1000))
        return folder

    def test_what_is_listed_so_is_not_read(self, limited):
        source = open_source(limited)
        read, original = [], source.read
        source.read = lambda record: read.append(record.name) or original(record)
        loaded = list(load(source, list_images(source), SMALL, workers=1))
        reason = f"{len(png(5)) + 1000:,} bytes: an image may have 1,000 at most"
        assert [(item.index, item.reason) for item in loaded if item.reason] == [(5, reason)]
        assert "a/05.png" not in read
        assert len(read) == 39

    def test_what_is_not_listed_is_not_decoded(self, limited):
        source = open_source([limited / "a" / "05.png", limited / "a" / "06.png"])
        first, second = load(source, list_images(source), SMALL, workers=1)
        assert "an image may have 1,000 at most" in first.reason
        assert first.digest == b""
        assert second.pixels is not None

    def test_the_largest_picture_of_16_bits_fits_without_compression(self):
        assert reading.MAX_IMAGE_BYTES >= 6 * MAX_PIXELS
