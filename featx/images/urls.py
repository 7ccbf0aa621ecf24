"""URLs: the file system that fsspec has for one, and texts that give no secret away.

Where a file system lies and who may read it is said as fsspec and the clouds' own programs have it,
never in featx: for S3 the usual ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE`` and so on; ``AWS_ENDPOINT_URL``
(or ``FSSPEC_S3_ENDPOINT_URL``) for a server that is not Amazon's; ``FSSPEC_S3_ANON=true`` for a public
bucket; or a file in ``~/.config/fsspec``.

Source: fsspec, "Features: configuration", https://filesystem-spec.readthedocs.io.
"""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

import fsspec
from fsspec.core import url_to_fs

from featx.errors import FeatxError, SourceError
from featx.images.members import one_line
from featx.records import escape_name

__all__ = ["file_system", "is_web", "protocol_of", "public_url", "shown_url", "told"]

_PACKAGES = {"s3": "featx[s3]", "s3a": "featx[s3]", "http": "aiohttp", "https": "aiohttp"}
_SECRETS = re.compile("sig|token|key|secret|passw|credential|auth|policy|expire", re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def protocol_of(url: str) -> str:
    """Give what stands before ``://``, in lower case."""
    return url.partition("://")[0].lower()


def is_web(url: str) -> bool:
    """Whether a URL is one of HTTP, where a server says little of folders."""
    return protocol_of(url) in ("http", "https")


def public_url(url: str) -> str:
    """Give a URL as it may be shown and stored, without what opens doors.

    A password goes with the user's name (over HTTP the name alone too), and over HTTP the fragment and
    the whole query, if any of its names looks like that of a signature, a token or a key.

    Examples
    --------
    >>> public_url("https://me:secret@host/photos.zip?X-Amz-Signature=1a2b")
    'https://host/photos.zip'
    >>> public_url("https://host/get?id=7")
    'https://host/get?id=7'
    """
    scheme, _, rest = url.partition("://")
    query = ""
    if is_web(url):
        rest, _, query = rest.partition("#")[0].partition("?")
        if any(_SECRETS.search(name) for name, _ in parse_qsl(query, keep_blank_values=True)):
            query = ""
    host, slash, path = rest.partition("/")
    user, _, machine = host.rpartition("@")
    if is_web(url) or ":" in user:
        host = machine
    return f"{scheme}://{host}{slash}{path}{'?' if query else ''}{query}"


def shown_url(url: str) -> str:
    """Give a URL as it stands in a message: public, and on one line."""
    return escape_name(public_url(url))


def file_system(url: str) -> tuple[Any, str]:
    """Find the file system of a URL and the path in it.

    A file system that is asynchronous is the same for all threads, which is what it is made for; of the
    others fsspec gives each thread its own.

    Raises
    ------
    SourceError
        If the protocol is unknown or needs a package that is not installed, or if it is a chain of URLs.
    """
    protocol = protocol_of(url)
    if "::" in url:
        raise SourceError(
            f"{shown_url(url)} is a chain of URLs, which featx does not read; give one URL, of a folder, an "
            "archive, a manifest or an image"
        )
    if protocol not in fsspec.available_protocols():
        raise SourceError(
            f"{shown_url(url)} has the protocol {protocol!r}, which fsspec does not know; expected s3, gs, "
            "az, https, hf or another of fsspec.available_protocols()"
        )
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        todo = f"pip install '{package}'" if package else one_line(error)
        raise SourceError(f"{shown_url(url)} needs a package that is not installed: {todo}") from error
    except Exception as error:
        raise SourceError(f"{shown_url(url)} cannot be opened: {_why(error)}") from error
    return fs, path


@contextmanager
def told(failure: type[FeatxError], what: str = "") -> Iterator[None]:
    """Turn whatever a file system raises, each its own, into one line that begins with ``what``."""
    try:
        yield
    except FeatxError:
        raise
    except Exception as error:
        raise failure(f"{what} cannot be read: {_why(error)}".lstrip()) from error


def _why(error: BaseException) -> str:
    """Say in one line, without secrets, what went wrong."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and type(cause).__module__.startswith("aiohttp"):
        error = cause or error  # over HTTP fsspec calls everything a file that is not there
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status == 404:
        return "it does not exist"
    if isinstance(status, int):
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no room in {tempfile.gettempdir()}; set TMPDIR to a folder on a larger disk"
    return _URL.sub(lambda match: public_url(match[0]), one_line(error))
