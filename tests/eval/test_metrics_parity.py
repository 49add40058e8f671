"""Parity with Avalanche (avalanche-lib) on random matrices, for the definitions that both have.

| Avalanche | ours | |
|---|---|---|
| ``Top1_Acc_Stream`` after the last experience | ``last_acc`` | over items |
| its mean over experiences, each over the tasks so far | ``avg_incremental_acc_micro`` | over items |
| ``StreamForgetting`` (``Forgetting``: first value minus last) | ``forgetting_diag`` | RaPO's: from the best value |
| ``StreamBWT`` (``BWT``) | ``bwt`` | |
| ``StreamForwardTransfer`` (``ForwardTransfer``) | ``fwt`` | its "random initialization" is our base |

Avalanche has no ``forgetting`` (from the best value), ``forgetting_chaudhry``, ``intransigence``, ``min_acc``.
Continuum 1.2.7 has more by name, but its ``forgetting`` leaves out task T − 1 and the stage before the last (both loops
end at T − 2), and its ``backward_transfer`` the stage right after a task: neither is the definition that it cites.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from eval.matrix import AccuracyMatrix
from eval.metrics import compute_metrics

COUNT = 1000
SHARED = ("last_acc", "avg_incremental_acc_micro", "forgetting_diag", "bwt", "fwt")


def random_matrices() -> list[dict[str, Any]]:
    """Whole matrices of 2 to 12 tasks with 1 to 60 test items each, and accuracies of the base."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(COUNT):
        size = int(rng.integers(2, 13))
        total = np.tile(rng.integers(1, 61, size), (size, 1))
        correct = rng.integers(0, total + 1)
        found.append({"correct": correct.tolist(), "total": total.tolist(), "base": rng.random(size).tolist()})
    return found


def ours(one: dict[str, Any]) -> dict[str, float]:
    size = len(one["base"])
    matrix = AccuracyMatrix.empty([f"t{j}" for j in range(size)])
    for stage, (correct, total) in enumerate(zip(one["correct"], one["total"], strict=True), start=1):
        matrix = matrix.with_row(stage, dict(enumerate(zip(correct, total, strict=True), start=1)))
    matrix = matrix.with_rows(base=dict(enumerate(one["base"], start=1)))
    return {key: value.value for key, value in compute_metrics(matrix, SHARED).items() if value.value is not None}


def test_the_shared_definitions_agree_with_avalanches_on_random_matrices() -> None:
    matrices = random_matrices()
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("avalanche_metrics.py"))]
    done = subprocess.run(program, input=json.dumps(matrices), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    assert len(theirs) == COUNT
    for one, expected in zip(matrices, theirs, strict=True):
        found = ours(one)
        assert set(found) == set(SHARED) == set(expected)
        for key, value in found.items():
            assert math.isclose(value, expected[key], abs_tol=1e-6), (key, one)
