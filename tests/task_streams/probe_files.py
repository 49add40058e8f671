"""A probe set of all styles over printed glyphs, written for a test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from task_streams.probes.glyphs import HELD_OUT_FONTS, render_glyph

# MMMU's, POPE's and IFEval's own field names, and an open question.
ROWS: tuple[dict[str, Any], ...] = (
    {"id": "c1", "image": "images/three.png", "question": "Which?", "options": ["eight", "three"], "answer": "B"},
    {"question_id": 7, "image": "images/eight.png", "text": "Is there an eight in the image?", "label": "yes"},
    {"key": 1000, "prompt": "Say nothing with a comma.", "instruction_id_list": ["punctuation:no_comma"],
     "kwargs": [{"num_words": None}]},
    {"id": "o1", "images": ["images/three.png", "images/eight.png"], "question": "Sum?", "answers": ["11", "eleven"],
     "rule": "relaxed_all"},
)  # fmt: skip


def write_probes(folder: Path, rows: Sequence[Any] = ROWS, name: str = "general.jsonl") -> Path:
    """Write a probe set with its images; rows that are text are written as they are."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for label in ("three", "eight"):
        Image.fromarray(render_glyph(label, HELD_OUT_FONTS[0])).convert("RGB").save(folder / "images" / f"{label}.png")
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / name).write_text(text + "\n", encoding="utf-8")
    return folder / name
