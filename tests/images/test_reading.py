import os

import pytest

from featx.errors import ImageError
from featx.images import reading
from featx.images.reading import read_file


def test_a_file_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert read_file(tmp_path / "a.jpg") == b"abc"
    assert read_file(str(tmp_path / "a.jpg")) == b"abc"


def test_more_than_is_allowed_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_IMAGE_BYTES", 3)
    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert read_file(tmp_path / "a.jpg") == b"abc"
    (tmp_path / "a.jpg").write_bytes(b"abcd")
    with pytest.raises(ImageError, match=r"^4 bytes: an image may have 3 at most$"):
        read_file(tmp_path / "a.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", os.devnull):
        with pytest.raises(ImageError, match=r"^is no file$"):
            read_file(path)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "missing")
