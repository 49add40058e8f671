"""Probes: printed glyphs, and sets whose published forms are understood and whose faults are told at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from task_streams.errors import UserError
from task_streams.probes.glyphs import DIGITS, HELD_OUT_FONTS, LETTERS, TRAIN_FONTS, glyph_examples, render_glyph
from task_streams.probes.sets import CHOICE_FORM, probe_request, read_probe_set
from tests.task_streams.probe_files import ROWS, write_probes
from tests.task_streams.streams import png, problems_of


def set_problems(folder: Path, *rows: object) -> tuple[str, ...]:
    return problems_of(lambda: read_probe_set(write_probes(folder, rows)))


def test_all_styles_are_understood_by_the_published_fields_and_asked_in_the_sets_own_words(tmp_path: Path) -> None:
    read = read_probe_set(write_probes(tmp_path))
    assert read.name == "general"
    assert [probe.key for probe in read.probes] == ["c1", "7", "1000", "o1"]
    assert read.counts() == {"choice": 1, "yes_no": 1, "instruction": 1, "open": 1}
    choice, yes_no, instruction, open_one = read.probes
    assert choice.answers == ("B",) and choice.options == ("eight", "three")
    assert yes_no.answers == ("yes",)
    assert dict(instruction.checks[0].arguments) == {}  # null is nothing
    assert open_one.answers == ("11", "eleven") and open_one.rule == "relaxed_number"
    asked, *others = (probe_request(probe) for probe in read.probes)
    assert [part["type"] for part in asked.messages[0]["content"]] == ["image", "text"]
    assert asked.messages[0]["content"][-1]["text"] == f"Which?\n(A) eight\n(B) three\n\n{CHOICE_FORM}"
    assert others[0].messages[0]["content"][-1]["text"] == "Is there an eight in the image?"
    assert others[1].messages[0]["content"] == [{"type": "text", "text": "Say nothing with a comma."}]
    assert [image.size for image in others[2].images] == [(64, 64), (64, 64)]


def test_the_fingerprint_tells_text_truth_and_image_apart(tmp_path: Path) -> None:
    first = read_probe_set(write_probes(tmp_path / "a")).fingerprint
    assert read_probe_set(write_probes(tmp_path / "b")).fingerprint == first  # wherever it lies
    other = [{**ROWS[0], "answer": "A"}, *ROWS[1:]]
    assert read_probe_set(write_probes(tmp_path / "c", other)).fingerprint != first
    file = write_probes(tmp_path / "d")
    (tmp_path / "d/images/three.png").write_bytes((tmp_path / "d/images/eight.png").read_bytes())
    assert read_probe_set(file).fingerprint != first


def test_everything_that_is_wrong_is_told_at_once_with_its_lines(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(png())
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    (images / "link.png").symlink_to(tmp_path / "outside.png")
    (images / "cut.png").write_bytes(png()[:40])
    coma, words = "punctuation:no_coma", "length_constraints:number_words"

    def asked(number: int | str, **changes: Any) -> dict[str, Any]:
        return {"id": number, "question": "?", "answer": "a"} | changes

    def told_to(number: int, check: str, **arguments: int) -> dict[str, Any]:
        return {"id": number, "prompt": "Do.", "instruction_id_list": [check], "kwargs": [arguments]}

    cases: list[tuple[Any, str]] = [
        ("{not json", "no JSON"),
        ({"question": "No id?", "answer": "a"}, "no id"),
        (asked(1), ""),
        (asked("1"), "id '1' is that of line 3 too"),
        (asked(2, options=["a", "b"], answer="C"), "answer: expected one letter from A to B"),
        (asked(3, image="../outside.png"), "image '../outside.png' leads out of the file's folder"),
        (asked(4, image="images/none.png"), "image 'images/none.png': No such file"),
        (told_to(5, coma), f"unknown check '{coma}'. Did you mean 'punctuation:no_comma'?"),
        (told_to(6, words, num_words=-1), f"{words}: expected num_words a whole number from 0, relation less than"),
        ({"id": 7, "question": "Nothing?"}, "no answer"),
        (asked(8, rule="exactly"), "unknown rule 'exactly'. Did you mean 'exact'?"),
        (asked(9, optons=["a"]), "field 'optons': did you mean 'options'?"),
        (asked(10, question=""), "no question"),
        (asked(11, image="images/link.png"), "image 'images/link.png' leads out of the file's folder"),
        (asked(12, image="images/cut.png"), "image 'images/cut.png': "),
    ]
    told = set_problems(tmp_path / "set", *(row for row, _ in cases))
    starts = [f"general.jsonl, line {number}: {start}" for number, (_, start) in enumerate(cases, start=1) if start]
    assert [problem[: len(start)] for problem, start in zip(told, starts, strict=True)] == starts


def test_a_file_that_is_empty_of_another_kind_or_not_there_is_refused(tmp_path: Path) -> None:
    for name, text in (("empty", ""), ("blank", "\n\n")):
        (tmp_path / f"{name}.jsonl").write_text(text)
    for file, said in (
        ("empty.jsonl", "is empty"),
        ("blank.jsonl", "is empty"),
        ("set.json", "expected a file of JSON lines"),
        ("none.jsonl", r"none\.jsonl"),
    ):
        with pytest.raises(UserError, match=said):
            read_probe_set(tmp_path / file)


def test_the_probe_uses_only_fonts_that_pretraining_never_sees_and_each_draws_every_glyph_differently() -> None:
    assert not set(HELD_OUT_FONTS) & set(TRAIN_FONTS)
    assert {example.domain for example in glyph_examples(60, 0)} == set(HELD_OUT_FONTS)
    for font in TRAIN_FONTS + HELD_OUT_FONTS:
        bitmaps = {render_glyph(label, font).tobytes() for label in DIGITS + LETTERS}
        # 10 digits and 24 letters; a font without a glyph would draw the same empty box twice
        assert len(bitmaps) == 34


def test_a_glyph_is_centred_white_on_black_with_the_asked_height_and_the_same_for_the_same_seed() -> None:
    assert "Did you mean 'seven'?" in problems_of(lambda: render_glyph("sevn", "DejaVuSans"))[0]
    assert "Did you mean 'DejaVuSans'?" in problems_of(lambda: render_glyph("seven", "DejaVuSan"))[0]
    assert problems_of(lambda: glyph_examples(0, 1)) == ("glyph count 0: expected at least 1.",)
    bitmap = render_glyph("eight", "DejaVuSans", height=52)
    assert bitmap.shape == (64, 64)
    rows = np.flatnonzero(bitmap.max(axis=1) > 0)
    # (64 - 52) / 2 = 6 empty rows above and below
    assert (rows[0], rows[-1]) == (6, 57)
    assert bitmap.max() == 255
    assert bitmap[0, 0] == 0
    first, again, other = (glyph_examples(12, seed, labels=DIGITS) for seed in (7, 7, 8))
    assert [example.content for example in first] == [example.content for example in again]
    assert not {example.content for example in first} & {example.content for example in other}
    assert np.array_equal(np.asarray(image := first[3].media()), np.asarray(again[3].media()))
    assert (image.mode, image.size) == ("RGB", (64, 64))
    # ten labels in turn: items 10 and 11 show the first two again
    assert [example.label for example in first] == [*DIGITS, "zero", "one"]
    assert len({example.key for example in first}) == 12
