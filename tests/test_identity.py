"""What identifies an embedding: rows are found again exactly if nothing that changes the numbers differs.

A row belongs to the SHA-256 of the image's bytes, in a space, at a layer.
"""

import copy
import hashlib
import itertools
import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pictures import photo

import featx
from featx.errors import SpaceMismatchError
from featx.records import ImageRecord, LayerInfo, Preprocess, Space
from featx.store.writer import IndexRow, StoreWriter

LAYER = LayerInfo("layer4", "avg", 3)
DIGESTS = np.random.default_rng(0).integers(0, 256, (5, 32), dtype=np.uint8)
FIELDS = {
    "provider": "custom",
    "backbone": "caf\u00e9",
    "weights": {"digest": hashlib.sha256(b"weights").hexdigest(), "seed": 1},
    "preprocess": {
        "resize": "crop",
        "resize_size": 256,
        "image_size": 224,
        "interpolation": "bilinear",
        "mean": [0.5, 0.25, 0.0],
        "std": [1.0, 1.0, 1.0],
    },
    "decoding": "1",
    "precision": "fp32",
    "store_dtype": "float16",
    "format": 1,
}


class _Missing:
    def __repr__(self):
        return "missing"


MISSING = _Missing()

# Field, what it becomes, and how the message names the two values.
OTHERS = [
    ("provider", "torchvision"),
    ("backbone", "CAF\u00c9"),
    ("backbone", unicodedata.normalize("NFD", "caf\u00e9")),
    ("backbone", "caf\u00e9 "),
    ("backbone", "two\nlines"),
    ("weights.digest", hashlib.sha256(b"others").hexdigest()),
    ("weights.seed", 2),
    ("weights.seed", 0),
    ("weights.seed", "1"),
    ("weights.seed", True),
    ("weights.seed", 1.0),
    ("weights.seed", None),
    ("weights.seed", MISSING),
    ("weights.more", "new"),
    ("weights.more", None),
    ("weights.more", {}),
    ("weights.more", []),
    ("preprocess.resize", "squash"),
    ("preprocess.resize_size", 257),
    ("preprocess.image_size", 225),
    ("preprocess.image_size", 224.0),
    ("preprocess.image_size", "224"),
    ("preprocess.interpolation", "bicubic"),
    ("preprocess.mean", [0.5, 0.25, 0.1]),
    ("preprocess.mean", [0.25, 0.5, 0.0]),
    ("preprocess.mean", [0.5, 0.25, 0]),
    ("preprocess.mean", [0.5, 0.25, -0.0]),
    ("preprocess.mean", [0.5, 0.25, 0.0, 0.0]),
    ("preprocess.mean", [0.5, 0.25, float("nan")]),
    ("preprocess.mean", MISSING),
    ("preprocess.std", [1.0, 1.0, 1.0 + 2**-52]),
    ("preprocess.mean.extra", 1),
    ("decoding", "2"),
    ("precision", "bf16"),
    ("store_dtype", "float32"),
    ("format", 2),
]


def changed(name, value, fields=FIELDS):
    """Change the field of this dotted name."""
    fields = copy.deepcopy(fields)
    *above, last = name.split(".")
    place = fields
    for step in above:
        if not isinstance(place[step], dict):
            place[step] = {}
        place = place[step]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return fields


def same(one, two):
    """Whether two JSON values are the same: 1, 1.0, true and "1" are four."""
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and repr(one) == repr(two)


def rearranged(value, draw):
    """The same JSON value: keys in another order, tuples for lists."""
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return {key: rearranged(value[key], draw) for key in keys}
    if isinstance(value, list):
        return draw(st.sampled_from([list, tuple]))(rearranged(item, draw) for item in value)
    return value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda children: (
        st.lists(children, max_size=2) | st.dictionaries(st.text("ab.", max_size=2), children, max_size=2)
    ),
    max_leaves=4,
)
PLACES = st.sampled_from(sorted({name for name, _ in OTHERS} | {"weights", "preprocess"}))


@st.composite
def pairs(draw):
    """Two sets of fields: one value changed, or none, and rearranged."""
    one = changed(draw(PLACES), draw(VALUES)) if draw(st.booleans()) else FIELDS
    two = changed(draw(PLACES), draw(VALUES), one) if draw(st.booleans()) else one
    return one, rearranged(two, draw)


