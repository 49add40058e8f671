"""Avalanche's own stream metrics of accuracy matrices: JSON from stdin to stdout.

A program of its own, for importing Avalanche changes torch's ``Dataset`` for the whole process.
A matrix is ``{"correct": [[…]], "total": [[…]], "base": […]}``; every cell of it was evaluated.
"""

import json
import statistics
import sys

import torch
from avalanche.evaluation.metrics import Accuracy
from avalanche.evaluation.metrics.forgetting_bwt import BWT, Forgetting
from avalanche.evaluation.metrics.forward_transfer import ForwardTransfer


def stream_accuracy(correct: list[int], total: list[int]) -> float:
    """Top1_Acc_Stream: accuracy over all items of the tasks given, fed as predictions."""
    metric = Accuracy()
    for right, items in zip(correct, total, strict=True):
        truth = torch.zeros(items, dtype=torch.long)
        metric.update((torch.arange(items) >= right).long(), truth)
    return float(metric.result())


def metrics_of(matrix: dict[str, list[list[int]]], base: list[float]) -> dict[str, float]:
    """Avalanche's values by the key of ours that they are compared with."""
    correct, total = matrix["correct"], matrix["total"]
    value = [[c / n for c, n in zip(*rows, strict=True)] for rows in zip(correct, total, strict=True)]
    size = len(value)
    forgetting, bwt, transfer = Forgetting(), BWT(), ForwardTransfer()
    for task in range(size):
        transfer.update(task, base[task], initial=True)
    for stage in range(size):
        for task in range(stage + 1):  # the first value of a task is that right after learning it
            for metric in (forgetting, bwt):
                metric.update(task, value[stage][task], initial=task == stage)
        if stage + 1 < size:
            transfer.update(stage + 1, value[stage][stage + 1])
    return {
        "last_acc": stream_accuracy(correct[-1], total[-1]),
        "avg_incremental_acc_micro": statistics.fmean(
            stream_accuracy(correct[i][: i + 1], total[i][: i + 1]) for i in range(size)
        ),
        "forgetting_diag": statistics.fmean(forgetting.result().values()),
        "bwt": statistics.fmean(bwt.result().values()),
        "fwt": statistics.fmean(transfer.result().values()),
    }


if __name__ == "__main__":
    json.dump([metrics_of(one, one["base"]) for one in json.load(sys.stdin)], sys.stdout)
