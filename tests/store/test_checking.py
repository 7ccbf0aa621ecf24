"""Files with our user block whose HDF5 was made by somebody else."""

from __future__ import annotations

import hashlib
import os
import re
import struct

import h5py
import numpy as np
import pytest

from featx.errors import DamagedStoreError
from featx.records import LayerInfo
from featx.store.reader import FeatureStore
from featx.store.userblock import SIZE, Header, pack_header


@pytest.fixture
def signed(path):
    """Write bytes with the user block that belongs to them."""

    def sign(data):
        rest = bytes(data[SIZE:])
        path.write_bytes(pack_header(Header(1, len(rest), hashlib.sha256(rest).digest())) + rest)

    return sign


@pytest.fixture
def tampered(kit, path, signed):
    """Change a store with h5py, sign it again, and expect it to be refused."""
    kit.store(path)

    def refused(change, match):
        with h5py.File(path, "r+") as h5:
            change(h5)
        signed(path.read_bytes())
        with pytest.raises(DamagedStoreError, match=match) as caught:
            FeatureStore(path)
        assert str(path) in str(caught.value)

    return refused


def replace(name, make):
    def change(h5):
        del h5[name]
        make(h5, name)

    return change


def test_an_unchanged_store_that_is_signed_again_opens(kit, path, tampered):
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        tampered(lambda h5: None, "refused")


@pytest.mark.parametrize("name", ["features/layer4.1:avg", "images/name", "images", "skipped/reason"])
def test_links_are_refused(tampered, name):
    tampered(
        replace(name, lambda h5, n: h5.__setitem__(n, h5py.ExternalLink("/etc/passwd", "/x"))),
        "external link",
    )


def test_soft_links_are_refused(tampered):
    tampered(
        replace("images/label", lambda h5, n: h5.__setitem__(n, h5py.SoftLink("/images/split"))), "soft link"
    )


def test_virtual_datasets_are_refused(tampered):
    def make(h5, name):
        layout = h5py.VirtualLayout((10, 5), "<f2")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (10, 5))
        h5.create_virtual_dataset(name, layout)

    tampered(replace("features/layer4.1:avg", make), "virtual dataset")


def test_external_storage_is_refused(tampered):
    def make(h5, name):
        h5.create_dataset(name, (10, 5), "<f2", external=[("/etc/passwd", 0, 100)])

    tampered(replace("features/layer4.1:avg", make), "external storage")


def test_rows_that_were_never_written_are_refused(tampered):
    # HDF5 would read them as zeros.
    tampered(
        replace("features/layer4.1:avg", lambda h5, n: h5.create_dataset(n, (10, 5), "<f2")),
        "not in the file",
    )


def test_columns_of_different_lengths_are_refused(tampered):
    tampered(
        replace("images/size", lambda h5, n: h5.create_dataset(n, data=np.zeros(9, "<i8"))), r"\[9, 10\] rows"
    )


def test_layers_of_another_length_are_refused(tampered):
    def make(h5, name):
        h5.create_dataset(name, data=np.zeros((9, 5), "<f2"))

    tampered(replace("features/layer4.1:avg", make), "9 rows, expected 10")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h5: h5.__delitem__("skipped"), r"lacks \['skipped'\]"),
        (lambda h5: h5.create_group("more"), r"has \['more'\]"),
        (lambda h5: h5.__delitem__("images/digest"), r"lacks \['digest'\]"),
        (lambda h5: h5.attrs.__delitem__("space"), "'space' is missing"),
        (lambda h5: h5.attrs.__setitem__("seconds", "soon"), "'seconds' is missing or of another type"),
        (lambda h5: h5.attrs.__setitem__("more", np.zeros((3, 3))), "attribute 'more'"),
        (lambda h5: h5.attrs.__setitem__("space", "{}"), "its space is not of this format"),
        (lambda h5: h5.attrs.__setitem__("space", "["), "HDF5 cannot read it|damaged"),
        (lambda h5: h5.attrs.__setitem__("space_key", "00"), "space_key is not that of its space"),
        (lambda h5: h5["features/layer4.1:avg"].attrs.__setitem__("dim", 4), "attributes node"),
        (lambda h5: h5["features/layer4.1:avg"].attrs.__setitem__("pool", "mean"), "attributes node"),
    ],
)
def test_another_structure_is_refused(tampered, change, match):
    tampered(change, match)


def test_a_hard_link_cycle_is_refused(tampered):
    tampered(lambda h5: h5["images"].__setitem__("loop", h5["images"]), r"has \['loop'\]")


def test_a_group_in_place_of_a_dataset_is_refused(tampered):
    tampered(replace("images/name", lambda h5, n: h5.create_group(n)), "no dataset")
    tampered(lambda h5: None, "no dataset")


