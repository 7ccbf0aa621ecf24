"""Shards: ranges of the hash of the name, and where a process learns which one is its own."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.errors import FeatxError
from featx.sharding import Shard, local_rank, parse_shard

NAMES = st.lists(
    st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.binary().map(os.fsdecode)), unique=True
)


@given(NAMES, st.integers(1, 70))
def test_every_image_is_in_exactly_one_shard(names, count):
    shards = [Shard(number, count) for number in range(count)]
    for name in names:
        assert sum(shard.holds(name) for shard in shards) == 1


@given(NAMES, st.integers(1, 9), st.integers(2, 5))
def test_a_finer_split_divides_the_ranges(names, count, times):
    """A range of the hash, not a remainder: shard i of n is the shards i·k … i·k + k - 1 of n·k."""
    for name in names:
        coarse = next(number for number in range(count) if Shard(number, count).holds(name))
        fine = next(number for number in range(count * times) if Shard(number, count * times).holds(name))
        assert fine // times == coarse


def test_the_range_is_that_of_the_sha256_of_the_name():
    """Written down, since a store of yesterday counts on it."""
    for name in ("a.jpg", "ants/été.png", os.fsdecode(b"caf\xe9/\xff.jpg"), "\ud800", ""):
        share = int(hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16], 16) / 2**64
        assert [Shard(number, 5).holds(name) for number in range(5)] == [
            number <= 5 * share < number + 1 for number in range(5)
        ]


def test_shards_are_of_one_size_but_for_chance():
    names = [f"class/{number:06}.jpg" for number in range(4000)]
    sizes = [sum(Shard(number, 8).holds(name) for name in names) for number in range(8)]
    assert sum(sizes) == 4000
    assert max(sizes) - min(sizes) < 150  # 6.7 standard deviations of 500 ± 21


@pytest.mark.parametrize("pair", [(-1, 2), (2, 2), (0, 0), (0, -1), (5, 3)])
def test_shards_that_are_none(pair):
    with pytest.raises(FeatxError, match=f"no shard {pair[0]}/{pair[1]}; shards count from 0"):
        Shard(*pair)


@pytest.mark.parametrize(
    "text", ["", "1", "1/", "/2", "1/2/3", "a/b", "-1/2", "1 / 2", "0/2\n", "0x1/2", "AUTO"]
)
def test_text_that_is_no_shard(text):
    with pytest.raises(FeatxError, match="expected I/N"):
        parse_shard(text)


@pytest.mark.parametrize("shard", [[0, 2], 5, (0,), ("0", "2"), (0.5, 2), (0, 1, 2), (True, 2), b"0/2"])
def test_what_is_neither_text_nor_a_pair(shard):
    with pytest.raises(FeatxError, match="expected I/N"):
        parse_shard(shard)


@pytest.mark.parametrize("text", ["2/2", "1/0", "7/3"])
def test_text_that_is_a_shard_too_many(text):
    with pytest.raises(FeatxError, match=f"no shard {text}"):
        parse_shard(text)


def test_what_parse_shard_takes():
    assert parse_shard(None) is None
    assert parse_shard("0/1") == parse_shard((0, 1)) == parse_shard(Shard(0, 1)) == Shard(0, 1)
    assert parse_shard("007/010") == Shard(7, 10)
    assert str(parse_shard("3/4")) == "3/4"


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "shard", "local"),
    [
        (TORCHRUN, Shard(3, 8), 1),
        (SLURM, Shard(2, 4), 0),
        (SLURM | TORCHRUN, Shard(3, 8), 1),  # torchrun under srun: srun counts the launchers
        (SLURM | {"RANK": "3"}, Shard(2, 4), 0),
    ],
)
def test_auto_is_what_torchrun_or_slurm_say(monkeypatch, environment, shard, local):
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse_shard("auto") == shard
    assert local_rank(os.environ) == local


def test_auto_where_nobody_says_it(monkeypatch):
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FeatxError, match=r"torchrun .*Slurm .*I/N"):
        parse_shard("auto")
    assert local_rank(os.environ) is None


@pytest.mark.parametrize(
    ("environment", "match"),
    [
        ({"RANK": "three", "WORLD_SIZE": "8"}, "RANK is 'three'"),
        ({"RANK": "1", "WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"RANK": "8", "WORLD_SIZE": "8"}, "no shard 8/8"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "0"}, "no shard 0/0"),
    ],
)
def test_an_environment_that_makes_no_sense(environment, match):
    with pytest.raises(FeatxError, match=match):
        Shard.from_environment(environment)


def test_a_local_rank_that_makes_no_sense():
    with pytest.raises(FeatxError, match="SLURM_LOCALID is 'x'"):
        local_rank({"SLURM_LOCALID": "x"})