class TestSpace:
    @settings(max_examples=120, deadline=None)
    @example((FIELDS, FIELDS))
    @example((changed("weights", {"a": {"b": 1}}), changed("weights", {"a.b": 1})))
    @example((changed("weights", {"a": [0.0]}), changed("weights", {"a": [-0.0]})))
    @given(pairs())
    def test_the_key_is_equal_exactly_if_the_json_values_are(self, pair):
        one, two = (Space(**fields) for fields in pair)
        equal = same(*pair)
        assert (one.key == two.key) is equal
        assert (not one.differences(two)) is equal
        assert (not two.differences(one)) is equal
        # What a store holds of it is the same space.
        for space in (one, two):
            again = Space.from_json(json.loads(space.canonical))
            assert again.key == space.key
            assert not again.differences(space)

    def test_a_preprocessing_survives_its_way_through_json(self):
        record = Preprocess("pad", 40, 32, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        again = Preprocess.from_json(json.loads(json.dumps(record.to_json())))
        assert again == record
        assert Space(**changed("preprocess", again.to_json())).key == (
            Space(**changed("preprocess", record.to_json())).key
        )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A finished store, and beside it parts of the same space that a killed run left."""
    root = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        for path, finish in ((root / "finished.h5", True), (root / "parts.h5", False)):
            with open_writer(path, FIELDS) as writer:
                rows = np.random.default_rng(1).normal(size=(len(DIGESTS), 3)).astype(np.float32)
                writer.add(DIGESTS, np.zeros(len(DIGESTS), np.uint64), {LAYER.name: rows})
                if finish:
                    images = [
                        IndexRow(ImageRecord(f"{row}.jpg"), bytes(digest))
                        for row, digest in enumerate(DIGESTS)
                    ]
                    writer.finish(images, [], {})
        yield root


def open_writer(path, fields, layers=(LAYER,)):
    return StoreWriter(path, Space(**fields), layers, request={}, source="photos")


ALL = {digest.tobytes() for digest in DIGESTS}
NAMES = ["finished.h5", "parts.h5"]


class TestWriter:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(("field", "value"), OTHERS, ids=lambda value: ascii(value)[:24])
    def test_a_field_that_differs_is_refused_with_both_values(self, stored, name, field, value):
        with pytest.raises(SpaceMismatchError) as caught, open_writer(stored / name, changed(field, value)):
            raise AssertionError("not reached")
        text = str(caught.value)
        assert str(stored / name) in text
        assert "\n" not in text
        if field != "preprocess.mean.extra":  # there it is another field that differs too
            before = FIELDS
            for step in field.split("."):
                before = before.get(step)
            assert f"{field} is {shown(before)} there and {shown(value)} now" in text
        assert "choose another output" in text
        assert "--overwrite" in text
        with open_writer(stored / name, FIELDS) as writer:
            assert writer.known == ALL

    @pytest.mark.parametrize("name", NAMES)
    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def test_rows_are_known_exactly_if_the_space_is_the_same(self, stored, name, data):
        fields = FIELDS
        if data.draw(st.booleans()):
            fields = changed(data.draw(PLACES), data.draw(VALUES))
        fields = rearranged(fields, data.draw)
        if same(fields, FIELDS):
            with open_writer(stored / name, fields) as writer:
                assert writer.known == ALL
        elif fields["store_dtype"] in ("float16", "float32"):
            with pytest.raises(SpaceMismatchError), open_writer(stored / name, fields):
                raise AssertionError("not reached")

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(
        "layer",
        [LayerInfo("layer3", "avg", 3), LayerInfo("layer4", "max", 3), LayerInfo("LAYER4", "avg", 3)],
        ids=lambda layer: layer.name,
    )
    def test_another_layer_has_no_rows(self, stored, name, layer):
        with open_writer(stored / name, FIELDS, [layer]) as writer:
            assert writer.known == set()
        with open_writer(stored / name, FIELDS, [LAYER, layer]) as writer:
            assert writer.known == set()


def shown(value):
    """As a message shows a value: of a digest the beginning, of what is not there None."""
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return repr(None if value is MISSING else value)


class Photos:
    """Uncompressed photos, so that any byte of the pixels can change and the file stays an image."""

    header = 54

    def __init__(self, root):
        self.root = root
        self.clock = itertools.count(1)
        for split, label, count in (("train", "ants", 2), ("train", "bees", 2), ("test", "ants", 1)):
            for index in range(count):
                path = self.path(split, label, index)
                path.parent.mkdir(parents=True, exist_ok=True)
                photo(label, index + 10 * (split == "test"), (8, 6)).save(path)

    def path(self, split, label, index):
        return self.root / split / label / f"{index}.bmp"

    @property
    def paths(self):
        return sorted(self.root.rglob("*.bmp"))

    def write(self, path, data):
        """Write a file with a time of its own, however coarse the clock of the disk is."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(0, next(self.clock) * 10**9))


@pytest.fixture
def photos(tmp_path):
    return Photos(tmp_path / "photos")


def extract(photos, store, **options):
    return featx.extract(photos.root, store, **({"backbone": "pixels"} | options))


class TestRow:
    def test_a_byte_that_differs_is_another_image(self, tmp_path_factory):
        photos = Photos(tmp_path_factory.mktemp("flip") / "photos")
        store = photos.root.parent / "x.h5"
        extract(photos, store)

        @settings(max_examples=8, deadline=None)
        @given(data=st.data())
        def flip(data):
            path = data.draw(st.sampled_from(photos.paths))
            content = bytearray(path.read_bytes())
            where = data.draw(st.integers(photos.header, len(content) - 1))
            content[where] ^= data.draw(st.integers(1, 255))
            before = extract(photos, store)
            rows = dict(zip(before.names, np.array(before.X("flatten")), strict=True))
            digest = hashlib.sha256(content).digest()
            known = digest in {row.tobytes() for row in before.digests}
            photos.write(path, content)
            after = extract(photos, store)
            assert after.summary.computed == (not known)
            name = path.relative_to(photos.root).as_posix()
            for other, row in zip(after.names, after.X("flatten"), strict=True):
                if other != name:
                    assert np.array_equal(row, rows[other])
            assert digest in {row.tobytes() for row in after.digests}

        flip()

    def test_the_same_bytes_are_the_same_image_whatever_they_are_called(self, photos, tmp_path):
        before = extract(photos, tmp_path / "x.h5")
        rows = {
            digest.tobytes(): np.array(row)
            for digest, row in zip(before.digests, before.X("flatten"), strict=True)
        }
        moves = [
            (("train", "ants", 0), ("train", "ants", 7)),  # a name
            (("train", "ants", 1), ("train", "wasps", 1)),  # a label
            (("test", "ants", 0), ("train", "bees", 5)),  # a split and a label
        ]
        for source, target in moves:
            data = photos.path(*source).read_bytes()
            photos.path(*source).unlink()
            photos.write(photos.path(*target), data)
            photos.write(photos.path("val", "ants", 9), data)  # and a twin
            after = extract(photos, tmp_path / "x.h5")
            assert after.summary.computed == 0
            assert after.summary.reused == len(after) == len(photos.paths)
            for digest, row in zip(after.digests, after.X("flatten"), strict=True):
                assert np.array_equal(row, rows[digest.tobytes()])


class TestArguments:
    """Each argument of ``extract`` that changes the numbers is refused on a store without it."""

    @pytest.mark.parametrize(
        ("options", "texts"),
        [
            ({"image_size": 16}, ["preprocess.image_size is 32 there and 16 now"]),
            ({"resize": "pad"}, ["preprocess.resize is 'squash' there and 'pad' now"]),
            (
                {"preprocess": Preprocess("squash", 32, 32, "nearest", (0.0,) * 3, (1.0,) * 3)},
                ["preprocess.interpolation is 'bilinear' there and 'nearest' now"],
            ),
            (
                {"preprocess": Preprocess("squash", 32, 32, "bilinear", (0.5, 0.0, 0.0), (1.0,) * 3)},
                ["preprocess.mean is [0.0, 0.0, 0.0] there and [0.5, 0.0, 0.0] now"],
            ),
            ({"store_dtype": "float32"}, ["store_dtype is 'float16' there and 'float32' now"]),
            ({"precision": "bf16"}, ["precision is 'fp32' there and 'bf16' now"]),
            ({"backbone": "featx-tiny"}, ["backbone is 'pixels' there and 'featx-tiny' now"]),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_what_changes_the_numbers_refuses(self, photos, tmp_path, options, texts):
        store = tmp_path / "x.h5"
        expected = np.array(extract(photos, store).X("flatten"))
        content = store.read_bytes()
        with pytest.raises(SpaceMismatchError) as caught:
            extract(photos, store, **options)
        for text in [*texts, str(store), "choose another output", "--overwrite"]:
            assert text in str(caught.value)
        assert store.read_bytes() == content
        assert extract(photos, store).summary.computed == 0
        replaced = extract(photos, store, overwrite=True, **options)
        assert replaced.summary.computed == len(photos.paths)
        rows = replaced.X(replaced.layers[0].name)
        same_numbers = rows.shape == expected.shape and np.array_equal(rows, expected)
        # Numbers that float16 and bfloat16 hold exactly, and a mean that the flattened bytes lack.
        assert not same_numbers or options.keys() & {"store_dtype", "precision"}

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 1},
            {"workers": 1},
            {"device": "cpu"},
            {"strict": True},
            {"max_skip": 0.5},
            {"rehash": True},
            {"precision": "fp32"},
            {"store_dtype": "float16"},
            {"seed": 3},  # there are no random weights
            {"image_size": 32},
            {"resize": "squash"},
            {"layers": ["flatten"]},
            {"on_progress": lambda step: None},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_what_does_not_change_the_numbers_hits(self, photos, tmp_path, options):
        before = extract(photos, tmp_path / "x.h5")
        expected = np.array(before.X("flatten"))
        after = extract(photos, tmp_path / "x.h5", **options)
        assert (after.summary.computed, after.summary.reused) == (0, len(photos.paths))
        assert np.array_equal(after.X("flatten"), expected)

    def test_random_weights_are_known_by_their_seed(self, photos, tmp_path):
        options = {"backbone": "featx-tiny", "weights": "none"}
        extract(photos, tmp_path / "x.h5", seed=1, **options)
        assert extract(photos, tmp_path / "x.h5", seed=1, batch_size=2, **options).summary.computed == 0
        with pytest.raises(SpaceMismatchError, match=r"weights\.seed is 1 there and 2 now"):
            extract(photos, tmp_path / "x.h5", seed=2, **options)
        with pytest.raises(SpaceMismatchError, match=r"digest .* weights\.seed is 1 there and None now"):
            extract(photos, tmp_path / "x.h5", backbone="featx-tiny")

    def test_weights_of_a_file_are_known_by_its_bytes(self, photos, tmp_path):
        package = Path(featx.__file__).parent
        file = tmp_path / "mine.safetensors"
        shutil.copyfile(next(package.rglob("*.safetensors")), file)
        options = {"backbone": "featx-tiny"}
        extract(photos, tmp_path / "x.h5", weights=file, **options)
        moved = tmp_path / "moved.safetensors"
        shutil.copyfile(file, moved)
        assert extract(photos, tmp_path / "x.h5", weights=moved, **options).summary.computed == 0
        data = bytearray(file.read_bytes())
        data[-2] ^= 1  # the last bit of the last weight
        photos.write(file, data)
        with pytest.raises(SpaceMismatchError, match=r"weights.digest is [0-9a-f]{12}… there and"):
            extract(photos, tmp_path / "x.h5", weights=file, **options)


class TestRuns:
    """How a run is cut into batches, ordered and decoded in parallel changes no row."""

    RUNS = (
        {"batch_size": 1},
        {"batch_size": 3, "workers": 4},
        {"batch_size": 3, "reverse": True},
        {"batch_size": 1, "workers": 4, "reverse": True},
        {"workers": 4},
        {"workers": 4, "reverse": True},
    )

    @staticmethod
    def rows(paths, store, reverse=False, **options):
        opened = featx.extract(
            paths[::-1] if reverse else paths, store, precision="fp32", store_dtype="float32", **options
        )
        order = -1 if reverse else 1
        assert [bytes(row) for row in opened.digests] == [
            hashlib.sha256(path.read_bytes()).digest() for path in paths[::order]
        ]
        return {layer.name: np.array(opened.X(layer.name))[::order] for layer in opened.layers}

    def compare(self, paths, folder, embedded, **options):
        alike = {"batch_size": "auto", "workers": 1}
        expected = self.rows(paths, folder / "x.h5", **alike, **options)
        sizes = []
        for number, run in enumerate(self.RUNS):
            embedded.clear()
            found = self.rows(paths, folder / f"{number}.h5", **(alike | run), **options)
            sizes.append(max(embedded))
            assert sum(embedded) >= len(paths)
            for layer, rows in expected.items():
                distance = np.linalg.norm(found[layer] - rows, axis=1) / np.linalg.norm(rows, axis=1)
                assert distance.max() <= 1e-5, (run, layer)
        assert sizes[:4] == [1, 3, 3, 1]
        assert min(sizes[4:]) >= 3  # few images are shared out among the threads

    @staticmethod
    def photos(root, count, size):
        """Photos of several sizes, so that they take different times to decode."""
        root.mkdir()
        paths = [root / f"{index:02}.{'png' if index % 3 else 'jpg'}" for index in range(count)]
        for index, path in enumerate(paths):
            photo(("ants", "bees", "wasps")[index % 3], index, (size + 9 * (index % 4), size)).save(path)
        return paths

    def test_no_row_depends_on_batch_size_order_or_workers(self, tmp_path, embedded):
        paths = self.photos(tmp_path / "photos", 11, 40)
        self.compare(paths, tmp_path, embedded, backbone="featx-tiny", layers=["penultimate", "layer2"])

    @pytest.mark.slow
    def test_nor_in_a_network_of_torchvision(self, tmp_path, embedded):
        paths = self.photos(tmp_path / "photos", 37, 200)
        options = {"backbone": "resnet18", "weights": "none", "layers": ["penultimate", "layer2:gem"]}
        self.compare(paths, tmp_path, embedded, **options)
