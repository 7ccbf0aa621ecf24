import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.records import Preprocess, Space, escape_name

IMAGENET = Preprocess("crop", 256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

spaces = st.builds(
    Space,
    provider=st.sampled_from(["torchvision", "pixels"]),
    backbone=st.text(max_size=5),
    weights=st.fixed_dictionaries(
        {"digest": st.text("0123456789abcdef", max_size=4)}, optional={"seed": st.integers(0, 3)}
    ),
    preprocess=st.builds(
        lambda side, resize: {**IMAGENET.to_json(), "image_size": side, "resize": resize},
        st.integers(1, 3),
        st.sampled_from(["crop", "pad"]),
    ),
    decoding=st.sampled_from(["1", "2"]),
    precision=st.sampled_from(["fp32", "bf16"]),
    store_dtype=st.sampled_from(["float16", "float32"]),
)


class TestSpace:
    @given(spaces, spaces)
    def test_two_keys_are_the_same_exactly_if_nothing_differs(self, one, other):
        assert (one.key == other.key) == (one == other) == (not one.differences(other))

    @given(spaces)
    def test_survives_json(self, space):
        again = Space.from_json(json.loads(json.dumps(space.to_json())))
        assert again == space
        assert again.key == space.key

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Space)])
    def test_every_field_counts_and_is_named(self, field):
        space = Space("torchvision", "resnet18", {"digest": "a"}, IMAGENET.to_json(), "1", "bf16", "float16")
        changed = {
            "weights": {"digest": "b"},
            "preprocess": {**IMAGENET.to_json(), "mean": [0, 0, 0]},
            "format": 2,
        }
        other = dataclasses.replace(space, **{field: changed.get(field, "other")})
        assert space.key != other.key
        (name,) = space.differences(other)
        assert name.split(".")[0] == field

    def test_the_key_is_fixed(self):
        """A change of this value makes every store in the world stale."""
        space = Space("torchvision", "resnet18", {"digest": "a"}, IMAGENET.to_json(), "1", "bf16", "float16")
        assert space.key == "1f84b52347e689b055fd9b8684fa93072dc2cce4fc7cb12572d08508af401534"

    def test_references(self):
        space = Space("torchvision", "resnet18", {"digest": "a"}, {}, "1", "bf16", "float16")
        assert not space.is_reference
        assert dataclasses.replace(space, weights={"digest": "a", "seed": 0}).is_reference
        assert dataclasses.replace(space, provider="pixels").is_reference


def test_preprocess_survives_json():
    assert Preprocess.from_json(json.loads(json.dumps(IMAGENET.to_json()))) == IMAGENET


@given(st.binary(max_size=20))
def test_escaped_names_print_on_one_line(data):
    shown = escape_name(data.decode("utf-8", "surrogateescape"))
    assert shown.isprintable() or shown == ""
    shown.encode("utf-8")


def test_readable_names_are_left_alone():
    assert escape_name("Größe/🦉.jpg") == "Größe/🦉.jpg"
