"""A set of digests in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Set

from featx.store.schema import DIGEST_SIZE

__all__ = ["DigestSet"]


class DigestSet(Set[bytes]):
    """SHA-256 digests, about 45 bytes each, where a set of bytes takes more than a hundred.

    A table with open addressing: a digest is random by itself, so that its first bytes are its hash.

    Parameters
    ----------
    digests : iterable of bytes, 32 each

    Examples
    --------
    >>> found = DigestSet([bytes(32)])
    >>> found.add(bytes(32)), found.add(b"x" * 32), len(found), b"x" * 32 in found
    (False, True, 2, True)
    """

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        self._keys = bytearray()
        self._make_table(1 << 10)
        for digest in digests:
            self.add(digest)

    def add(self, digest: bytes) -> bool:
        """Add a digest; False if it was there."""
        slot = self._find(digest)
        if self._table[slot] >= 0:
            return False
        self._table[slot] = len(self)
        self._keys += digest
        if 2 * len(self) > len(self._table):
            self._make_table(2 * len(self._table))
        return True

    def __contains__(self, digest: object) -> bool:
        return (
            isinstance(digest, bytes) and len(digest) == DIGEST_SIZE and self._table[self._find(digest)] >= 0
        )

    def __len__(self) -> int:
        return len(self._keys) // DIGEST_SIZE

    def __iter__(self) -> Iterator[bytes]:
        return (self._key(place) for place in range(len(self)))

    def _key(self, place: int) -> bytes:
        return bytes(self._keys[place * DIGEST_SIZE : (place + 1) * DIGEST_SIZE])

    def _find(self, digest: bytes) -> int:
        """Give the slot of a digest, or the free one where it would be."""
        mask = len(self._table) - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while (place := self._table[slot]) >= 0 and self._key(place) != digest:
            slot = (slot + 1) & mask
        return slot

    def _make_table(self, size: int) -> None:
        self._table = array("i", [-1]) * size
        for place in range(len(self)):
            self._table[self._find(self._key(place))] = place
