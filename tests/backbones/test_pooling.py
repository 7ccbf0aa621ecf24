import pytest
import torch

from featx.backbones.pooling import Axes, check_pooling, default_pooling, pool, pooled_size, possible_poolings
from featx.errors import BackboneError

GENERATOR = torch.Generator().manual_seed(0)
MAP = torch.randn(2, 5, 3, 4, generator=GENERATOR)
FIRST = Axes((5, 3, 4), 0)
LAST = Axes((3, 4, 5), 2)
TOKENS = Axes((7, 5), 1, class_token=True)


@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
def test_channels_last_gives_the_same(pooling):
    first = pool(MAP, FIRST, pooling)
    assert first.shape == (2, pooled_size(FIRST, pooling)) == (2, 5)
    torch.testing.assert_close(pool(MAP.permute(0, 2, 3, 1), LAST, pooling), first)


def test_each_pooling_is_what_it_says():
    torch.testing.assert_close(pool(MAP, FIRST, "avg"), MAP.mean((2, 3)))
    torch.testing.assert_close(pool(MAP, FIRST, "max"), MAP.flatten(2).max(2).values)
    gem = (MAP.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3)
    torch.testing.assert_close(pool(MAP, FIRST, "gem"), gem)
    assert torch.equal(pool(MAP, FIRST, "flatten"), MAP.flatten(1))
    assert pooled_size(FIRST, "flatten") == 60


def test_the_class_token_stays_out_of_the_average():
    tokens = torch.randn(2, 7, 5, generator=GENERATOR)
    assert torch.equal(pool(tokens, TOKENS, "cls"), tokens[:, 0])
    torch.testing.assert_close(pool(tokens, TOKENS, "avg"), tokens[:, 1:].mean(1))
    torch.testing.assert_close(pool(tokens, TOKENS, "max"), tokens[:, 1:].amax(1))
    assert default_pooling(TOKENS) == "cls"


def test_pooling_is_in_float32():
    half = MAP.to(torch.bfloat16)
    pooled = pool(half, FIRST, "avg")
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, half.float().mean((2, 3)))


def test_what_is_possible_follows_from_the_axes():
    assert possible_poolings(FIRST) == ("avg", "max", "gem", "flatten")
    assert possible_poolings(Axes((9,), None)) == ("flatten",)
    assert default_pooling(FIRST) == "avg"
    assert default_pooling(Axes((9,), None)) == "flatten"


def test_an_unknown_pooling_lists_them():
    with pytest.raises(BackboneError, match=r"Unknown pooling 'mean'. There is avg, max, gem, cls, flatten"):
        check_pooling("mean")
