"""The settings of a run on disk, in the words of this version, whatever version wrote them.

What was not there yet has its default, which is what runs did without it; ``in_todays_words`` tells what became of
settings that are no more. Digests (``clrft/lineage.py``) are of the file as it was written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clrft.config import Values, with_defaults
from clrft.plain import read_yaml, sections_of
from methods.settings import WIDE

CONFIG_FILE = "config.yaml"


def saved_settings(folder: Path) -> Values:
    """The settings of the run in a folder.

    Raises:
        UserError: they cannot be read, or a section is no mapping.
    """
    return in_todays_words(read_yaml(folder / CONFIG_FILE))


def in_todays_words(saved: Mapping[str, Any]) -> Values:
    """Settings that some version wrote.

    Raises:
        UserError: a section is no mapping.
    """
    sections = sections_of(saved)
    if sections["train"].pop("autocast", False):  # of float32 weights, which train.optimizer says now
        sections["train"]["optimizer"], sections["model"]["dtype"] = WIDE, "bfloat16"
    return {**saved, **with_defaults(sections)}
