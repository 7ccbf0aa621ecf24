"""What becomes of every awkward file: a picture of the right size and colours, or a reason in plain words."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from imagefiles import chunk, encode, exif, png, png_chunks, tiff, with_chunk, with_segment
from PIL import Image, ImageCms

from featx.images.decoding import POLICY
from featx.images.loading import load
from featx.images.preparing import prepare_image
from featx.images.sources import list_images, open_source
from featx.records import Preprocess

SQUASH = Preprocess("squash", 32, 32, "bilinear", (0, 0, 0), (1, 1, 1))
TEAL, RUST = (20, 120, 130), (180, 70, 30)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"
NOISE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)


def flat(mode="RGB", colour=TEAL, size=(48, 32)):
    return Image.new("RGB", size, colour).convert(mode)


def two(format, **options):
    """A teal frame and a rusty one."""
    return encode(flat(), format, save_all=True, append_images=[flat(colour=RUST)], **options)


def big_profile():
    """A profile of half a megabyte, in as many segments as that takes."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encode(flat(), "JPEG", icc_profile=profile + bytes(500_000))


def rgb_tiff(**options):
    return tiff((48, 32), [8] * 3, flat().tobytes(), photometric=2, **options)


def unknown_tag_type():
    """A tag whose type is none of TIFF's."""
    data = bytearray(rgb_tiff(tags={305: [0]}))
    where = data.index(struct.pack("<HHL", 305, 3, 1))
    data[where + 2 : where + 4] = struct.pack("<H", 99)
    return bytes(data)


def cut_in_its_last_chunk():
    return encode(flat())[:-12] + chunk(b"tEXt", b"Comment\0" + bytes(50))[:30]


def text_bomb():
    return with_chunk(encode(flat()), b"zTXt", b"Comment\0\0" + zlib.compress(bytes(5_000_000)))