LAYER = "features/layer4.1:avg"
LABEL = "images/label"


def dataset(shape=(10, 5), dtype="<f2", **options):
    return lambda h5, name: h5.create_dataset(name, data=np.zeros(shape, dtype), **options)


def raw_dataset(kind, shape=(10, 5)):
    """A dataset of a type that h5py has no dtype for."""

    def make(h5, name):
        space = h5py.h5s.create_simple(shape)
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        group, _, leaf = name.rpartition("/")
        h5py.h5d.create(h5[group].id, leaf.encode(), kind, space, properties)

    return make


def tagged_opaque():
    # h5py takes an opaque type with this tag for float16.
    kind = h5py.h5t.create(h5py.h5t.OPAQUE, 2)
    kind.set_tag(b"NUMPY:<f2")
    return kind


def odd_float():
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_ebias(8)
    return kind


def named_type(h5, name):
    h5["type"] = np.dtype("<f2")
    h5.create_dataset(name, (10, 5), h5["type"], data=np.zeros((10, 5)))
    del h5["type"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"compression": "gzip"}, r"filters \(gzip\)"),
        ({"shuffle": True}, r"filters \(shuffle\)"),
        ({"fletcher32": True}, r"filters \(fletcher32\)"),
        ({"scaleoffset": 3, "dtype": "<f4"}, r"filters \(scale-offset\)"),
        ({"chunks": (2, 5)}, "not stored in one piece"),
        ({"maxshape": (None, 5)}, "not stored in one piece"),
    ],
)
def test_filters_and_chunks_are_refused(tampered, options, match):
    tampered(replace(LAYER, dataset(**options)), rf"/{LAYER} .*{match}")


def test_compact_datasets_are_refused(tampered):
    def make(h5, name):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((10, 5))
        h5py.h5d.create(h5["features"].id, b"layer4.1:avg", h5py.h5t.IEEE_F16LE, space, properties)

    tampered(replace(LAYER, make), f"/{LAYER} is not stored in one piece")


def test_virtual_datasets_without_end_do_not_open_their_sources(tampered, tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    os.mkfifo(tmp_path / "source-0")  # opening it would wait for ever

    def make(h5, name):
        layout = h5py.VirtualLayout((10, 5), "<f2", maxshape=(None, 5))
        source = h5py.VirtualSource(str(tmp_path / "source-%b"), "x", (1, 5))
        layout[: h5py.h5s.UNLIMITED, :] = source
        h5.create_virtual_dataset(name, layout)

    tampered(replace(LAYER, make), f"/{LAYER} is a virtual dataset")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (dataset(dtype="<f8"), "float64"),
        (dataset(dtype="<f4"), "float32, expected float16"),
        (dataset(dtype="<i2"), "int16"),
        (dataset(dtype=">f2"), ">f2"),
        (dataset(dtype="?"), "enum"),
        (dataset(dtype="<c8"), "compound"),
        (dataset(dtype="S4"), "text of 4 bytes"),
        (dataset(dtype=[("a", "<f2")]), "compound"),
        (dataset(dtype=h5py.enum_dtype({"a": 1}, "<i2")), "enum"),
        (dataset(dtype=h5py.opaque_dtype("<M8[s]")), "opaque"),
        (raw_dataset(tagged_opaque()), "opaque"),
        (raw_dataset(odd_float()), "float"),
        (raw_dataset(h5py.h5t.NATIVE_B16), "bitfield"),
        (raw_dataset(h5py.h5t.UNIX_D32LE), "time"),
        (raw_dataset(h5py.h5t.STD_REF_OBJ), "reference"),
        (raw_dataset(h5py.h5t.STD_REF_DSETREG), "reference"),
        (raw_dataset(h5py.h5t.vlen_create(h5py.h5t.STD_I32LE)), "variable-length list"),
        (raw_dataset(h5py.h5t.array_create(h5py.h5t.IEEE_F16LE, (2,))), "array"),
        (named_type, "that has a name of its own"),
    ],
)
def test_other_types_are_refused(tampered, make, match):
    tampered(replace(LAYER, make), f"/{LAYER} is of type .*{match}")


@pytest.mark.parametrize(
    "make",
    [
        dataset(10, "S9"),
        dataset(10, "<i8"),
        raw_dataset(h5py.h5t.STD_REF_OBJ, (10,)),
        raw_dataset(h5py.h5t.vlen_create(h5py.h5t.STD_U8LE), (10,)),
    ],
)
def test_columns_of_text_must_be_text(tampered, make):
    tampered(replace(LABEL, make), f"/{LABEL} is of type .*, expected text")


