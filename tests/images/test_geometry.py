import dataclasses

import numpy as np
import pytest
from PIL import Image

from featx.images.geometry import prepare
from featx.records import Preprocess

IMAGENET = Preprocess("crop", 256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def noise(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (256, 256), (257, 1000), (30, 20), (333, 256), (1, 7)]
)
@pytest.mark.parametrize(
    ("resize_size", "image_size", "interpolation"),
    [
        (256, 224, "bilinear"),
        (232, 224, "bilinear"),
        (342, 299, "bicubic"),
        (33, 32, "nearest"),
        (20, 31, "bilinear"),
    ],
)
def test_crop_is_torchvisions_own_transform_bit_for_bit(size, resize_size, image_size, interpolation):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    image = noise(*size)
    record = Preprocess("crop", resize_size, image_size, interpolation, (0, 0, 0), (1, 1, 1))
    expected = F.resize(image, resize_size, interpolation=InterpolationMode(interpolation))
    expected = F.center_crop(expected, image_size)
    np.testing.assert_array_equal(prepare(image, record), np.asarray(expected))


def test_squash_keeps_all_of_the_picture():
    image = Image.new("RGB", (100, 50), "black")
    image.paste("white", (50, 0, 100, 50))
    pixels = prepare(image, dataclasses.replace(IMAGENET, resize="squash", image_size=32))
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:, :14] == 0).all()
    assert (pixels[:, 18:] == 255).all()


def test_pad_keeps_the_aspect_and_fills_with_the_mean_colour():
    pixels = prepare(
        Image.new("RGB", (100, 50), "black"), dataclasses.replace(IMAGENET, resize="pad", image_size=32)
    )
    assert pixels.shape == (32, 32, 3)
    assert (pixels[8:24] == 0).all()
    assert (pixels[:8] == [124, 116, 104]).all()
    assert (pixels[24:] == [124, 116, 104]).all()
