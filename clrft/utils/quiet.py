"""Keep libraries' own bars, banners, warnings and usage reports out of a user's way; ours are enough."""

import os
import pwd
import tempfile
import warnings

LIBRARIES = r"(torch|transformers|trl|peft|accelerate|datasets|multiprocess|mlflow)(\..*)?"


def quiet_environment() -> None:
    """What must be set before the libraries are imported."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # a container's arbitrary user: libraries ask for its name and its home, and fail without
        os.environ.setdefault("USER", f"user{os.getuid()}")
        os.environ.setdefault("HOME", os.path.join(tempfile.gettempdir(), os.environ["USER"]))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    warnings.filterwarnings("ignore", module=LIBRARIES)


def quiet_libraries() -> None:
    """What can be set only once they are."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", module=LIBRARIES)
