"""Runs of several processes through the command line: all end with one message when one of them fails."""

import re
import threading
from pathlib import Path

import pytest
import torch.distributed as dist

from clrft.utils import process_watchdog as watchdog
from tests.clrft.faulty_methods import HEAD
from tests.processes import ended, several

RUN = ["stream=digits_cil", "method=sft+unlucky", "seed=1993", "stream.tasks=2", "stream.shots=4"]
RUN += ["stream.test_per_class=1", "train.prompts_per_update=4", "evaluate.probe=0", "run.mlflow=false"]
FAILS = """
    def loss_terms(self, context):
        from methods.distributed import ranks
        if ranks.rank() == 1:
            raise KeyError("lost")
        return {}
"""


def test_an_error_in_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    plugin = tmp_path / "unlucky.py"
    plugin.write_text(HEAD.format(name="unlucky", joins="supervised") + FAILS)
    words = ["-m", "clrft", "run", *RUN, f"run.output={tmp_path / 'runs'}"]
    first, second = ended(several(2, [*words, "--plugin", str(plugin)]), 120)
    assert (first[0], second[0]) == (2, 2)
    said = re.sub(r"\s+", " ", first[2])
    assert "error process 1: method 'unlucky'" in said and "loss_terms: KeyError: 'lost'" in said
    assert "Traceback" not in first[2] + second[2]
    folder = tmp_path / "runs" / "single" / "digits_cil-sft+unlucky-1993"
    assert (folder / "task_00" / "metrics.json").is_file()  # what was finished is kept
    assert not (folder / "task_01").exists()
    assert not (folder.parent / f".{folder.name}.lock").exists()  # and nobody holds it


def test_what_is_for_one_process_is_refused_for_two() -> None:
    ends = ended(several(2, ["-m", "clrft", "list", "methods"]), 60)
    assert [code for code, *_ in ends] == [2, 2]
    assert "2 processes were launched for a command that is for one" in ends[0][2]
    assert ends[1][1] + ends[1][2] == ""


def test_a_process_that_is_done_leaves_no_thread_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would end the process as killed by a signal, if one were inside of it."""
    monkeypatch.setattr(watchdog, "BEAT", 0.0)  # always in the store
    before = set(threading.enumerate())
    done = watchdog.ProcessWatchdog(dist.TCPStore("127.0.0.1", 0, is_master=True), lambda failure: None)
    assert set(threading.enumerate()) > before
    assert done.ended(0, ()) == 0
    assert set(threading.enumerate()) == before
