"""The settings of a run on disk, in the words of this version, whatever version wrote them.

Here are settings that are no more, and those that came later; a method's own that came later have their defaults
(``clrft.config.run_config.with_defaults``). Digests (``clrft/runner/lineage.py``) are of the file as it was written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clrft.utils.plain import read_yaml, sections_of

CONFIG_FILE = "config.yaml"
# Settings that came later, with what runs did before.
LATER: dict[str, dict[str, Any]] = {
    "train": {"optimizer": "auto"},
    "stream": {"prompt": "suite"},
    "model": {"revision": None},
    "evaluate": {"every": 1, "sample": None},
}


def saved_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
        UserError: they cannot be read, or a section is no mapping.
    """
    return in_todays_words(read_yaml(folder / CONFIG_FILE))


def in_todays_words(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that some version wrote.

    Raises:
        UserError: a section is no mapping.
    """
    sections = sections_of(saved)
    if sections["train"].pop("autocast", False):  # of float32 weights, which train.optimizer says now
        sections["train"]["optimizer"], sections["model"]["dtype"] = "adamw_float32", "bfloat16"
    return {**saved, **{name: {**LATER.get(name, {}), **section} for name, section in sections.items()}}