def gif_of(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + encode(flat("P"), "GIF")[10:]


def small_frame():
    """An animation whose frames have palettes of their own."""
    images = [flat().quantize(4), flat(colour=RUST).quantize(8)]
    return encode(images[0], "GIF", save_all=True, append_images=images[1:], disposal=2)


def broken_exif():
    return with_segment(encode(flat(), "JPEG"), 0xE1, b"Exif\0\0MM")


def clear_grey():
    """One pixel of a grey and one of that which is clear."""
    return png((2, 1), 16, 0, [bytes([90, 90, 5, 5])], (b"tRNS", bytes([5, 5])))


def deep_rgba():
    return png((1, 1), 16, 6, [bytes([20, 0, 120, 0, 130, 0, 255, 255])])


def partly_seen():
    """Half of it teal, half of it clear."""
    image = flat("RGBA")
    image.paste((0, 0, 0, 0), (24, 0, 48, 32))
    return encode(image)


# Name, what makes it, and what becomes of it: size, mean colour, mode; or words of the reason.
AWKWARD = [
    ("16_bit.tif", lambda: tiff((1, 1), [16], struct.pack("<H", 257 * 90)), ((1, 1), (90, 90, 90), "I;16")),
    ("lab.tif", lambda: encode(flat("LAB"), "TIFF"), ((48, 32), TEAL, "LAB")),
    ("bigtiff.tif", lambda: rgb_tiff(big=True), ((48, 32), TEAL, "RGB")),
    ("unknown_tag_type.tiff", unknown_tag_type, ((48, 32), TEAL, "RGB")),
    ("doubles.tif", lambda: tiff((1, 1), [64], bytes(8), tags={339: [3]}), "save it with 8 or 16 bits"),
    ("landscape_6.jpg", lambda: encode(flat(), "JPEG", exif=exif(6)), ((32, 48), TEAL, "RGB")),
    ("orientation_6.webp", lambda: encode(flat(), "WEBP", exif=exif(6)), ((32, 48), TEAL, "RGB")),
    ("broken_exif.jpg", broken_exif, ((48, 32), TEAL, "RGB")),
    ("grey.jpg", lambda: encode(flat("L"), "JPEG"), ((48, 32), (91, 91, 91), "L")),
    ("cmyk.jpg", lambda: encode(flat("CMYK"), "JPEG"), ((48, 32), TEAL, "CMYK")),
    ("big_profile.jpg", big_profile, ((48, 32), TEAL, "RGB")),
    ("a_jpeg.png", lambda: encode(flat(), "JPEG"), ((48, 32), TEAL, "RGB")),
    ("no_ending", lambda: encode(flat()), ((48, 32), TEAL, "RGB")),
    ("animated.png", lambda: two("PNG"), ((48, 32), TEAL, "RGB")),
    ("animated.webp", lambda: two("WEBP"), ((48, 32), TEAL, "RGB")),
    ("animated.gif", small_frame, ((48, 32), TEAL, "P")),
    ("pages.tif", lambda: two("TIFF"), ((48, 32), TEAL, "RGB")),
    ("several.mpo", lambda: two("MPO"), ((48, 32), TEAL, "RGB")),
    ("rgba.png", partly_seen, ((48, 32), (137, 187, 192), "RGBA")),
    ("clear_16_bit_grey.png", clear_grey, ((2, 1), (172, 172, 172), "I;16")),
    ("16_bit_rgba.png", deep_rgba, ((1, 1), TEAL, "RGBA")),
    ("broken.png", lambda: b"\x89PNG\r\n\x1a\n" + NOISE.tobytes()[:70], "broken image: broken PNG file"),
    ("text_bomb.png", text_bomb, "a text or profile in it is absurdly long"),
    ("cut_in_its_last_chunk.png", cut_in_its_last_chunk, "the file is truncated"),
    ("truncated.png", lambda: encode(Image.fromarray(NOISE))[:9000], "the file is truncated"),
    ("truncated.jpg", lambda: encode(Image.fromarray(NOISE), "JPEG")[:3000], "the file is truncated"),
    ("no_end_marker.jpg", lambda: encode(flat(), "JPEG")[:-2], "the file is truncated"),
    ("truncated.gif", lambda: encode(Image.fromarray(NOISE), "GIF")[:3000], "the file is truncated"),
    ("truncated.tif", lambda: encode(Image.fromarray(NOISE), "TIFF")[:3000], "the file is truncated"),
    ("truncated.webp", lambda: encode(Image.fromarray(NOISE), "WEBP")[:3000], "broken image"),
    ("decompression_bomb.gif", lambda: gif_of(65_535, 65_535), "65535×65535 pixels are more"),
    ("decompression_bomb.png", lambda: png((60_000, 60_000), 1, 0, [b""]), "60000×60000 pixels are more"),
    ("zero_width.gif", lambda: gif_of(0, 0)[:13] + b"\x3b", "broken image"),
    ("zero_width.png", lambda: png((0, 9), 8, 0, [b""]), "no width, no height"),
    ("empty.jpg", lambda: b"", "the file is empty"),
    ("jpeg2000.jp2", lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(9), "not an image in a format"),
    ("postscript.eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image in a format"),
    ("web_page.jpg", lambda: b"<!DOCTYPE html>\n<title>404</title>", "as a web page does; download it again"),
    ("drawing.svg", lambda: b"<?xml version='1.0'?>\n<svg></svg>", "a drawing (SVG); convert it to PNG"),
    ("pointer.jpg", lambda: POINTER, "run `git lfs pull`"),
    ("notes", lambda: b"BM is how some texts begin, and this is one of them.", "broken image"),
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What the loader says of a folder of all of them."""
    folder = tmp_path_factory.mktemp("awkward")
    for name, make, _ in AWKWARD:
        (folder / name).write_bytes(make())
    source = open_source(folder)
    records = list_images(source)
    return {records[item.index].name: item for item in load(source, records, SQUASH, workers=2)}


@pytest.mark.parametrize(
    ("name", "expected"), [case[::2] for case in AWKWARD], ids=[case[0] for case in AWKWARD]
)
def test_outcome(outcomes, name, expected):
    item = outcomes[name]
    if isinstance(expected, str):
        assert expected in item.reason
        assert item.reason.isprintable()
        assert item.pixels is None
    else:
        size, mean, mode = expected
        assert item.reason == ""
        assert (item.prepared.width, item.prepared.height, item.prepared.mode) == (*size, mode)
        np.testing.assert_allclose(item.pixels.reshape(-1, 3).mean(0), mean, atol=4)


def test_png_of_any_mode_is_the_same_as_plain_rgb():
    picture = Image.fromarray(NOISE)
    grey = picture.convert("L")
    pairs = [
        (encode(picture.convert("RGBA")), picture),
        (encode(grey), grey.convert("RGB")),
        (encode(grey.convert("LA")), grey.convert("RGB")),
        (encode(picture.quantize(16)), picture.quantize(16).convert("RGB")),
    ]
    jpeg = encode(picture, "JPEG")
    pairs.append((jpeg, Image.open(io.BytesIO(jpeg)).convert("RGB")))
    for data, plain in pairs:
        found, expected = (prepare_image(item, SQUASH, POLICY) for item in (data, encode(plain)))
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert found.phash == expected.phash


def test_the_bombs_are_bombs():
    assert len(text_bomb()) < 100_000
    (_, body) = next(item for item in png_chunks(text_bomb()) if item[0] == b"zTXt")
    assert len(zlib.decompress(body[9:])) == 5_000_000


EXTRACT = """
import json, resource, sys
import featx
store = featx.extract(sys.argv[1], sys.argv[2], backbone="pixels", device="cpu", workers=2, max_skip=1.0)
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
skipped = {item.name: item.reason for item in store.skipped}
print(json.dumps({"names": list(store.names), "skipped": skipped, "peak": peak}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FEATX_AWKWARD"), reason="FEATX_AWKWARD names no folder")
def test_a_folder_of_ones_own(tmp_path):
    folder = os.environ["FEATX_AWKWARD"]
    command = [sys.executable, "-c", EXTRACT, folder, str(tmp_path / "store.h5")]
    home = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": home}
    )
    found = json.loads(done.stdout)
    names = [record.name for record in list_images(open_source(folder))]
    for name in names:
        print(f"{name:40} {found['skipped'].get(name, 'a row')}")  # noqa: T201 - seen with -s
    print(f"{found['peak'] / 1024:.0f} MiB at most")  # noqa: T201
    assert sorted([*found["names"], *found["skipped"]]) == sorted(names)
    assert found["peak"] * 1024 < 1e9
