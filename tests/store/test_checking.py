"""Files with our user block whose HDF5 was made by somebody else."""

from __future__ import annotations

import hashlib

import h5py
import numpy as np
import pytest

from featx.errors import DamagedStoreError
from featx.store.reader import FeatureStore
from featx.store.userblock import SIZE, Header, pack_header


@pytest.fixture
def tampered(kit, path):
    """Change a store with h5py, sign it again, and expect it to be refused."""
    kit.store(path)

    def refused(change, match):
        with h5py.File(path, "r+") as h5:
            change(h5)
        data = path.read_bytes()[SIZE:]
        path.write_bytes(pack_header(Header(1, len(data), hashlib.sha256(data).digest())) + data)
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


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"chunks": (2, 5)}])
def test_filters_and_chunks_are_refused(tampered, options):
    def make(h5, name):
        h5.create_dataset(name, data=np.zeros((10, 5), "<f2"), **options)

    tampered(replace("features/layer4.1:avg", make), "not stored in one piece")


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((10, 5), "<f8"),
        np.zeros((10, 5), "<i2"),
        np.zeros((10, 5), ">f2"),
        np.zeros((10, 5), "S4"),
        np.zeros((10, 5), [("a", "<f2")]),
    ],
)
def test_other_dtypes_are_refused(tampered, data):
    tampered(replace("features/layer4.1:avg", lambda h5, n: h5.create_dataset(n, data=data)), "is of type")


def test_references_are_refused(tampered):
    def make(h5, name):
        h5.create_dataset(name, (10,), h5py.ref_dtype)

    tampered(replace("images/label", make), "expected text")


@pytest.mark.parametrize("shape", [(10, 1 << 40), (1 << 40, 5)])
def test_shapes_larger_than_the_file_are_refused(tampered, shape):
    tampered(
        replace("features/layer4.1:avg", lambda h5, n: h5.create_dataset(n, shape, "<f2")), "more than the"
    )


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
