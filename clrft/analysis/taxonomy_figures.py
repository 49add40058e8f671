"""The kinds of forgetting as pictures: answers to the old tasks stage by stage, tasks confused, forgetting taken apart.

Every kind has a colour and a hatch, so that it is told apart without colours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from clrft.analysis.figures import GRID, MUTED, RC, legend_columns, of_stream, over_orders
from clrft.analysis.outputs import write_outputs
from clrft.analysis.tables import name_of
from clrft.analysis.taxonomy import GroupKinds, KindReport, shown_outcomes
from clrft.analysis.taxonomy_tables import kinds_to_csv, kinds_to_markdown
from eval.judgement import Failure
from eval.taxonomy import BESIDE

INK = "#222222"
_ACROSS = 4  # panels beside each other
_WRITTEN = 10  # tasks up to which a heatmap's cells hold their numbers
# Colour (Okabe and Ito's, and a light grey for what is right) and hatch of every outcome, in every figure.
OUTCOME_LOOKS: Mapping[Failure, tuple[str, str]] = {
    "none": ("#DDDDDD", ""),
    "same_task": ("#56B4E9", ".."),
    "wrong": ("#56B4E9", ".."),
    "other_task": ("#0072B2", "\\\\"),
    "newest_task": ("#D55E00", "//"),
    "outside_list": ("#F0E442", "xx"),
    "format": ("#000000", ""),
}
# Parts of forgetting: key of the metric, label, colour, hatch, and -1 where it counts against.
PARTS = {
    "By cause": (
        ("forgetting_vocabulary", "the class list", "#E69F00", "..", 1),
        ("forgetting_weights", "the weights", "#0072B2", "\\\\", 1),
    ),
    "By what was lost": (
        ("forgetting_superficial", "superficial", "#F0E442", "xx", 1),
        ("forgetting_essential", "essential", "#882255", "//", 1),
        ("gained", "gained", "#009E73", "", -1),
    ),
}
WHOLE = "the whole (forgetting_diag)"


def write_kinds(report: KindReport, out_dir: Path) -> list[Path]:
    """Write ``kinds.md``, ``kinds.csv`` and the pictures of every stream; returns the files.

    Args:
        report: of at least one run.
        out_dir: made if absent; older files of the same names are replaced.
    """
    texts = {"kinds.md": kinds_to_markdown(report), "kinds.csv": kinds_to_csv(report)}
    pictures = (
        of_stream(name, figure, stream, report.comparison)
        for stream in report.streams()
        for name, figure in kind_figures(report.of_stream(stream), stream).items()
    )
    return write_outputs(out_dir, texts, pictures)


def kind_figures(groups: Sequence[GroupKinds], stream: str) -> dict[str, Figure]:
    """All figures of one stream by file name without ending; those that have something to show."""
    with rc_context(RC):
        made = {
            "kinds_answers": answers_figure(groups, stream),
            "kinds_tasks": confusion_figure(groups, stream),
            "kinds_forgetting": forgetting_figure(groups, stream),
        }
        return {name: figure for name, figure in made.items() if figure is not None}


def answers_figure(groups: Sequence[GroupKinds], stream: str) -> Figure | None:
    """A panel per method: answers to the old tasks after each task, stacked to 100 %; None without old tasks."""
    shown = [one for one in groups if one.old]
    if not shown:
        return None
    figure, axes = _panels(len(shown), 2.5)
    outcomes = shown_outcomes(shown)
    for axis, one in zip(axes.flat, shown, strict=False):
        _draw_answers(axis, one, outcomes)
    for axis in axes[:, 0]:
        axis.set_ylabel("items of old tasks (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    columns = legend_columns(labels, 32 * axes.shape[1])
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.4, handleheight=1.2)
    title = f"{stream}: answers to the old tasks{over_orders([one.group for one in shown])}"
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def confusion_figure(groups: Sequence[GroupKinds], stream: str) -> Figure | None:
    """A heatmap per method on one scale: task of the answer by task of the item; None where no answer tells it."""
    shown = [one for one in groups if one.confusion is not None]
    if not shown:
        return None
    size = len(shown[0].group.runs[0].matrix)
    figure, axes = _panels(len(shown), 0.9 + 2.7 * size / (size + 1 + len(BESIDE)))
    for axis, one in zip(axes.flat, shown, strict=False):
        image = _draw_confusion(axis, one)
    for axis in axes[:, 0]:
        axis.set_ylabel("item of task")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.015, aspect=28)
    bar.set_label("of the task's items (%)")
    bar.outline.set_visible(False)
    title = f"{stream}: whose classes are answered after the last task{over_orders([one.group for one in shown])}"
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def forgetting_figure(groups: Sequence[GroupKinds], stream: str) -> Figure | None:
    """Forgetting of every method taken apart, by cause and by what was lost; None where neither is known."""
    known = {
        title: [one for one in groups if all(one.metrics[part[0]].mean is not None for part in parts)]
        for title, parts in PARTS.items()
    }
    known = {title: shown for title, shown in known.items() if shown}
    if not known:
        return None
    most = max(map(len, known.values()))
    figure = Figure(figsize=(max(9.0, 5.6 * len(known)), 0.5 * most + 2.1), layout="constrained")
    halves = figure.subfigures(1, len(known), squeeze=False)[0]
    for half, (title, shown) in zip(halves, known.items(), strict=True):
        axis = half.subplots()
        _draw_parts(axis, title, shown)
        handles, labels = axis.get_legend_handles_labels()
        half.legend(handles, labels, loc="outside lower center", ncols=2, handlelength=2.4, handleheight=1.2)
    figure.suptitle(f"{stream}: forgetting taken apart{over_orders([one.group for one in groups])}", x=0.01, ha="left")
    return figure


def _panels(count: int, height: float) -> tuple[Figure, Any]:
    """A figure with room for so many panels, the places left over hidden."""
    across = min(count, _ACROSS)
    down = -(-count // across)
    figure = Figure(figsize=(max(2.9 * across, 5.4), height * down + 1.2), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes


def _draw_answers(axis: Axes, one: GroupKinds, outcomes: Mapping[Failure, str]) -> None:
    """Stacked areas over the stages; a bar where there is one stage only, as after joint training."""
    stages = list(one.old)
    bottom = np.zeros(len(stages))
    for outcome, title in outcomes.items():
        means = [one.old[stage][outcome].mean for stage in stages]
        heights = 100 * np.array([np.nan if mean is None else mean for mean in means])
        color, hatch = OUTCOME_LOOKS[outcome]
        if len(stages) > 1:
            axis.fill_between(
                stages, bottom, bottom + heights, fc=color, ec="white", hatch=hatch, lw=0.6, label=title, zorder=2
            )
        else:
            axis.bar(stages, heights, 0.7, bottom, fc=color, ec="white", hatch=hatch, lw=0.6, label=title, zorder=2)
        bottom = bottom + heights
    tasks = len(one.group.runs[0].matrix)
    axis.set_xticks(range(2, tasks + 1))
    axis.set_xlim((2, tasks) if len(stages) > 1 else (tasks - 1, tasks + 1))
    axis.set_ylim(0, 100)
    axis.set_xlabel("after task")
    axis.set_title(name_of(one.group), fontsize=_title_size(one))


def _draw_confusion(axis: Axes, one: GroupKinds) -> AxesImage:
    """One heatmap; what is no task's stands behind a gap. Returns its image for the shared colour bar."""
    assert one.confusion is not None
    percent, size = 100 * one.confusion, len(one.confusion)
    gap = np.full((size, 1), np.nan)
    image = axis.imshow(np.hstack([percent[:, :size], gap, percent[:, size:]]), cmap="cividis", vmin=0, vmax=100)
    places = [*range(size), *range(size + 1, size + 1 + len(BESIDE))]
    if size <= _WRITTEN:
        for (i, j), value in np.ndenumerate(percent):
            color = INK if value > 55 else "white"
            label = "" if np.isnan(value) else f"{value:.0f}"
            axis.text(places[j], i, label, ha="center", va="center", color=color, fontsize=11 - 0.5 * size)
    axis.set_xticks(places, [*(str(j + 1) for j in range(size)), "outside", "format"])
    for tick in axis.get_xticklabels()[size:]:
        tick.set_rotation(90)
    axis.set_yticks(range(size), [str(i + 1) for i in range(size)])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("answered with a class of task")
    axis.set_title(name_of(one.group), fontsize=_title_size(one))
    return image


