"""The metrics of other suites and papers, by their own names: which of ours each is, or its own formula.

Sources: the paper or the code that each community names. A metric whose cells are missing is undefined, also where a
community would put 0 for them; ``mammoth_forgetting`` alone does as Mammoth does, and says where.
Deliberately absent: what no accuracy matrix holds (Mammoth's Task-IL, PILOT's NME, top-5, Continuum's model size),
and Chaudhry's intransigence, which is of the last task alone.
"""

import math
from dataclasses import dataclass

import numpy as np

from eval.matrix import AccuracyMatrix, FloatArray
from eval.metrics import (
    METRICS,
    Formula,
    Missing,
    Value,
    changes,
    columns,
    compute_metrics,
    evaluated,
    forward_transfer,
    known,
    several,
)


@dataclass(frozen=True, slots=True)
class Column:
    """One metric as a community has it."""

    header: str  # its name there
    by: str | Formula  # key of the same metric in ``METRICS``, or the formula of one that is not there
    definition: str  # formula on one line
    higher_is_better: bool  # direction
    note: str = ""  # what differs from our nearest metric; empty for nothing

    def value(self, matrix: AccuracyMatrix) -> Value:
        """The metric of one run, as a fraction."""
        return compute_metrics(matrix, [self.by])[self.by] if isinstance(self.by, str) else evaluated(self.by, matrix)


@dataclass(frozen=True, slots=True)
class Community:
    """The table of one suite or paper."""

    name: str  # name on the command line
    title: str  # name in titles
    source: str  # paper, or repository and file
    convention: str  # sign and unit of its figures
    columns: tuple[Column, ...]  # its metrics, in its order


def _ours(header: str, key: str, note: str = "") -> Column:
    """A column that is a metric of ours."""
    return Column(header, key, METRICS[key].definition, METRICS[key].higher_is_better, note)


def _mammoth_forgetting(matrix: AccuracyMatrix) -> float:
    # Mammoth's rows hold the tasks so far and the next one; what they lack is 0 there and below every accuracy. So is
    # R[j-1,j] here where it was not tested.
    drops = []
    for j, column in enumerate(columns(matrix)):
        before = np.nan_to_num(matrix.value[j - 1, j]) if j else 0.0
        drops.append(max(before, column.max()) - column[-1])
    return float(np.mean(drops))


def _continuum_forgetting(matrix: AccuracyMatrix) -> float:
    # tasks T - 1 and T, and stages from T - 1 on, are left out of the maxima, yet T - 1 tasks are divided by
    known(_three_tasks(matrix), "R[T,j]", "R[i,j], j<=i<T-1")
    size, last = len(matrix), matrix.value[-1]
    best = [matrix.value[j:-2, j].max() for j in range(size - 2)]
    return float((np.array(best) - last[:-2]).sum() / (size - 1))


def _pair_changes(matrix: AccuracyMatrix, name: str, least: int) -> FloatArray:
    """R[i,j] - R[j,j] of every pair i >= j + least, whose cells are called ``name``. [pairs]"""
    cells = known(several(matrix), name)
    return cells - known(matrix, "R[j,j]")[np.tril_indices(len(matrix), -least)[1]]


def _three_tasks(matrix: AccuracyMatrix) -> AccuracyMatrix:
    if len(matrix) < 3:
        raise Missing("needs at least three tasks: Continuum 1.2.7 sums nothing below and returns 0")
    return matrix


_ALL_TASKS = "(1/T) Σ_j (R[T,j] − R[j,j])"
_WITH_LAST = "divided by T, not by T − 1: the last task, whose change is 0, counts; bwt · (T − 1)/T"
_LATER = "named so in later work on CoIN's tasks"
_SEEN = "of all items that were tested at a stage; here of the tasks so far"
_CONTINUUM = (
    _ours("accuracy", "last_acc", _SEEN),
    _ours("average_incremental_accuracy", "avg_incremental_acc_micro", _SEEN),
    Column(
        "accuracy_A",
        lambda m: known(m, "R[i,j], j<=i").mean(),
        "2/(T(T+1)) Σ_i Σ_{j≤i} R[i,j]",
        True,
        "late stages weigh more than in avg_incremental_acc",
    ),
)

