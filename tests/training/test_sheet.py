import numpy as np
from PIL import Image
from training_models import noise

from featx.records import Preprocess
from featx.training.augmentation import Augmenter
from featx.training.sheet import SIDE, write_sheet


def test_shows_images_and_what_becomes_of_them(tmp_path):
    pixels = noise(30, side=112)
    record = Preprocess("squash", 112, 112, "bilinear", (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    write_sheet(tmp_path / "sheet.png", pixels, np.arange(10, 30), Augmenter("light", record))
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    step = SIDE + 2  # torchvision's frame
    assert sheet.shape == (8 * step + 2, 8 * step + 2, 3)
    first, changed = sheet[2 : 2 + SIDE, 2 : 2 + SIDE], sheet[2 : 2 + SIDE, 2 + step : 2 + step + SIDE]
    np.testing.assert_array_equal(first, pixels[10])
    assert not np.array_equal(changed, first)
    np.testing.assert_array_equal(sheet[2 + 7 * step : 2 + 7 * step + SIDE, 2 : 2 + SIDE], pixels[29])