def _draw_parts(axis: Axes, title: str, shown: Sequence[GroupKinds]) -> None:
    """Bars to the right for what adds to forgetting, to the left for what takes from it, a mark at the whole."""
    places = np.arange(len(shown))
    ahead, behind = np.zeros(len(shown)), np.zeros(len(shown))
    for key, label, color, hatch, sign in PARTS[title]:
        means = [one.metrics[key].mean for one in shown]
        widths = sign * 100 * np.array([np.nan if mean is None else mean for mean in means])
        left = np.where(widths >= 0, ahead, behind)
        axis.barh(places, widths, 0.62, left, fc=color, ec="white", hatch=hatch, lw=0.8, label=label, zorder=2)
        ahead, behind = ahead + np.maximum(widths, 0), behind + np.minimum(widths, 0)
    for place, one in zip(places, shown, strict=True):
        values = [value.value for value in one.metrics["forgetting_diag"].values.values()]
        orders = [100 * value for value in values if value is not None]
        axis.plot(orders, [place + 0.42] * len(orders), ls="", marker="o", ms=2.6, color=MUTED, zorder=3)
        whole = float(np.mean(orders))
        mark = axis.plot([whole], [place], ls="", marker="|", ms=19, mew=2.4, color=INK, zorder=4)[0]
        text = (ahead[place], place), (6, 0)
        axis.annotate(f"{whole:.1f}".replace("-", "−"), *text, textcoords="offset points", va="center", fontsize=9)
    mark.set_label(f"{WHOLE}; dots: orders")
    axis.axvline(0, color="#999999", lw=0.9, zorder=3)
    axis.set_yticks(places, [name_of(one.group) for one in shown])
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel("points")
    axis.set_title(title)
    axis.grid(axis="x", color=GRID)


def _title_size(one: GroupKinds) -> float:
    return 11.5 if len(name_of(one.group)) < 24 else 8.0
