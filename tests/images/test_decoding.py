import io
import struct
import zlib

import numpy as np
import pytest
from imagefiles import HAS_AVIF, encode, exif, png, tiff, with_chunk, with_segment, without_segment
from PIL import Image, ImageCms

from featx.errors import ImageError, UnknownNameError
from featx.images import decoding
from featx.images.decoding import FAST_POLICY, POLICY, decode, decode_for
from featx.images.formats import FORMATS, recognise
from featx.images.geometry import prepare
from featx.images.preparing import difference_hash
from featx.records import Preprocess

BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)
QUARTERS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(16, 0).repeat(32, 1)
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, -1)[::-1],
    8: lambda stored: np.rot90(stored, 1),
}
AVIF = pytest.mark.skipif(not HAS_AVIF, reason="this Pillow has no AVIF")

GOLDEN = []


def golden(rule, name, data, expected, tolerance=0, marks=()):
    """One picture: bytes, or a function that gives them; and its pixels, as a row or as all of them."""
    GOLDEN.append(pytest.param(rule, data, expected, tolerance, id=f"{rule}: {name}", marks=marks))


def greys(*values):
    return [(value,) * 3 for value in values]


def u16(*values, order="<"):
    return struct.pack(f"{order}{len(values)}H", *values)


def flat(mode, *colours):
    """A row of pixels."""
    image = Image.new(mode, (len(colours), 1))
    for x, colour in enumerate(colours):
        image.putpixel((x, 0), colour)
    return image


def blocks(mode, *colours):
    """A row of squares of 16 pixels, so that JPEG keeps their colours."""
    return flat(mode, *colours).resize((16 * len(colours), 16), Image.Resampling.NEAREST)


def wide(colours):
    return np.array([colours], np.uint8).repeat(16, 0).repeat(16, 1)


def palette(*indices, colours=(RED, GREEN, BLUE)):
    image = flat("P", *indices)
    image.putpalette([level for colour in colours for level in colour])
    return image


def packed_12_bits(first, second):
    return bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])


def frames(format, **options):
    """A red frame and then a blue one."""
    options |= {"save_all": True, "append_images": [blocks("RGB", BLUE)]}
    return encode(blocks("RGB", RED), format, **options)


def lab(*colours):
    image = flat("RGB", *colours)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")


