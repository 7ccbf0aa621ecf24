import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from featx.errors import ImageError, UnknownNameError
from featx.images import decoding
from featx.images.decoding import FAST_POLICY, POLICY, decode, decode_for
from featx.images.geometry import prepare
from featx.images.loading import difference_hash
from featx.records import Preprocess


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixel(data, position=(0, 0)):
    image = decode(data)
    assert image.mode == "RGB"
    return image.getpixel(position)


def near(got, expected, tolerance=3):
    return all(abs(a - b) <= tolerance for a, b in zip(got, expected, strict=True))


class TestConversions:
    def test_rgb_is_left_alone(self):
        assert pixel(encode(Image.new("RGB", (3, 2), (10, 20, 30)))) == (10, 20, 30)

    def test_exif_orientation_is_applied(self):
        image = Image.new("RGB", (40, 20), "black")
        image.paste("white", (0, 0, 20, 20))  # left half
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
        decoded = decode(encode(image, "JPEG", exif=exif, quality=95))
        assert decoded.size == (20, 40)
        assert near(decoded.getpixel((10, 5)), (255, 255, 255))
        assert near(decoded.getpixel((10, 35)), (0, 0, 0))

    def test_cmyk(self):
        assert near(
            pixel(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)), (254, 0, 0), 4
        )

    def test_16_bit_grey_is_scaled_by_the_range_of_the_type(self):
        values = np.array([[0, 257 * 7, 65535]], dtype=np.uint16)
        data = encode(Image.fromarray(values))
        assert [pixel(data, (x, 0))[0] for x in range(3)] == [0, 7, 255]

    def test_16_bit_of_the_other_byte_order_is_the_same(self):
        values = np.array([[1000, 257 * 7]], dtype=">u2")
        buffer = io.BytesIO()
        Image.frombytes("I;16B", (2, 1), values.tobytes()).save(buffer, "TIFF")
        assert [pixel(buffer.getvalue(), (x, 0))[0] for x in range(2)] == [4, 7]
        assert [pixel(values, (x, 0))[0] for x in range(2)] == [4, 7]

    def test_float_is_scaled_by_its_own_range(self):
        data = encode(Image.fromarray(np.array([[-1.0, 0.0, 1.0, np.nan]], dtype=np.float32)), "TIFF")
        assert [pixel(data, (x, 0))[0] for x in range(4)] == [0, 128, 255, 0]

    def test_32_bit_is_scaled_by_its_own_range(self):
        data = encode(Image.fromarray(np.array([[100, 300, 500]], dtype=np.int32)), "TIFF")
        assert [pixel(data, (x, 0))[0] for x in range(3)] == [0, 128, 255]

    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [
            ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
            ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
            ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
            ("LA", (0, 0), (255, 255, 255)),
            ("LA", (0, 255), (0, 0, 0)),
        ],
    )
    def test_alpha_is_laid_on_white(self, mode, colour, expected):
        assert near(pixel(encode(Image.new(mode, (2, 2), colour))), expected, 1)

    def test_transparent_palette_is_laid_on_white(self):
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.putdata([0, 1])
        data = encode(image, transparency=0)
        assert pixel(data, (0, 0)) == (255, 255, 255)
        assert pixel(data, (1, 0)) == (0, 255, 0)

    def test_one_bit(self):
        assert pixel(encode(Image.new("1", (2, 2), 1))) == (255, 255, 255)

    def test_lab_becomes_srgb(self):
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(
            Image.new("RGB", (4, 4), (200, 40, 90)), srgb, lab, outputMode="LAB"
        )
        assert near(pixel(encode(image, "TIFF")), (200, 40, 90), 4)

    def test_the_first_frame_of_an_animation(self):
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
        data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert near(pixel(data), (255, 0, 0))

    def test_a_jpeg_called_png_is_a_picture(self):
        assert near(pixel(encode(Image.new("RGB", (8, 8), (9, 99, 199)), "JPEG", quality=95)), (9, 99, 199))

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
    def test_formats(self, format):
        assert decode(encode(Image.new("RGB", (5, 7), "teal"), format)).size == (5, 7)


