"""What every test runs under: no network, no GPU, no tracking but its own, few threads."""

import gc
import os
import signal
import threading
from collections.abc import Iterator

import pytest

# Before anything imports torch, transformers, MLflow or matplotlib: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["MPLBACKEND"] = "Agg"
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CLRFT_TEST_GPU", "")
os.environ.pop("MLFLOW_TRACKING_URI", None)
if threading.current_thread() is threading.main_thread():
    # A shell's background jobs ignore interrupts, and so would the programs that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core already
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """Garbage collections, of which every trainer asks for one, pass over what the libraries have made by now."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def plugins_of_one_test() -> Iterator[None]:
    """Methods of plugin files are forgotten after a test: another one may have a method of the same name."""
    from methods import registry

    before = dict(registry._loaded)
    yield
    registry._loaded.clear()
    registry._loaded.update(before)
