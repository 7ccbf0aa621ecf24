from __future__ import annotations

import hashlib
import io

import pytest

from featx.errors import DamagedStoreError, NotAStoreError
from featx.store.userblock import REMEDY, SIZE, Header, check_bytes, pack_header, read_header

REST = bytes(range(256)) * 40


@pytest.fixture
def signed(path):
    def write(version=1, rest=REST, **changes):
        header = Header(version, len(rest), hashlib.sha256(rest).digest())
        path.write_bytes(pack_header(header) + rest)
        return header

    return write


def test_a_header_is_read_back(signed, path):
    header = signed()
    with io.FileIO(path) as file:
        assert read_header(file, path) == header
        check_bytes(file, path)


def test_the_layout_is_the_documented_one(signed, path):
    signed()
    data = path.read_bytes()
    assert data[:8] == b"featx\r\n\x1a"
    assert int.from_bytes(data[8:12], "little") == 1
    assert int.from_bytes(data[12:16], "little") == SIZE
    assert int.from_bytes(data[16:24], "little") == len(REST)
    assert data[24:56] == hashlib.sha256(REST).digest()


def test_a_transfer_in_text_mode_is_noticed(signed, path):
    signed()
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    with io.FileIO(path) as file, pytest.raises(NotAStoreError):
        read_header(file, path)


@pytest.mark.parametrize("place", [9, 13, 20, 30, 60, 511, 512, 600, SIZE + len(REST) - 1])
def test_a_flipped_bit_anywhere_is_found(signed, path, place):
    signed()
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    with io.FileIO(path) as file, pytest.raises(DamagedStoreError, match=path.name):
        check_bytes(file, path)


@pytest.mark.parametrize("place", [9, 13, 20, 60, 600, None])
def test_what_to_do_is_what_the_caller_says(signed, path, place):
    signed()
    data = bytearray(path.read_bytes())
    if place is None:
        data = data[:200]
    else:
        data[place] ^= 4
    path.write_bytes(data)
    newer = place == 9
    with io.FileIO(path) as file:
        for options, remedy in (({}, REMEDY), ({"remedy": "burn it"}, "burn it")):
            with pytest.raises(DamagedStoreError) as caught:
                check_bytes(file, path, **options)
            assert str(caught.value).endswith("; update featx" if newer else f"; {remedy}")


@pytest.mark.parametrize(("version", "match"), [(0, "user block is not as written"), (2, "newer than 1")])
def test_other_versions_are_refused(signed, path, version, match):
    signed(version)
    with io.FileIO(path) as file, pytest.raises(DamagedStoreError, match=match):
        read_header(file, path)
