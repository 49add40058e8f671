"""The embedded base model: a tiny Qwen2-VL that knows printed glyphs. ``scripts/base_model`` made it."""

from pathlib import Path


def default_model_path() -> Path:
    """Folder of the shipped model, in hub format; weights in bfloat16."""
    return Path(__file__).parent / "tiny"