class TestPilImages:
    def test_the_orientation_counts(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encode(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
        assert decode(Image.open(io.BytesIO(data))).size == decode(data).size == (20, 40)

    def test_a_truncated_one_has_a_reason(self):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        data = encode(noise, "JPEG")
        with pytest.raises(ImageError, match="truncated"):
            decode(Image.open(io.BytesIO(data[: len(data) // 2])))


class TestArrays:
    def test_grey_and_rgb(self):
        assert pixel(np.full((2, 3), 7, np.uint8)) == (7, 7, 7)
        assert pixel(np.full((2, 3, 1), 7, np.uint8)) == (7, 7, 7)
        assert pixel(np.tile(np.array([1, 2, 3], np.uint8), (2, 2, 1))) == (1, 2, 3)

    def test_float_and_uint16(self):
        assert pixel(np.full((2, 2), 0.5)) == (128, 128, 128)
        assert pixel(np.full((2, 2), 65535, np.uint16)) == (255, 255, 255)

    @pytest.mark.parametrize(
        ("array", "text"),
        [
            (np.zeros((2, 2, 5), np.uint8), r"shape \(2, 2, 5\) is no image"),
            (np.zeros((0, 4), np.uint8), "no pixels"),
            (np.full((2, 2), 1.5), "between 0 and 1"),
            (np.full((2, 2), np.nan), "between 0 and 1"),
            (np.zeros((2, 2), np.int64), "dtype int64"),
        ],
    )
    def test_what_is_no_image(self, array, text):
        with pytest.raises(ImageError, match=text):
            decode(array)


class TestBrokenFiles:
    def test_empty(self):
        with pytest.raises(ImageError, match="empty"):
            decode(b"")

    def test_not_an_image(self):
        with pytest.raises(ImageError, match="not an image in a format that featx reads"):
            decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")

    @pytest.mark.parametrize("format", ["JPEG", "PNG"])
    def test_truncated(self, format):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        data = encode(noise, format)
        with pytest.raises(ImageError, match=r"broken image: .*truncated"):
            decode(data[: len(data) // 2])

    def test_decompression_bomb(self):
        data = encode(Image.new("RGB", (2, 2)))
        header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + data[24:29]
        bomb = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
        with pytest.raises(ImageError, match="89,478,485"):
            decode(bomb)

    def test_every_prefix_and_many_flips_end_as_a_picture_or_a_reason(self):
        rng = np.random.default_rng(1)
        noise = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
        survived = 0
        for format in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"):
            data = bytearray(encode(noise, format))
            for _ in range(50):
                broken = bytearray(data)
                for position in rng.integers(0, len(broken), 3):
                    broken[position] ^= int(rng.integers(1, 256))
                try:
                    survived += decode(bytes(broken)).mode == "RGB"
                except ImageError:
                    continue
        assert survived > 0


def target(resize="squash", side=40):
    return Preprocess(resize, side, side, "bilinear", (0, 0, 0), (1, 1, 1))


def scenery(width, height, mode="RGB"):
    """Soft blotches: most of what there is survives scaling, and a shift of a pixel does not."""
    rng = np.random.default_rng([width, height])
    cells = rng.integers(0, 256, (-(-height // 48), -(-width // 48), 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def distance(data, preprocess):
    """Mean difference of the network's input between the two policies, in levels of 255."""
    fast, box = decode_for(data, preprocess, FAST_POLICY)
    assert fast.mode == "RGB"
    exact = prepare(decode(data), preprocess).astype(float)
    return np.abs(prepare(fast, preprocess, box) - exact).mean()


class TestFastPolicy:
    @pytest.mark.parametrize(
        ("size", "scaled", "box"),
        [
            ((560, 560), (70, 70), (0, 0, 70, 70)),
            ((561, 567), (71, 71), (0, 0, 70.125, 70.875)),
            ((559, 800), (140, 200), (0, 0, 139.75, 200)),
            ((140, 1000), (70, 500), (0, 0, 70, 500)),
        ],
    )
    def test_large_photos_come_scaled(self, size, scaled, box):
        image, found = decode_for(encode(scenery(*size), "JPEG"), target(), FAST_POLICY)
        assert (image.size, found) == (scaled, box)

    @pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
    @pytest.mark.parametrize("size", [(575, 569), (700, 561), (561, 913)])
    def test_the_network_sees_nearly_the_same(self, resize, size):
        assert distance(encode(scenery(*size), "JPEG", quality=95), target(resize)) < 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_turned_photos_do_so_too(self, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(scenery(713, 569), "JPEG", exif=exif, quality=95)
        for resize in ("crop", "squash", "pad"):
            assert distance(data, target(resize)) < 1
        image, _ = decode_for(data, target(), FAST_POLICY)
        assert image.size == ((90, 72) if orientation < 5 else (72, 90))

    @pytest.mark.parametrize(
        ("mode", "options"),
        [
            ("L", {}),
            ("RGB", {"progressive": True}),
            ("RGB", {"subsampling": 0}),
            ("L", {"progressive": True}),
        ],
    )
    def test_kinds_of_jpeg(self, mode, options):
        data = encode(scenery(575, 569, mode), "JPEG", quality=95, **options)
        assert decode_for(data, target(), FAST_POLICY)[0].size == (72, 72)
        assert distance(data, target()) < 1

    def test_photos_of_phones_with_more_than_one_picture(self):
        options = {"save_all": True, "append_images": [scenery(80, 60)], "quality": 95}
        data = encode(scenery(575, 569), "MPO", **options)
        assert Image.open(io.BytesIO(data)).format == "MPO"
        assert decode_for(data, target(), FAST_POLICY)[0].size == (72, 72)
        assert distance(data, target()) < 1

    @pytest.mark.parametrize(
        ("mode", "format", "size"),
        [
            ("RGB", "JPEG", (300, 139)),
            ("RGB", "JPEG", (24, 20)),
            ("RGB", "PNG", (575, 569)),
            ("CMYK", "JPEG", (575, 569)),
        ],
    )
    def test_all_else_is_left_as_it_is(self, mode, format, size):
        data = encode(scenery(*size, mode), format)
        image, box = decode_for(data, target(), FAST_POLICY)
        assert box is None
        assert image.tobytes() == decode(data).tobytes()

    def test_pixels_in_memory_are_left_as_they_are(self):
        picture = scenery(575, 569)
        assert decode_for(picture, target(), FAST_POLICY)[0].size == (575, 569)
        assert decode_for(np.asarray(picture), target(), FAST_POLICY)[0].size == (575, 569)

    def test_the_usual_policy_scales_nothing(self):
        data = encode(scenery(575, 569), "JPEG")
        image, box = decode_for(data, target(), POLICY)
        assert box is None
        assert image.tobytes() == decode(data).tobytes()

    def test_the_limit_is_on_the_size_of_the_file(self, monkeypatch):
        data = encode(scenery(575, 569), "JPEG")
        monkeypatch.setattr(decoding, "MAX_PIXELS", 575 * 569 - 1)
        with pytest.raises(ImageError, match="575×569 pixels are more than 327,174 allowed"):
            decode_for(data, target(), FAST_POLICY)

    def test_a_truncated_file_is_broken_at_every_scale(self):
        data = encode(scenery(575, 569), "JPEG")
        with pytest.raises(ImageError, match="broken image: image file is truncated"):
            decode_for(data[: len(data) // 2], target(), FAST_POLICY)

    @pytest.mark.parametrize("size", [(575, 569), (1001, 999), (520, 1907)])
    def test_the_difference_hash_hardly_changes(self, size):
        data = encode(scenery(*size), "JPEG")
        image, box = decode_for(data, target("squash", 4), FAST_POLICY)
        assert min(image.size) < min(size) / 3
        exact, fast = difference_hash(decode(data)), difference_hash(image, box)
        assert fast != 0
        assert (exact ^ fast).bit_count() <= 3

    def test_rules_of_another_version(self):
        with pytest.raises(
            UnknownNameError, match=r"decoding policy '2'. There is '1' or '1\+dct'. .*version"
        ):
            decode_for(b"", target(), "2")
