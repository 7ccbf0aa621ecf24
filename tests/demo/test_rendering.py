"""The source images: no digits, no twins, the same for one seed."""

from __future__ import annotations

import sys
import unicodedata

import numpy as np
import pytest

from featx.demo.fractals import render_ifs, render_julia
from featx.demo.glyphs import alphabet, fonts, fonts_with, is_numeric, render_glyph
from featx.demo.rendering import render_pool, source_classes
from featx.demo.shapes import OUTLINES, render_outline, render_pen
from featx.demo.textures import TEXTURES, render_texture


def _has_number(character):
    """The rule, written a second time and straight from the Unicode tables."""
    return any(
        unicodedata.category(part) in ("Nd", "Nl", "No")
        or unicodedata.decimal(part, None) is not None
        or unicodedata.digit(part, None) is not None
        or unicodedata.numeric(part, None) is not None
        for part in character + unicodedata.normalize("NFKD", character)
    )


def test_no_glyph_is_a_digit_in_any_form():
    classes = [each.name for each in source_classes() if each.name.startswith("glyph ")]
    characters = [chr(int(name.removeprefix("glyph U+"), 16)) for name in classes]
    assert characters == list(alphabet())
    assert [c for c in characters if _has_number(c)] == []
    assert not set(characters) & set("0123456789")


def test_every_numeric_character_of_unicode_is_recognised():
    missed = [c for c in map(chr, range(sys.maxunicode + 1)) if _has_number(c) and not is_numeric(c)]
    assert missed == []


@pytest.mark.parametrize("character", ["∛", "∜", "Ƽ", "ƻ", "⚅", "♳"])
def test_signs_drawn_with_a_number_count_as_numeric(character):
    assert is_numeric(character)
    assert character not in alphabet()


def test_alphabet_has_several_scripts_and_no_twins():
    letters = alphabet()
    assert len(letters) > 400
    assert len(set(letters)) == len(letters)
    scripts = {unicodedata.name(c).split()[0] for c in letters}
    assert {"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "HEBREW", "ARABIC"} <= scripts
    assert len(set(letters) & set("AΑА")) == 1  # Latin, Greek and Cyrillic A look alike


def test_fonts_of_private_encodings_are_not_used():
    names = {path.name for path in fonts()}
    assert "DejaVuSans.ttf" in names
    assert "cmr10.ttf" in names
    assert not names & {"cmsy10.ttf", "cmex10.ttf", "STIXNonUni.ttf", "LastResortHE-Regular.ttf"}
    assert not any(path.name.startswith("cm") for path in fonts_with("+"))


def test_every_class_has_ink_and_paper():
    images, _ = render_pool(source_classes(), 1, seed=3)
    flat = images.reshape(len(images), -1)
    assert (flat.max(axis=1) > 128).all()
    assert (flat.min(axis=1) < 64).all()


def test_pool_is_decided_by_the_seed_and_independent_of_its_size():
    classes = source_classes()[::60]
    images, labels = render_pool(classes, 3, seed=5)
    again, _ = render_pool(classes, 3, seed=5)
    fewer, _ = render_pool(classes, 2, seed=5)
    other, _ = render_pool(classes, 3, seed=6)
    assert labels.tolist() == [n for n in range(len(classes)) for _ in range(3)]
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(images.reshape(-1, 3, 64, 64)[:, :2].reshape(-1, 64, 64), fewer)
    assert (images != other).any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("render", "member"),
    [
        (render_glyph, "Ж"),
        (render_pen, 4),
        (render_outline, len(OUTLINES) - 1),
        (render_texture, len(TEXTURES) - 1),
        (render_ifs, 2),
        (render_julia, 2),
    ],
)
def test_images_of_a_class_differ(render, member):
    first = render(member, np.random.default_rng(0))
    second = render(member, np.random.default_rng(1))
    assert first.shape == (64, 64)
    assert first.dtype == np.uint8
    assert (first != second).any()
