import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from training_models import noise

from featx.errors import UnknownNameError
from featx.records import Preprocess
from featx.training import augmentation
from featx.training.augmentation import Augmenter, affine_maps

RECORD = Preprocess("squash", 64, 64, "bilinear", (0.2, 0.4, 0.6), (1.0, 1.0, 1.0))
KINDS = ["crop", "light", "strong"]


def images(n=3, same=False):
    pixels = np.repeat(noise(1), n, axis=0) if same else noise(n)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", KINDS)
class TestEach:
    def test_changes_each_image_by_itself(self, name):
        before = images(same=True)
        changed = Augmenter(name, RECORD)(before.clone(), epoch=0, rows=[0, 1, 2])
        assert changed.shape == before.shape
        assert changed.dtype == torch.uint8
        assert not any(one.equal(before[0]) for one in changed)
        assert not changed[0].equal(changed[1])
        assert not changed[1].equal(changed[2])

    def test_depends_on_seed_epoch_and_image_only(self, name):
        augment, given = Augmenter(name, RECORD, seed=3), images()
        changed = augment(given, epoch=4, rows=[7, 8, 9])
        torch.manual_seed(99)
        alone = augment(given[1:2], epoch=4, rows=[8])
        # One image fewer in a batch may be summed in another order.
        assert (alone[0].int() - changed[1].int()).abs().max() <= 1
        assert not augment(given, epoch=5, rows=[7, 8, 9])[1].equal(changed[1])
        assert not augment(given, epoch=4, rows=[7, 5, 9])[1].equal(changed[1])
        assert not Augmenter(name, RECORD, seed=4)(given, epoch=4, rows=[7, 8, 9])[1].equal(changed[1])

    def test_leaves_torchs_generator_and_the_images_alone(self, name):
        torch.manual_seed(11)
        expected = torch.rand(3)
        torch.manual_seed(11)
        given = images()
        before = given.clone()
        Augmenter(name, RECORD)(given, epoch=0, rows=[0, 1, 2])
        assert torch.rand(3).equal(expected)
        assert given.equal(before)


class TestGeometry:
    @pytest.mark.parametrize(
        ("angle", "shift", "zoom", "shear"),
        [
            (20.0, (0, 0), 1.0, 0.0),
            (0, (0.125, -0.0625), 1, 0),
            (0, (0, 0), 1.3, 0),
            (15, (0.05, 0.1), 0.8, 12),
        ],
    )
    def test_is_that_of_torchvision(self, angle, shift, zoom, shear):
        given = images(1)
        maps = affine_maps(np.array([angle]), np.array([shift]), np.array([zoom]), np.array([shear]))
        grid = torch.nn.functional.affine_grid(
            torch.from_numpy(maps[:, :2]).float(), [1, 3, 64, 64], align_corners=False
        )
        mine = torch.nn.functional.grid_sample(given.float(), grid, align_corners=False)
        theirs = v2.functional.affine(
            given,
            angle=angle,
            translate=[64 * part for part in shift],
            scale=zoom,
            shear=[shear, 0.0],
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        assert (mine - theirs.float()).abs().max() < 0.6  # theirs is rounded

    def test_the_grid_is_that_of_torch(self):
        maps = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0))
        expected = torch.nn.functional.affine_grid(maps, [3, 3, 10, 10], align_corners=False)
        torch.testing.assert_close(augmentation._grid(maps, 10), expected)

    def test_light_mirrors_half_of_the_images(self):
        ramp = torch.arange(64).mul(4).to(torch.uint8).expand(200, 3, 64, 64)
        changed = Augmenter("light", RECORD)(ramp, epoch=0, rows=list(range(200))).float()
        middle = changed[:, 0, 24:40]
        mirrored = (middle[..., 16:24].mean((1, 2)) > middle[..., 40:48].mean((1, 2))).float().mean()
        assert 0.4 < mirrored < 0.6

    def test_crop_keeps_the_share_of_the_area_that_torchvision_keeps(self):
        """The slope of a ramp tells how much of it a crop shows."""
        x = torch.arange(64).view(1, 64).expand(64, 64)
        planes = torch.stack([2 * x, 2 * x.T, x * 0]).to(torch.uint8).expand(600, 3, 64, 64)
        changed = Augmenter("crop", RECORD)(planes, epoch=0, rows=list(range(600))).float()
        width = (changed[:, 0, 32, 56] - changed[:, 0, 32, 8]).abs() / (2 * 48)
        height = (changed[:, 1, 56, 32] - changed[:, 1, 8, 32]).abs() / (2 * 48)
        area = (width * height).clamp(0, 1)
        assert 0.06 < area.min() < 0.15
        assert area.max() > 0.9
        assert 0.45 < area.mean() < 0.57  # uniform from 0.08 to 1, wide ones of large area left out
        assert 0.70 < (width / height).min() < 0.80
        assert 1.25 < (width / height).max() < 1.43

    def test_what_comes_in_has_the_mean_colour(self):
        grey = torch.full((20, 3, 64, 64), 90, dtype=torch.uint8)
        changed = Augmenter("light", RECORD)(grey, epoch=0, rows=list(range(20))).transpose(0, 1).flatten(1)
        # Nothing beyond the image's own colour and that of the record, channel by channel.
        assert changed.min(dim=1).values.tolist() == [51, 90, 90]
        assert changed.max(dim=1).values.tolist() == [90, 102, 153]


def test_none_gives_what_it_got():
    given = images()
    assert Augmenter("none", RECORD)(given, epoch=0, rows=[0, 1, 2]) is given


def test_strong_changes_the_brightness(monkeypatch):
    monkeypatch.setattr(augmentation, "_rand_augment", lambda images, seeds, fill: images)
    grey = torch.full((40, 3, 64, 64), 100, dtype=torch.uint8)
    record = Preprocess("squash", 64, 64, "bilinear", (100 / 255,) * 3, (1.0, 1.0, 1.0))
    means = Augmenter("strong", record)(grey, epoch=0, rows=list(range(40))).float().mean((1, 2, 3))
    assert 79 < means.min() < 90
    assert 110 < means.max() < 121
    still = Augmenter("light", record)(grey, epoch=0, rows=list(range(40)))
    assert (still == 100).all()


def test_an_unknown_name():
    with pytest.raises(UnknownNameError, match="'light'"):
        Augmenter("lihgt", RECORD)
