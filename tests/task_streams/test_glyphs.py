import numpy as np
import pytest

from task_streams.errors import UserError
from task_streams.probes.glyphs import DIGITS, HELD_OUT_FONTS, LETTERS, TRAIN_FONTS, glyph_examples, render_glyph


def test_the_probe_uses_only_fonts_that_pretraining_never_sees() -> None:
    assert not set(HELD_OUT_FONTS) & set(TRAIN_FONTS)
    assert {example.domain for example in glyph_examples(60, 0)} == set(HELD_OUT_FONTS)


def test_every_font_draws_every_glyph_differently() -> None:
    for font in TRAIN_FONTS + HELD_OUT_FONTS:
        bitmaps = {render_glyph(label, font).tobytes() for label in DIGITS + LETTERS}
        # 10 digits and 24 letters; a font without a glyph would draw the same empty box twice
        assert len(bitmaps) == 34


def test_a_glyph_is_centred_white_on_black_with_the_asked_height() -> None:
    bitmap = render_glyph("eight", "DejaVuSans", height=52)
    assert bitmap.shape == (64, 64)
    rows = np.flatnonzero(bitmap.max(axis=1) > 0)
    # (64 - 52) / 2 = 6 empty rows above and below
    assert (rows[0], rows[-1]) == (6, 57)
    assert bitmap.max() == 255
    assert bitmap[0, 0] == 0


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: render_glyph("sevn", "DejaVuSans"), "'seven'"),
        (lambda: render_glyph("seven", "DejaVuSan"), "'DejaVuSans'"),
        (lambda: glyph_examples(0, 1), "at least 1"),
    ],
)
def test_a_mistake_names_what_is_expected(call, hint) -> None:
    with pytest.raises(UserError, match=hint):
        call()


def test_the_same_seed_gives_the_same_glyphs_and_another_seed_others() -> None:
    first, again, other = (glyph_examples(12, seed, labels=DIGITS) for seed in (7, 7, 8))
    assert [example.content for example in first] == [example.content for example in again]
    assert not {example.content for example in first} & {example.content for example in other}
    assert np.array_equal(np.asarray(image := first[3].media()), np.asarray(again[3].media()))
    assert (image.mode, image.size) == ("RGB", (64, 64))
    # ten labels in turn: items 10 and 11 show the first two again
    assert [example.label for example in first] == [*DIGITS, "zero", "one"]
    assert len({example.key for example in first}) == 12
