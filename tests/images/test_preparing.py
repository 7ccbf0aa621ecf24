import io

import numpy as np
import pytest
from imagefiles import HAS_AVIF, encode, exif
from PIL import Image

from featx.errors import ImageError, UnknownNameError
from featx.images import preparing
from featx.images.decoding import POLICY
from featx.images.formats import FORMATS
from featx.images.preparing import prepare_here, prepare_image
from featx.records import Preprocess

SQUASH = Preprocess("squash", 8, 8, "bilinear", (0, 0, 0), (1, 1, 1))


def scene(mode="RGB", size=(40, 33)):
    cells = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def apart(monkeypatch):
    """What was decoded in another process."""
    asked = []
    original = preparing.prepare_apart

    def watched(data, *args):
        asked.append(data)
        return original(data, *args)

    monkeypatch.setattr(preparing, "prepare_apart", watched)
    return asked


@pytest.mark.parametrize("format", ["JPEG", "PNG", "MPO"])
def test_jpeg_and_png_are_decoded_here(apart, format):
    assert prepare_image(encode(scene(), format), SQUASH, POLICY).seconds == 0
    assert apart == []


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"JPEG", "PNG"}))
def test_the_others_are_decoded_in_another_process_and_come_out_alike(apart, format):
    data = encode(scene(), format, **({"exif": exif(6)} if format == "WEBP" else {}))
    found, expected = prepare_image(data, SQUASH, POLICY), prepare_here(data, SQUASH, POLICY)
    assert apart == [data]
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.pixels.dtype == np.uint8
    for name in ("phash", "width", "height", "mode"):
        assert getattr(found, name) == getattr(expected, name), name
    assert (found.width, found.height) == ((33, 40) if format == "WEBP" else (40, 33))
    assert found.phash != 0
    assert found.seconds > 0


@pytest.mark.parametrize(
    "make", [np.asarray, lambda image: image, lambda image: Image.open(io.BytesIO(encode(image, "TIFF")))]
)
def test_what_is_pixels_already_stays_here(apart, make):
    found = prepare_image(make(scene()), SQUASH, POLICY)
    np.testing.assert_array_equal(found.pixels, prepare_here(scene(), SQUASH, POLICY).pixels)
    assert apart == []


@pytest.mark.parametrize("data", [b"", b"<html>", b"nonsense", b"version https://git-lfs"])
def test_no_process_is_started_for_what_is_no_image(apart, data):
    with pytest.raises(ImageError, match=r"not an image|empty"):
        prepare_image(data, SQUASH, POLICY)
    assert apart == []


def test_a_reason_of_the_other_process_is_the_same_as_here():
    data = encode(scene(), "TIFF")[:1000]
    with pytest.raises(ImageError, match="truncated") as here:
        prepare_here(data, SQUASH, POLICY)
    with pytest.raises(ImageError) as apart:
        prepare_image(data, SQUASH, POLICY)
    assert str(apart.value) == str(here.value)


def test_thin_images_have_their_reason_too():
    crop = Preprocess("crop", 256, 224, "bilinear", (0, 0, 0), (1, 1, 1))
    with pytest.raises(ImageError, match="too thin"):
        prepare_image(encode(Image.new("L", (1, 60_000)), "BMP"), crop, POLICY)


@pytest.mark.parametrize("format", ["PNG", "BMP"])
def test_rules_of_another_version(apart, format):
    with pytest.raises(UnknownNameError, match="decoding policy 'none'"):
        prepare_image(encode(scene(), format), SQUASH, "none")
    assert apart == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_facts(mode):
    picture = Image.fromarray(np.zeros((33, 40), np.uint16)) if mode == "I;16" else scene().convert(mode)
    found = prepare_image(encode(picture), SQUASH, POLICY)
    assert (found.width, found.height, found.mode) == (40, 33, mode)


@pytest.mark.skipif(HAS_AVIF, reason="this Pillow has AVIF")
def test_avif_is_refused_where_pillow_has_none():
    with pytest.raises(ImageError, match="not an image in a format"):
        prepare_image(b"\0\0\0 ftypavif" + bytes(100), SQUASH, POLICY)