def test_an_enum_is_no_digest(tampered):
    kind = h5py.enum_dtype({"a": 1}, "u1")
    tampered(replace("images/digest", dataset((10, 32), kind)), "of type enum, expected uint8")


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((10, 1 << 40), "more than the"),
        ((1 << 60, 1), "more than the"),
        ((1 << 40, 5), "more than the"),
        ((0, 1 << 60), "more than the"),
        ((10, 5, 1), "expected 2 dimensions"),
        ((50,), "expected 2 dimensions"),
        ((10, 0), "attributes node"),
        ((0, 5), "0 rows, expected 10"),
        ((), r"shape \(\), expected 2"),
    ],
)
def test_other_shapes_are_refused(tampered, shape, match):
    tampered(replace(LAYER, lambda h5, n: h5.create_dataset(n, shape, "<f2")), match)


def test_datasets_without_a_shape_are_refused(tampered):
    tampered(replace(LAYER, lambda h5, n: h5.create_dataset(n, data=h5py.Empty("<f2"))), "shape None")


def test_one_dataset_under_two_names_is_refused(tampered):
    def change(h5):
        del h5["images/split"]
        h5["images/split"] = h5[LABEL]

    tampered(change, "/images/(split|label) shares its bytes with /images/(split|label)")


@pytest.mark.parametrize("place", ["head", "other", "within"])
def test_rows_that_lie_on_other_bytes_are_refused(kit, path, signed, place):
    kit.store(path)
    with h5py.File(path) as h5:
        offset, other = (
            h5[f"features/{name}"].id.get_offset() for name in ("layer4.1:avg", "classifier.4:flatten")
        )
    data = bytearray(path.read_bytes())
    wanted = {"head": SIZE, "other": other, "within": other - 2}[place]
    # A contiguous layout message: version 3, class 1, address, size.
    size = struct.pack("<Q", 10 * 5 * 2)
    old = b"\x03\x01" + struct.pack("<Q", offset - SIZE) + size
    assert data.count(old) == 1
    data = data.replace(old, b"\x03\x01" + struct.pack("<Q", wanted - SIZE) + size)
    signed(data)
    with pytest.raises(DamagedStoreError, match="shares its bytes with"):
        FeatureStore(path)


@pytest.mark.parametrize("name", ["features/more", "images/columns/more", "skipped/more"])
def test_nested_groups_are_refused(tampered, name):
    tampered(lambda h5: h5.create_group(name), "no dataset|no place there")


def test_named_types_among_the_datasets_are_refused(tampered):
    tampered(lambda h5: h5.__setitem__("features/type", np.dtype("<f2")), "/features/type is no dataset")


def hash_of_header(data):
    """Bob Jenkins' lookup3, with which HDF5 signs object headers of version 2."""

    def turn(x, count):
        return (x << count | x >> (32 - count)) & 0xFFFFFFFF

    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    padded = bytes(data) + bytes(-len(data) % 12)
    for start in range(0, len(padded), 12):
        words = struct.unpack_from("<3I", padded, start)
        a, b, c = ((x + y) & 0xFFFFFFFF for x, y in zip((a, b, c), words, strict=True))
        if start + 12 < len(padded):
            for count in (4, 6, 8, 16, 19, 4):
                a = (a - c & 0xFFFFFFFF) ^ turn(c, count)
                c = (c + b) & 0xFFFFFFFF
                a, b, c = b, c, a
    for count in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - turn(b, count) & 0xFFFFFFFF
        a, b, c = b, c, a
    return b


def test_links_of_a_users_own_type_are_refused(kit, path, signed):
    kit.store(path)
    with h5py.File(path, "r+") as h5:
        # Where links have an order, they stand in the header of their group.
        del h5["skipped"]
        group = h5.create_group("skipped", track_order=True)
        group["name"] = h5py.ExternalLink("abc", "/x")
    data = bytearray(path.read_bytes())
    (link,) = re.finditer(rb"\x40\0{8}\x01?\x04name", data)
    data[link.start()] = 200
    start = data.rindex(b"OHDR", 0, link.start())
    flags = data[start + 5]
    place = start + 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
    width = 1 << (flags & 3)
    end = place + width + int.from_bytes(data[place : place + width], "little")
    assert hash_of_header(path.read_bytes()[start:end]).to_bytes(4, "little") == data[end : end + 4]
    data[end : end + 4] = hash_of_header(data[start:end]).to_bytes(4, "little")
    signed(data)
    with pytest.raises(DamagedStoreError, match="/skipped/name is a user-defined link of type 200"):
        FeatureStore(path)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.float32(1), "float32"),
        (np.bool_(1), "enum"),
        (np.bytes_(b"x"), "text of 1 bytes"),
        (np.array([1, 2]), r"int64 \(2,\)"),
        (np.array(["a", "b"], object), r"text \(2,\)"),
        (h5py.Empty("<i8"), "int64 None"),
        (np.array([(1, 2)], "i4,i4")[0], "compound"),
        (np.int64, ">i8"),
        (None, "reference"),
    ],
)
def test_attributes_that_are_not_plain_are_refused(tampered, value, match):
    def change(h5):
        if isinstance(value, type):
            h5.attrs.create("more", 1, dtype=np.dtype(value).newbyteorder(">"))
        else:
            h5.attrs["more"] = h5.ref if value is None else value

    tampered(change, f"attribute 'more' of / is {match}")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("seconds", -1.0, "'seconds' is -1"),
        ("seconds", float("nan"), "'seconds' is nan"),
        ("seconds", float("inf"), "'seconds' is inf"),
        ("peak_memory_bytes", -7, "'peak_memory_bytes' is -7"),
        ("featx_format", 2, "'featx_format' is 2, expected 1"),
        ("request", "[1]", "'request' is no JSON object"),
        ("request", "[" * 100_000, "damaged"),
        ("request", "9" * 5_000, "damaged|no JSON object"),
        ("space", "[1]", "'space' is no JSON object"),
        ("provenance", '"x"', "'provenance' is no JSON object"),
    ],
)
def test_attributes_that_make_no_sense_are_refused(tampered, name, value, match):
    tampered(lambda h5: h5.attrs.__setitem__(name, value), match)


