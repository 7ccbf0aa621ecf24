import numpy as np
import pytest
from PIL import Image, ImageOps

from featx.images.scaling import MARGIN, SMALLEST_SIDE, choose_scale, turn_box
from featx.records import Preprocess


def preprocess(resize, resize_size=256, image_size=224):
    return Preprocess(resize, resize_size, image_size, "bilinear", (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("resize", "size", "scale"),
    [
        ("crop", (6000, 4000), 8),
        ("crop", (3000, 2000), 4),
        ("crop", (20000, 900), 2),  # the shorter side is resized
        ("crop", (500, 375), 1),
        ("squash", (3136, 9000), 8),
        ("squash", (3135, 9000), 4),
        ("pad", (3136, 512), 8),  # the longer one
        ("pad", (3135, 512), 4),
        ("pad", (100_000, 127), 1),
    ],
)
def test_the_scale_follows_from_the_side_that_counts(resize, size, scale):
    assert choose_scale(*size, preprocess(resize)) == scale
    assert choose_scale(*reversed(size), preprocess(resize)) == scale


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("target", [8, 40, 224])
def test_enough_is_left_of_every_size_and_no_more_than_twice_that(resize, target):
    record = preprocess(resize, target, target)
    rng = np.random.default_rng(target)
    for width, height in rng.integers(1, 5000, (500, 2)):
        scale = choose_scale(width, height, record)
        side = (max if resize == "pad" else min)(width, height)
        fits = side / scale >= MARGIN * target and min(width, height) / scale >= SMALLEST_SIDE
        assert fits or scale == 1
        if scale < 8:
            next_side, next_shorter = side / (2 * scale), min(width, height) / (2 * scale)
            assert next_side < MARGIN * target or next_shorter < SMALLEST_SIDE


@pytest.mark.parametrize("orientation", [None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, "6"])
def test_a_box_is_turned_as_the_image_is(orientation):
    image = Image.new("L", (30, 20), "black")
    image.paste("white", (0, 0, 27, 18))
    if orientation is not None:
        image.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(image)
    assert turn_box((0, 0, 27, 18), (30, 20), orientation) == upright.getbbox()


def test_fractions_of_a_pixel_stay():
    assert turn_box((0, 0, 29.25, 19.5), (30, 20), 3) == (0.75, 0.5, 30, 20)