_ALL = (
    Community(
        "coin",
        "CoIN",
        "arXiv 2403.08350",
        "figures in percent; BWT is negative where accuracy was lost",
        (
            _ours("MFT", "learning_acc", _LATER),
            _ours("MFN", "mean_final_acc", _LATER),
            _ours("MAA", "avg_incremental_acc"),
            Column("BWT", lambda m: changes(m).mean(), _ALL_TASKS, True, _WITH_LAST),
        ),
    ),
    Community(
        "mcitlib",
        "MCITlib",
        "arXiv 2508.07307, Ghy0501/MCITlib",
        "figures in percent; BWT is negative where accuracy was lost",
        (
            _ours("MFT", "learning_acc"),
            _ours("MFN", "mean_final_acc"),
            _ours("MAA", "avg_incremental_acc"),
            _ours("BWT", "bwt"),
        ),
    ),
    Community(
        "mammoth",
        "Mammoth",
        "aimagelab/mammoth, utils/metrics.py and utils/training.py",
        "figures in percent; Forgetting is positive and Backward Transfer negative where accuracy was lost",
        (
            _ours("Accuracy", "mean_final_acc"),
            _ours("Backward Transfer", "bwt"),
            Column(
                "Forgetting",
                _mammoth_forgetting,
                "(1/(T−1)) Σ_{j<T} (max_{j−1≤i≤T} R[i,j] − R[T,j])",
                False,
                "R[j−1,j], from before task j was learned, may be the best; where it was not tested "
                "(evaluate.future=false) it counts as 0, which leaves forgetting",
            ),
            _ours(
                "Forward Transfer",
                "fwt",
                "b_j is the base's accuracy; there that right before training on task j "
                "(until August 2024 an untrained network's)",
            ),
        ),
    ),
    Community(
        "pilot",
        "PILOT",
        "LAMDA-CL/LAMDA-PILOT, trainer.py",
        "figures in percent, each cell rounded to two decimals first; Forgetting is positive where accuracy was lost",
        (
            _ours("CNN top1", "last_acc"),
            _ours("Average Accuracy (CNN)", "avg_incremental_acc_micro"),
            _ours("Forgetting (CNN)", "forgetting"),
        ),
    ),
    Community(
        "avalanche",
        "Avalanche 0.6",
        "ContinualAI/avalanche, avalanche/evaluation/metrics",
        "figures as fractions; StreamForgetting is positive where accuracy was lost, StreamBWT is its opposite",
        (
            _ours("Top1_Acc_Stream", "last_acc"),
            _ours("StreamForgetting", "forgetting_diag", "from the accuracy right after a task, not from the best"),
            _ours("StreamBWT", "bwt"),
            _ours("StreamForwardTransfer", "fwt"),
        ),
    ),
    Community(
        "chaudhry",
        "Chaudhry et al. 2018",
        "arXiv 1801.10112",
        "figures as fractions; F is positive where accuracy was lost, and negative where the last task helped",
        (
            _ours("A_k", "mean_final_acc"),
            _ours("F_k", "forgetting_chaudhry", "maxima over the stages that have learned the task"),
            _ours(
                "F_k from task 1", "forgetting_chaudhry_all", "the equation as written: maxima over all stages before T"
            ),
        ),
    ),
    Community(
        "continuum",
        "Continuum 1.2.7 (its newest release)",
        "PyPI continuum 1.2.7, continuum/metrics/metrics.py",
        "figures as fractions; its repository has other formulas since (continuum_master)",
        (
            *_CONTINUUM,
            Column(
                "backward_transfer",
                lambda m: _pair_changes(_three_tasks(m), "R[i,j], j<i-1", 2).sum() / math.comb(len(m), 2),
                "2/(T(T−1)) Σ_i Σ_{j≤i−2} (R[i,j] − R[j,j])",
                True,
                "off by one: the stage after task j + 1 is left out; and over all stages, not the last one as bwt",
            ),
            Column(
                "forward_transfer",
                lambda m: known(several(m), "R[i,j], j<i").mean(),
                "2/(T(T−1)) Σ_i Σ_{j<i} R[i,j]",
                True,
                "accuracy on old tasks, no transfer to future ones",
            ),
            Column(
                "forgetting",
                _continuum_forgetting,
                "(1/(T−1)) Σ_{j≤T−2} (max_{j≤i≤T−2} R[i,j] − R[T,j])",
                False,
                "off by one: task T − 1 and stage T − 1 are left out, yet T − 1 tasks are divided by",
            ),
        ),
    ),
    Community(
        "continuum_master",
        "Continuum's repository, after 1.2.7",
        "Continvvm/continuum, continuum/metrics/metrics.py",
        "figures as fractions; no release has these formulas",
        (
            *_CONTINUUM,
            Column(
                "backward_transfer",
                lambda m: _pair_changes(m, "R[i,j], j<i", 1).mean(),
                "2/(T(T−1)) Σ_i Σ_{j<i} (R[i,j] − R[j,j])",
                True,
                "over all stages, not the last one as bwt",
            ),
            Column(
                "forward_transfer",
                lambda m: known(several(m), "R[j-1,j]").mean(),
                "(1/(T−1)) Σ_{j≥2} R[j−1,j]",
                True,
                "fwt without b_j",
            ),
            _ours("forgetting", "forgetting_chaudhry"),
        ),
    ),
    Community(
        "gem",
        "GEM",
        "arXiv 1706.08840; Backward and Forward: facebookresearch/GradientEpisodicMemory, metrics/metrics.py",
        "figures as fractions; BWT is negative where accuracy was lost",
        (
            _ours("ACC", "mean_final_acc"),
            _ours("BWT", "bwt"),
            _ours("FWT", "fwt", "b_j is the base's accuracy; there an untrained network's"),
            Column("Backward", lambda m: changes(m).mean(), _ALL_TASKS, True, f"the released code: {_WITH_LAST}"),
            Column(
                "Forward",
                lambda m: forward_transfer(m) * (len(m) - 1) / len(m),
                "(1/T) Σ_{j≥2} (R[j−1,j] − b_j)",
                True,
                "the released code: divided by T, the first task counts as 0; fwt · (T − 1)/T",
            ),
        ),
    ),
    Community(
        "rapo",
        "RaPO",
        "arXiv 2605.09640",
        "figures in percent; F is never negative",
        (_ours("A", "last_acc"), _ours("F", "forgetting")),
    ),
)

COMMUNITIES: dict[str, Community] = {community.name: community for community in _ALL}
