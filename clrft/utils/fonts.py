"""Fonts for names in any script: DejaVu Sans, which matplotlib ships, else an installed one that has the letters."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font

from task_streams.errors import shown

SHIPPED = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def font_file(text: str, bold: bool = False) -> Path:
    """The file of a font that has every letter of a text; the shipped one where none does."""
    own = SHIPPED / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    letters = _letters(text)
    return own if letters <= _glyphs(own) else _installed(letters) or own


def font_note(texts: Iterable[str]) -> str:
    """A sentence about letters that no font here has, and what to install; empty where all can be drawn."""
    lacking: set[int] = set()
    for text in texts:
        lacking |= _letters(text) - _glyphs(font_file(text))
    if not lacking:
        return ""
    return (
        f"no installed font has {shown([chr(letter) for letter in sorted(lacking)], 8)}: contact sheets and pictures "
        "show empty squares in their place. Install a font that has them, e.g. Noto Sans CJK (Debian and Ubuntu: "
        "fonts-noto-cjk) for Chinese, Japanese and Korean."
    )


def _letters(text: str) -> frozenset[int]:
    """Code points of a text that are drawn."""
    return frozenset(ord(letter) for letter in text if letter.isprintable() and not letter.isspace())


@cache
def _glyphs(path: Path) -> frozenset[int]:
    """Code points that a font has."""
    return frozenset(FT2Font(str(path)).get_charmap())


@cache
def _installed(letters: frozenset[int]) -> Path | None:
    """An installed font with these code points, upright and of usual weight where there is a choice."""
    fonts = sorted(fontManager.ttflist, key=lambda one: (one.style != "normal", one.weight != 400, one.name, one.fname))
    files = dict.fromkeys(Path(one.fname) for one in fonts if "LastResort" not in one.fname)
    return next((path for path in files if path.is_file() and letters <= _glyphs(path)), None)
