"""Samples of a case to its figures: seconds, ratios, rates, the share of the peak, the floor, memory."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.engine.floor import decoding_weights, floor_seconds
from benchmarks.engine.memory import memory_of
from benchmarks.engine.options import Options
from benchmarks.engine.pairs import Case, Contender, Sample, measured, ratios, spread
from benchmarks.engine.peak import Peak

Figures = dict[str, Any]


def case_figures(case: Case, options: Options, peak: Peak, device: torch.device) -> Figures:
    """Everything measured of a case, as it stands in the JSON file."""
    samples = measured(case, options.rounds, options.warmup, device)
    base = samples.get(case.baseline, [])
    return {
        "title": case.title,
        "axes": case.axes,
        "baseline": case.baseline,
        "contenders": {
            one.name: contender_figures(one, samples[one.name], base, options, peak, device) for one in case.contenders
        },
        "seconds": {name: [sample.seconds for sample in found] for name, found in samples.items()},
    }


def contender_figures(
    one: Contender, found: Sequence[Sample], base: Sequence[Sample], options: Options, peak: Peak, device: torch.device
) -> Figures:
    """Figures of one contender; only the reason where it did not fit."""
    if not found:
        return {"failure": "out of memory"}
    seconds = statistics.median(sample.seconds for sample in found)
    figures: Figures = {
        "seconds": seconds,
        "ratio": spread(ratios(found, base)) if base else None,
        "ratio_of_sums": sum(one.seconds for one in found) / sum(one.seconds for one in base) if base else None,
    }
    figures |= {"parts": parts(found), **rates(found), **counted(one, found, peak)}
    return figures | (memory_of(one, device) if options.memory else {})


def parts(found: Sequence[Sample]) -> dict[str, float]:
    """Median seconds of every part that was watched."""
    return {name: statistics.median(one.turn.parts[name] for one in found) for name in found[0].turn.parts}


def rates(found: Sequence[Sample]) -> Figures:
    """Completion tokens a turn and a second; items a second where items are answered."""
    figures: Figures = {
        "completion_tokens": statistics.median(one.turn.tokens for one in found),
        "completion_tokens_per_second": statistics.median(one.turn.tokens / one.seconds for one in found),
    }
    if found[0].turn.items:
        figures["items_per_second"] = statistics.median(one.turn.items / one.seconds for one in found)
    return figures


def counted(one: Contender, found: Sequence[Sample], peak: Peak) -> Figures:
    """What the meter counted, a turn (mean), and what follows from it; nothing where nothing is counted."""
    if one.policy is None or not all("model_flops" in sample.counts for sample in found):
        return {}
    weights = decoding_weights(one.policy.model)
    flops = [sample.counts["model_flops"] for sample in found]
    floors = [floor_seconds(work, sample.turn, weights, peak) for work, sample in zip(flops, found, strict=True)]
    return {
        "counts": means([sample.counts for sample in found]),
        "flops_per_second": statistics.median(work / sample.seconds for work, sample in zip(flops, found, strict=True)),
        "share_of_peak": statistics.median(
            work / sample.seconds / peak.flops for work, sample in zip(flops, found, strict=True)
        ),
        "floor_seconds": statistics.median(floors),
        "times_floor": statistics.median(sample.seconds / least for sample, least in zip(found, floors, strict=True)),
    }


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every count."""
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
