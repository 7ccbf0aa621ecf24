"""Image files made byte by byte: what Pillow does not write, and what nobody should."""

import io
import struct
import zlib

from PIL import Image, features

HAS_AVIF = "avif" in features.modules and features.check_module("avif")


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.copy().save(buffer, format, **options)  # a TIFF leaves its settings in the image
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def tiff(size, bits, data, *, photometric=1, order="<", big=False, tags=()):
    """One strip, not compressed; ``tags`` maps numbers to lists of shorts; ``photometric`` None for none."""
    width, height = size
    head, inline = (16, 8) if big else (8, 4)
    blob = data + bytes(len(data) % 2)
    entries = {
        256: ("L", [width]),
        257: ("L", [height]),
        258: ("H", bits),
        259: ("H", [1]),
        273: ("L", [head]),
        277: ("H", [len(bits)]),
        278: ("L", [height]),
        279: ("L", [len(data)]),
        **{tag: ("H", values) for tag, values in dict(tags).items()},
    }
    if photometric is not None:
        entries[262] = ("H", [photometric])
    table = b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(packed) > inline:
            place = struct.pack(order + ("Q" if big else "L"), head + len(blob))
            blob += packed + bytes(len(packed) % 2)
        else:
            place = packed.ljust(inline, b"\0")
        code = {"H": 3, "L": 4}[kind]
        table += struct.pack(order + ("HHQ" if big else "HHL"), tag, code, len(values)) + place
    start = b"II" if order == "<" else b"MM"
    start += struct.pack(order + "H", 43 if big else 42)
    where = head + len(blob)
    start += struct.pack(order + "HHQ", 8, 0, where) if big else struct.pack(order + "L", where)
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    return start + blob + count + table + bytes(inline)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size, depth, colour, rows, *chunks):
    """Of ``depth`` bits and colour type ``colour``; ``rows`` is the bytes of each row."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def png_chunks(data):
    """Kind and body of each chunk."""
    place, found = 8, []
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def with_chunk(data, kind, body):
    """Put a chunk behind the header of a PNG."""
    return data[:33] + chunk(kind, body) + data[33:]


def with_segment(data, marker, body):
    """Put a segment at the beginning of a JPEG."""
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def without_segment(data, marker):
    """Take a segment from the head of a JPEG."""
    place = 2
    while data[place + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, place + 2)
        if data[place + 1] == marker:
            return data[:place] + data[place + 2 + length :]
        place += 2 + length
    raise ValueError(f"no segment {marker:#x}")