def wild_profile():
    """One by which red would be far from red."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()


for number, turn in UPRIGHT.items():
    picture, tag = Image.fromarray(QUARTERS), exif(number)
    turned = turn(QUARTERS)
    golden("EXIF orientation", f"PNG {number}", encode(picture, "PNG", exif=tag), turned)
    golden("EXIF orientation", f"WebP {number}", encode(picture, "WEBP", exif=tag, lossless=True), turned)
    golden(
        "EXIF orientation",
        f"TIFF {number}",
        tiff((64, 32), [8] * 3, QUARTERS.tobytes(), photometric=2, tags={274: [number]}),
        turned,
    )
    golden(
        "EXIF orientation",
        f"TIFF {number}, compressed",
        encode(picture, "TIFF", compression="tiff_lzw", tiffinfo={274: number}),
        turned,
    )
    jpeg = encode(picture, "JPEG", exif=tag, quality=95, subsampling=0)
    golden("EXIF orientation", f"JPEG {number}", jpeg, turned, 3)
    golden(
        "EXIF orientation",
        f"AVIF {number}",
        lambda picture=picture, tag=tag: encode(picture, "AVIF", exif=tag, quality=100, subsampling="4:4:4"),
        turned,
        8,
        AVIF,
    )
golden(
    "EXIF orientation",
    "JPEG with EXIF that is broken",
    with_segment(
        encode(Image.fromarray(QUARTERS), "JPEG", subsampling=0, dpi=(72, 72)), 0xE1, b"Exif\0\0nonsense"
    ),
    QUARTERS,
    9,
)

INKS = [(0, 255, 255, 0), (255, 0, 0, 0), (0, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 127)]
PRINTED = [RED, (0, 255, 255), BLACK, WHITE, (128, 128, 128)]
cmyk = encode(blocks("CMYK", *INKS), "JPEG", quality=95)
golden("CMYK", "JPEG of Adobe's kind", cmyk, wide(PRINTED), 3)
golden("CMYK", "JPEG without Adobe's marker", without_segment(cmyk, 0xEE), wide(PRINTED), 3)
golden("CMYK", "TIFF", encode(flat("CMYK", *INKS), "TIFF"), PRINTED)

golden(
    "8-bit YCbCr, Lab",
    "YCbCr TIFF",
    encode(flat("YCbCr", (76, 85, 255), (255, 128, 128)), "TIFF"),
    [RED, WHITE],
    1,
)
golden(
    "8-bit YCbCr, Lab",
    "Lab TIFF",
    encode(lab((200, 40, 90), (90, 120, 60)), "TIFF"),
    [(200, 40, 90), (90, 120, 60)],
    4,
)

LEVELS, SEEN = (0, 257 * 7, 1000, 4095, 65_535), greys(0, 7, 4, 16, 255)
for order, word in (("<", "little-endian"), (">", "big-endian")):
    data = u16(*LEVELS, order=order)
    golden("16-bit grey", f"{word} TIFF", tiff((5, 1), [16], data, order=order), SEEN)
golden("16-bit grey", "BigTIFF", tiff((5, 1), [16], u16(*LEVELS), big=True), SEEN)
golden(
    "16-bit grey",
    "compressed TIFF",
    encode(Image.fromarray(np.array([LEVELS], np.uint16)), "TIFF", compression="tiff_lzw"),
    SEEN,
)
golden("16-bit grey", "PNG", png((5, 1), 16, 0, [u16(*LEVELS, order=">")]), SEEN)
golden(
    "16-bit grey",
    "PNG of a source of 12 bits (sBIT)",
    png((5, 1), 16, 0, [u16(*LEVELS, order=">")], (b"sBIT", b"\x0c")),
    SEEN,
)
golden(
    "16-bit grey",
    "PNG with alpha",
    png((2, 1), 16, 4, [u16(0x80FF, 0xFFFF, 0, 0, order=">")]),
    greys(0x80, 255),
)
golden(
    "12-bit grey",
    "TIFF",
    tiff((4, 1), [12], packed_12_bits(0, 4095) + packed_12_bits(273, 2048)),
    greys(0, 255, 17, 128),
)

DEEP = (0x0180, 0x7FFF, 0xFFFF, 0, 0x8000, 0x00FF)
SHALLOW = [(1, 0x7F, 0xFF), (0, 0x80, 0)]
golden("16-bit colour", "PNG", png((2, 1), 16, 2, [u16(*DEEP, order=">")]), SHALLOW)
for order, word in (("<", "little-endian"), (">", "big-endian")):
    data = u16(*DEEP, order=order)
    golden("16-bit colour", f"{word} TIFF", tiff((2, 1), [16] * 3, data, photometric=2, order=order), SHALLOW)

FLOATS = np.array([-1.0, 0.0, 1.0, np.nan, np.inf], "<f4")
golden(
    "32-bit, float",
    "float TIFF",
    tiff((5, 1), [32], FLOATS.tobytes(), tags={339: [3]}),
    greys(0, 128, 255, 0, 0),
)
golden("32-bit, float", "float TIFF of one value", encode(flat("F", 7.5, 7.5), "TIFF"), greys(0, 0))
golden("32-bit, float", "integer TIFF", encode(flat("I", 100, 300, 500), "TIFF"), greys(0, 128, 255))
golden(
    "32-bit, float",
    "signed 16-bit TIFF",
    tiff((3, 1), [16], struct.pack("<3h", -100, 0, 100), tags={339: [2]}),
    greys(0, 128, 255),
)

golden("white is zero", "1-bit TIFF", tiff((2, 1), [1], b"\x40", photometric=0), greys(255, 0))
golden(
    "white is zero", "8-bit TIFF", tiff((3, 1), [8], bytes([0, 255, 7]), photometric=0), greys(255, 0, 248)
)
golden(
    "white is zero",
    "16-bit TIFF",
    tiff((3, 1), [16], u16(0, 65_535, 257 * 7), photometric=0),
    greys(255, 0, 248),
)
golden(
    "white is zero",
    "float TIFF",
    tiff((4, 1), [32], struct.pack("<4f", 0, 1, 0.2, np.nan), photometric=0, tags={339: [3]}),
    greys(255, 0, 204, 0),
)
golden(
    "16-bit grey",
    "TIFF that does not say what zero is",
    tiff((5, 1), [16], u16(*LEVELS), photometric=None),
    SEEN,
)

SHEER = [(200, 0, 0, 0), (200, 0, 0, 255), (0, 0, 0, 51)]
LAID = [WHITE, (200, 0, 0), (204, 204, 204)]
for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
    golden("alpha, transparency", f"RGBA {format}", encode(flat("RGBA", *SHEER), format, **options), LAID)
golden(
    "alpha, transparency",
    "RGBA AVIF",
    lambda: encode(blocks("RGBA", *SHEER[:2]), "AVIF", quality=100, subsampling="4:4:4"),
    wide(LAID[:2]),
    8,
    AVIF,
)
golden(
    "alpha, transparency",
    "premultiplied RGBA TIFF",
    tiff((2, 1), [8] * 4, bytes([100, 0, 0, 128, 0, 0, 0, 0]), photometric=2, tags={338: [1]}),
    [(227, 127, 127), WHITE],
    1,
)
golden(
    "alpha, transparency",
    "16-bit RGBA PNG",
    png((2, 1), 16, 6, [u16(0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0, 0, 0, order=">")]),
    [(0x12, 0x56, 0x9A), WHITE],
)
for format in ("PNG", "TIFF"):
    golden(
        "alpha, transparency",
        f"LA {format}",
        encode(flat("LA", (0, 0), (0, 255), (0, 51)), format),
        greys(255, 0, 204),
    )
golden(
    "alpha, transparency",
    "premultiplied LA TIFF",
    tiff((2, 1), [8] * 2, bytes([100, 128, 0, 0]), tags={338: [1]}),
    greys(227, 255),
    1,
)
golden(
    "alpha, transparency",
    "palette with alpha (PA TIFF)",
    encode(palette(0, 1).convert("PA"), "TIFF"),
    [RED, GREEN],
)
golden(
    "alpha, transparency",
    "PNG palette with one clear colour",
    encode(palette(0, 1), "PNG", transparency=0),
    [WHITE, GREEN],
)
golden(
    "alpha, transparency",
    "PNG palette with alpha for each colour",
    encode(palette(0, 1, 2), "PNG", transparency=bytes([51, 255, 0])),
    [(255, 204, 204), GREEN, WHITE],
)
golden("alpha, transparency", "GIF", encode(palette(0, 1), "GIF", transparency=0), [WHITE, GREEN])
golden(
    "alpha, transparency",
    "tRNS of RGB",
    png((2, 1), 8, 2, [bytes([9, 8, 7, 9, 8, 6])], (b"tRNS", u16(9, 8, 7, order=">"))),
    [WHITE, (9, 8, 6)],
)
golden(
    "alpha, transparency",
    "tRNS of 16-bit RGB",
    png((2, 1), 16, 2, [u16(0x0901, 8, 7, 0x0A01, 8, 7, order=">")], (b"tRNS", u16(0x0901, 8, 7, order=">"))),
    [WHITE, (10, 0, 0)],
)
golden(
    "alpha, transparency",
    "tRNS of 1 bit",
    png((2, 1), 1, 0, [b"\x40"], (b"tRNS", u16(0, order=">"))),
    greys(255, 255),
)
golden(
    "alpha, transparency",
    "tRNS of 2 bits",
    png((4, 1), 2, 0, [b"\x1b"], (b"tRNS", u16(1, order=">"))),
    greys(0, 255, 170, 255),
)
golden(
    "alpha, transparency",
    "tRNS of 4 bits",
    png((2, 1), 4, 0, [b"\x2a"], (b"tRNS", u16(2, order=">"))),
    greys(255, 170),
)
golden(
    "alpha, transparency",
    "tRNS of 8 bits",
    png((2, 1), 8, 0, [b"\x07\x08"], (b"tRNS", u16(7, order=">"))),
    greys(255, 8),
)
golden(
    "alpha, transparency",
    "tRNS of 16 bits",
    png((3, 1), 16, 0, [u16(1799, 1800, 0, order=">")], (b"tRNS", u16(1799, order=">"))),
    greys(255, 7, 0),
)

for format in ("PNG", "GIF", "BMP", "TIFF"):
    golden(
        "palette, 1-bit", f"palette {format}", encode(palette(0, 1, 2, 1), format), [RED, GREEN, BLUE, GREEN]
    )
for format in ("PNG", "BMP", "TIFF"):
    golden("palette, 1-bit", f"1-bit {format}", encode(flat("1", 0, 255, 255), format), greys(0, 255, 255))

FIRST = wide([RED])
golden("animation, pages", "GIF", frames("GIF"), FIRST)
golden("animation, pages", "APNG", frames("PNG"), FIRST)
golden("animation, pages", "WebP", frames("WEBP", lossless=True), FIRST)
golden("animation, pages", "TIFF", frames("TIFF"), FIRST)
golden("animation, pages", "MPO", frames("MPO", quality=95), FIRST, 3)
golden("animation, pages", "AVIF", lambda: frames("AVIF", quality=100), FIRST, 8, AVIF)

SCENE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
    profiled = encode(Image.fromarray(SCENE), format, icc_profile=wild_profile(), **options)
    golden("colour profiles", format, profiled, SCENE)
golden(
    "colour profiles",
    "JPEG",
    encode(Image.fromarray(SCENE), "JPEG", icc_profile=wild_profile()),
    np.asarray(Image.open(io.BytesIO(encode(Image.fromarray(SCENE), "JPEG")))),
)


def huge(format):
    """Twenty thousand pixels each way, and next to no bytes."""
    if format == "PNG":
        return png((20_000, 20_000), 8, 2, [b""])
    if format == "TIFF":
        return tiff((20_000, 20_000), [8], b"")
    if format == "GIF":
        return b"GIF89a" + u16(20_000, 20_000) + encode(palette(0, 1), "GIF")[10:]
    if format == "BMP":
        small = encode(blocks("RGB", RED), "BMP")
        return small[:18] + struct.pack("<ii", 20_000, 20_000) + small[26:]
    if format == "WEBP":
        size = (20_000 - 1).to_bytes(3, "little")
        return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + size + size
    small = encode(blocks("RGB", RED), "JPEG")
    place = small.index(b"\xff\xc0") + 5
    return small[:place] + struct.pack(">HH", 20_000, 20_000) + small[place + 4 :]


class TestRules:
    @pytest.mark.parametrize(("rule", "data", "expected", "tolerance"), GOLDEN)
    def test_golden_picture(self, rule, data, expected, tolerance):
        image = decode(data() if callable(data) else data)
        expected = np.asarray(expected, dtype=int)
        expected = expected[None] if expected.ndim == 2 else expected
        assert (image.mode, image.size) == ("RGB", expected.shape[1::-1])
        assert np.abs(np.asarray(image, dtype=int) - expected).max() <= tolerance

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"])
    def test_over_89_megapixels(self, format):
        assert recognise(huge(format)) == format
        with pytest.raises(ImageError, match=r"89,478,485"):
            decode(huge(format))

    def test_each_rule_of_the_docstring_has_pictures_and_the_other_way_round(self):
        table = decoding.__doc__.split("=\n")[2].splitlines()
        written = {line[:20].strip() for line in table if not line.startswith("=")}
        assert written == {case.values[0] for case in GOLDEN} | {"over 89 megapixels"}

    @pytest.mark.parametrize("rows", [1, 2, 3])
    def test_conversions_in_strips_are_those_of_the_whole(self, monkeypatch, rows):
        rng = np.random.default_rng(0)
        numbers = rng.normal(size=(7, 5)).astype(np.float32)
        sheer = Image.fromarray(rng.integers(0, 256, (7, 5, 4), np.uint8))
        short = Image.fromarray(rng.integers(0, 65_536, (7, 5), np.uint16))
        images = [sheer, sheer.convert("LA"), Image.fromarray(numbers), short]
        images.append(palette(*range(3)).resize((5, 7)))
        images[-1].info["transparency"] = 1
        whole = [decode(image).tobytes() for image in images]
        monkeypatch.setattr(decoding, "_STRIP_PIXELS", 5 * rows)
        assert [decode(image).tobytes() for image in images] == whole

    def test_images_of_the_caller_stay_as_they_are(self):
        grey = png((2, 1), 4, 0, [b"\x2a"], (b"tRNS", u16(2, order=">")))
        files = [tiff((2, 1), [12], packed_12_bits(0, 4095)), encode(palette(0, 1), transparency=0), grey]
        images = [Image.open(io.BytesIO(file)) for file in files]
        # Which grey is clear, only the bytes say right.
        seen = [[BLACK, WHITE], [WHITE, GREEN], greys(34, 170)]
        for image, expected in zip(images, seen, strict=True):
            for _ in range(2):
                decoded = decode(image)
                assert [decoded.getpixel((x, 0)) for x in range(2)] == expected
        assert [image.mode for image in images] == ["I;16", "P", "L"]
        assert images[1].info["transparency"] == 0

    def test_no_pixel_is_a_number(self):
        with pytest.raises(ImageError, match="no pixel is a finite number"):
            decode(encode(flat("F", np.nan, np.inf), "TIFF"))


class TestFormats:
    def test_what_is_read(self):
        assert set(FORMATS) - {"AVIF"} == {"JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"}
        assert ("AVIF" in FORMATS) == HAS_AVIF
        assert POLICY == "2"  # whatever this Pillow can read

    @pytest.mark.parametrize("format", FORMATS)
    def test_each_is_recognised_by_its_bytes(self, format):
        data = encode(Image.new("RGB", (5, 7), "teal"), format)
        assert recognise(data) == format
        assert decode(data).size == (5, 7)

    @pytest.mark.parametrize("format", ["EPS", "PPM", "ICO", "TGA", "PDF", "PCX"])
    def test_nothing_else_is(self, format):
        data = encode(Image.new("RGB", (8, 8)), format)
        with pytest.raises(ImageError, match=r"^not an image in a format that featx reads \(JPEG, PNG, "):
            decode(data)


class TestSizeAndMode:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (encode(Image.new("RGB", (5, 3)), "JPEG", exif=exif(6)), (3, 5, "RGB")),
            (encode(Image.new("L", (5, 3)), "JPEG"), (5, 3, "L")),
            (encode(Image.new("CMYK", (5, 3)), "JPEG"), (5, 3, "CMYK")),
            (encode(palette(0, 1), "PNG"), (2, 1, "P")),
            (encode(Image.new("RGB", (5, 3)), "TIFF", tiffinfo={274: 8}), (3, 5, "RGB")),
            (tiff((5, 1), [16], u16(*LEVELS)), (5, 1, "I;16")),
            (np.zeros((3, 5), np.float32), (5, 3, "L")),
            (Image.new("LA", (5, 3)), (5, 3, "LA")),
        ],
    )
    def test_are_those_of_the_upright_file(self, data, expected):
        decoded = decode_for(data, target())
        assert (decoded.width, decoded.height, decoded.mode) == expected
        assert decoded.image.size == expected[:2]

    @pytest.mark.parametrize("orientation", UPRIGHT)
    @pytest.mark.parametrize("size", [(569, 569), (575, 569), (569, 571), (571, 569), (573, 571)])
    def test_of_a_turned_photo_that_its_decoder_scaled(self, size, orientation):
        data = encode(Image.new("L", size), "JPEG", exif=exif(orientation))
        decoded = decode_for(data, target(), FAST_POLICY)
        assert decoded.box is not None
        assert (decoded.width, decoded.height) == (size if orientation < 5 else size[::-1])
        assert decoded.mode == "L"


def pixel(data):
    image = decode(data)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


class TestPilImages:
    def test_the_orientation_counts(self):
        data = encode(Image.new("RGB", (40, 20)), "JPEG", exif=exif(6))
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
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "the file is empty"),
            (b"nonsense", r"not an image in a format that featx reads \(JPEG"),
            (
                b"\xef\xbb\xbf\n <!DOCTYPE html><html>",
                "not an image but text that begins with '<', as a web page",
            ),
            (b"<?xml version='1.0'?>\n<SVG xmlns=''>", r"a drawing \(SVG\); convert it to PNG"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
                "Git LFS's pointer to one; run `git lfs pull`",
            ),
            (png((0, 5), 8, 2, [b""]), "no width, no height, or an unknown kind of pixels"),
            (tiff((1, 1), [8], b"\0", photometric=3), "broken image: its tag 320 is missing"),
            (tiff((1, 1), [64], bytes(8)), "pixels of this depth and kind cannot be read"),
            (
                with_chunk(encode(Image.new("L", (2, 2))), b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))),
                "absurdly long",
            ),
        ],
    )
    def test_reasons(self, data, reason):
        with pytest.raises(ImageError, match=reason):
            decode(data)

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "BMP"])
    def test_truncated(self, format):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        data = encode(noise, format)
        with pytest.raises(ImageError, match=r"broken image: the file is truncated"):
            decode(data[: len(data) // 2])

    def test_what_pillow_says_becomes_one_line(self, monkeypatch):
        def load(image):
            raise OSError("of\ntwo \0 lines")

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
        with pytest.raises(ImageError, match=r"^broken image: of two \\x00 lines$"):
            decode(encode(Image.new("L", (2, 2))))


def target(resize="squash", side=40):
    return Preprocess(resize, side, side, "bilinear", (0, 0, 0), (1, 1, 1))


def scenery(width, height, mode="RGB"):
    """Soft blotches: most of what there is survives scaling, and a shift of a pixel does not."""
    rng = np.random.default_rng([width, height])
    cells = rng.integers(0, 256, (-(-height // 48), -(-width // 48), 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def distance(data, preprocess):
    """Mean difference of the network's input between the two policies, in levels of 255."""
    fast, box, *_ = decode_for(data, preprocess, FAST_POLICY)
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
        image, found, *_ = decode_for(encode(scenery(*size), "JPEG"), target(), FAST_POLICY)
        assert (image.size, found) == (scaled, box)

    @pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
    @pytest.mark.parametrize("size", [(575, 569), (700, 561), (561, 913)])
    def test_the_network_sees_nearly_the_same(self, resize, size):
        assert distance(encode(scenery(*size), "JPEG", quality=95), target(resize)) < 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_turned_photos_do_so_too(self, orientation):
        data = encode(scenery(713, 569), "JPEG", exif=exif(orientation), quality=95)
        for resize in ("crop", "squash", "pad"):
            assert distance(data, target(resize)) < 1
        image, *_ = decode_for(data, target(), FAST_POLICY)
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
        image, box, *_ = decode_for(data, target(), FAST_POLICY)
        assert box is None
        assert image.tobytes() == decode(data).tobytes()

    def test_pixels_in_memory_are_left_as_they_are(self):
        picture = scenery(575, 569)
        assert decode_for(picture, target(), FAST_POLICY)[0].size == (575, 569)
        assert decode_for(np.asarray(picture), target(), FAST_POLICY)[0].size == (575, 569)

    def test_the_usual_policy_scales_nothing(self):
        data = encode(scenery(575, 569), "JPEG")
        image, box, *_ = decode_for(data, target(), POLICY)
        assert box is None
        assert image.tobytes() == decode(data).tobytes()

    def test_the_limit_is_on_the_size_of_the_file(self, monkeypatch):
        data = encode(scenery(575, 569), "JPEG")
        monkeypatch.setattr(decoding, "MAX_PIXELS", 575 * 569 - 1)
        with pytest.raises(ImageError, match="575×569 pixels are more than 327,174 allowed"):
            decode_for(data, target(), FAST_POLICY)

    def test_a_truncated_file_is_broken_at_every_scale(self):
        data = encode(scenery(575, 569), "JPEG")
        with pytest.raises(ImageError, match="broken image: the file is truncated"):
            decode_for(data[: len(data) // 2], target(), FAST_POLICY)

    @pytest.mark.parametrize("size", [(575, 569), (1001, 999), (520, 1907)])
    def test_the_difference_hash_hardly_changes(self, size):
        data = encode(scenery(*size), "JPEG")
        image, box, *_ = decode_for(data, target("squash", 4), FAST_POLICY)
        assert min(image.size) < min(size) / 3
        exact, fast = difference_hash(decode(data)), difference_hash(image, box)
        assert fast != 0
        assert (exact ^ fast).bit_count() <= 3

    def test_rules_of_another_version(self):
        with pytest.raises(
            UnknownNameError, match=r"decoding policy '1'. There is '2' or '2\+dct'. .*version"
        ):
            decode_for(b"", target(), "1")
