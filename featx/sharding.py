"""Which images are whose, where several processes or machines write one store.

A shard is a range of the hash of the name, so that an image stays in its shard when others come and
go, and the shards are of one size but for chance.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from featx.errors import FeatxError

__all__ = ["Shard", "local_rank", "parse_shard"]

RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
"""Environment variables that tell a process its number and how many there are.

Sources: torchrun's documentation, "Environment Variables"; ``man srun``, "OUTPUT ENVIRONMENT VARIABLES".
"""

LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
"""Environment variables that tell a process its number among those of its machine."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``number`` of ``count``, counted from 0.

    Raises
    ------
    FeatxError
        If there is no such shard.

    Examples
    --------
    >>> shard = Shard(0, 2)
    >>> [name for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg") if shard.holds(name)]
    ['a.jpg', 'b.jpg', 'd.jpg']
    >>> str(shard)
    '0/2'
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.number < self.count:
            last = f"{self.count - 1}/{self.count}" if self.count > 0 else "0/1"
            raise FeatxError(
                f"There is no shard {self.number}/{self.count}; shards count from 0, so the last is {last}"
            )

    def holds(self, name: str) -> bool:
        """Whether the image of this name belongs to the shard."""
        # Not by os.fsencode, which differs by platform and knows no text that is no file name.
        place = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        return (place * self.count) >> 64 == self.number

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Take number and count from what torchrun and Slurm tell each process.

        Raises
        ------
        FeatxError
            If they tell nothing.

        Examples
        --------
        >>> Shard.from_environment({"RANK": "3", "WORLD_SIZE": "4"})
        Shard(number=3, count=4)
        """
        for rank, size in RANKS:
            if rank in environment and size in environment:
                return cls(_whole(environment, rank), _whole(environment, size))
        raise FeatxError(
            "A shard of auto takes its number from torchrun (RANK, WORLD_SIZE) or Slurm (SLURM_PROCID, "
            "SLURM_NTASKS), and none of these is set; give it as I/N, such as 0/2"
        )


def parse_shard(text: str | tuple[int, int] | Shard | None) -> Shard | None:
    """Read ``I/N``, a pair (I, N), ``auto``, or None for no shard.

    Raises
    ------
    FeatxError
        If it is none of these, or there is no such shard.

    Examples
    --------
    >>> parse_shard("1/4")
    Shard(number=1, count=4)
    """
    if text is None or isinstance(text, Shard):
        return text
    if isinstance(text, tuple) and len(text) == 2 and all(type(number) is int for number in text):
        return Shard(*text)
    if text == "auto":
        return Shard.from_environment(os.environ)
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text) if isinstance(text, str) else None
    if match is None:
        raise FeatxError(f"A shard of {text!r} was given; expected I/N with I from 0 to N - 1, or auto")
    return Shard(int(match[1]), int(match[2]))


def _whole(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError as error:
        raise FeatxError(f"{name} is {environment[name]!r}, expected a whole number") from error


def local_rank(environment: Mapping[str, str]) -> int | None:
    """Give the number of this process among those of its machine, None where nobody counts them.

    Examples
    --------
    >>> local_rank({"LOCAL_RANK": "1"}), local_rank({})
    (1, None)
    """
    return next((_whole(environment, name) for name in LOCAL_RANKS if name in environment), None)