@pytest.mark.parametrize(
    "changes",
    [
        {"store_dtype": "float32"},
        {"store_dtype": "O"},
        {"weights": 7},
        {"backbone": ["x"]},
        {"preprocess": "x"},
    ],
)
def test_a_space_that_is_signed_and_makes_no_sense_is_refused(tampered, kit, changes):
    def change(h5):
        space = kit.space(**changes)
        h5.attrs["space"], h5.attrs["space_key"] = space.canonical, space.key

    tampered(change, "expected float32|its space is not of this format")


@pytest.mark.parametrize(
    ("name", "value"), [("dim", 5.0), ("node", 1.0), ("node", "other"), ("pool", "mean"), ("dim", -5)]
)
def test_layers_whose_attributes_are_others_are_refused(tampered, name, value):
    tampered(lambda h5: h5[LAYER].attrs.__setitem__(name, value), "attributes node")


def test_too_many_attributes_are_refused(tampered):
    def change(h5):
        for number in range(60):
            h5.attrs[f"a{number}"] = number

    tampered(change, "/ has 69 attributes")


def test_attributes_that_share_a_text_longer_than_the_file_are_refused(tampered, path):
    """A text may be referred to as often as one likes; each time it is read anew."""

    def change(h5):
        h5.attrs["a0"] = "x" * 60_000
        for number in range(1, 9):
            h5.attrs[f"a{number}"] = "y"

    with h5py.File(path, "r+") as h5:
        change(h5)
    data = path.read_bytes()

    def reference(name, length):
        start = data.index(name + b"\0")
        while True:
            start = data.index(struct.pack("<I", length), start + 1)
            heap = int.from_bytes(data[start + 4 : start + 12], "little") + SIZE
            if data[heap : heap + 4] == b"GCOL":
                return start

    long = reference(b"a0", 60_000)
    for number in range(1, 9):
        short = reference(b"a%d" % number, 1)
        data = data[:short] + data[long : long + 16] + data[short + 16 :]
    path.write_bytes(data)
    tampered(lambda h5: None, "is longer than the file")


@pytest.mark.parametrize("link", [h5py.SoftLink("/x"), h5py.ExternalLink("a", "/x")])
def test_the_name_of_a_link_cannot_write_on_the_screen(tampered, link):
    tampered(lambda h5: h5.__setitem__("images/\x1b[2J\n", link), r"/images/\\x1b\[2J\\n is a")


def test_what_does_no_harm_is_let_in(kit, path, signed):
    """Attributes that nothing reads, comments, odd layers' names, an order of links, dense storage."""
    space, layers = kit.space(), [kit.avg, LayerInfo("\u202eبل\n", "max", 3)]
    kit.store(path, layers=layers, space=space)
    with h5py.File(path, "r+", libver="latest") as h5:
        h5["images"].attrs["note"] = np.zeros((3, 3))
        h5["images/name"].attrs["note"] = h5.ref
        h5py.h5o.set_comment(h5["images"].id, b"hello")
        for number in range(20):
            h5.attrs[f"more{number}"] = "x" * number
        del h5["skipped/reason"]
        h5["skipped"].create_dataset("reason", (0,), h5py.string_dtype("ascii"))
    signed(path.read_bytes())
    with FeatureStore(path) as store:
        store.verify()
        assert [layer.name for layer in store.layers] == [layer.name for layer in layers]
        assert store.meta["more7"] == "xxxxxxx"
