"""A comparison as pictures: accuracy matrices, curves over stages, class orders, training; PNG files.

Colours are Okabe and Ito's, told apart by colour-blind readers; every method also has its own marker or dash.
Deliberately absent: pyplot and its global state.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from clrft.analysis.compare import FLOOR, Group
from clrft.analysis.table import show
from eval.matrix import AccuracyMatrix, FloatArray
from eval.metrics import accuracy_so_far, forgetting_by_stage, metric_of

TRAINING = {"reward": "task reward", "drift": "drift D (nats per token)", "kl": "KL to the base"}
MOST_DRAWN = 12  # methods in one picture
MOST_WRITTEN = 10  # tasks up to which a heatmap's cells hold their numbers
_SMOOTH = 5  # optimizer steps in the running mean of training curves
INK, MUTED, GRID = "#222222", "#666666", "#e3e3e3"
RC: Any = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.titlesize": 13,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "text.parse_math": False,  # a name with two dollar signs is no formula
}


@dataclass(frozen=True, slots=True)
class Style:
    """How one method is drawn in every figure."""

    color: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]]


_KNOWN = {
    FLOOR: Style("#555555", "", (0, (4, 3))),
    "sft": Style("#D55E00", "o", "-"),
    "grpo": Style("#0072B2", "s", "-"),
    "rapo": Style("#009E73", "D", "-"),
    "rapo_rr": Style("#CC79A7", "^", "-"),
    "rapo_ctan": Style("#E69F00", "v", "-"),
    "joint_sft": Style("#000000", "*", "-"),
    "joint_grpo": Style("#56B4E9", "*", "-"),
}
_OTHERS = ("#8C6D31", "#882255", "#117733", "#332288", "#999933")
_MARKERS = ("P", "X", "h", "<", ">", "p")
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1)))


@rc_context(RC)
def comparison_figures(groups: Sequence[Group], stream: str) -> dict[str, Figure]:
    """Figures of one stream's groups by file name without ending; ``training`` only when something was trained."""
    count, groups = len(groups), drawn(groups)
    if len(groups) < count:
        named = metric_of(groups[0].final_metric).title
        stream = f"{stream} ({len(groups)} of {count}, by {named}; table.md has all)"
    made = {
        "matrices": matrices_figure(groups, stream),
        "curves": curves_figure(groups, stream),
        "orders": orders_figure(groups, stream),
        "training": training_figure(groups, stream),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def drawn(groups: Sequence[Group]) -> list[Group]:
    """The groups of a readable picture: all, or the floor, joint training and the best by the final metric."""
    if len(groups) <= MOST_DRAWN:
        return list(groups)
    always = [group for group in groups if group.method == FLOOR or group.joint]
    others = [group for group in groups if group not in always]
    others.sort(key=lambda one: -1.0 if (mean := one.mean(one.final_metric)) is None else mean, reverse=True)
    best = others[: max(1, MOST_DRAWN - len(always))]
    floors = [group for group in always if group.method == FLOOR]
    return [*floors, *best, *(group for group in always if group.joint)]


def styles(groups: Sequence[Group]) -> dict[str, Style]:
    """Style by label: a known method keeps its own in every figure; settings of one method differ by dash."""
    chosen: dict[str, Style] = {}
    methods = list(dict.fromkeys(group.method for group in groups))
    others = zip(itertools.cycle(_OTHERS), itertools.cycle(_MARKERS), strict=True)
    for method in methods:
        first = _KNOWN[method] if method in _KNOWN else Style(*next(others), "-")
        for number, group in enumerate(group for group in groups if group.method == method):
            dash = _DASHES[number % len(_DASHES)] if number else first.dash
            chosen[group.label] = Style(first.color, first.marker, dash)
    return chosen


def panels(count: int, across: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure of ``count`` panels, at most ``across`` beside each other; size in inches, options of ``subplots``."""
    down = -(-count // across)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(down, min(count, across), squeeze=False, **options)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes


def finish(
    figure: Figure, title: str, axes: Iterable[Axes] = (), characters: int = 130, last: str = "", **options: Any
) -> Figure:
    """Give a figure its title, and a legend below it that names every label of some axes once.

    ``characters`` fit beside each other in the legend; the label ``last`` stands at its end.
    """
    named = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    named |= {last: named.pop(last)} if last in named else {}
    if named:
        longest = max(map(len, named)) + 6  # with its line
        columns = max(1, min(len(named), characters // longest))
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns, **options)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def matrices_figure(groups: Sequence[Group], stream: str) -> Figure:
    """Accuracy matrices side by side on one scale, each the mean over class orders."""
    rows = -(-len(groups) // 5)  # at most five beside each other
    columns = -(-len(groups) // rows)
    figure, axes = panels(len(groups), columns, max(2.75 * columns + 0.9, 6.0), 3.45 * rows + 0.4)
    for axis, group in zip(axes.flat, groups, strict=False):
        # by position of the task, NaN where an order lacks the cell [T, T]
        percent = 100 * np.mean([run.matrix.value for run in group.runs], axis=0)
        size = len(percent)
        axis.set_facecolor("#f3f3f3")  # what was not evaluated
        image = heatmap(axis, percent, {task: str(task + 1) for task in range(size)}, 13)
        axis.set_xticks(np.arange(-0.5, size), minor=True)
        axis.set_yticks(np.arange(-0.5, size), minor=True)
        axis.grid(which="minor", color="white", lw=1.2)
        axis.tick_params(which="minor", length=0)
        axis.set_xlabel("on task")
        last, lost = (show(group.metrics.get(key)) for key in (group.final_metric, "forgetting"))
        axis.set_title(group.label, pad=30, fontsize=12 if len(group.label) < 22 else 8.5)
        axis.text(0, 1.03, f"last {last}\nforgetting {lost}", transform=axis.transAxes, fontsize=8.5, color=MUTED)
    colour_bar(figure, axes, image, f"{groups[0].measure} after task", f"{groups[0].measure} (%)", 0.75)
    return finish(figure, f"{stream}: {groups[0].measure} on each task after each task{over_orders(groups)}")


def heatmap(axis: Axes, percent: FloatArray, ticks: Mapping[int, str], font: float) -> AxesImage:
    """Draw a matrix of tasks with names below its columns, and its numbers if they are few; for ``colour_bar``."""
    size = len(percent)
    image = axis.imshow(percent, cmap="cividis", vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(percent) if size <= MOST_WRITTEN else ():
        if not np.isnan(value):
            color = INK if value > 55 else "white"
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", color=color, fontsize=font - 0.5 * size)
    axis.set_xticks([*ticks], [*ticks.values()])
    axis.set_yticks(range(size), [str(task + 1) for task in range(size)])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return image


def colour_bar(figure: Figure, axes: Any, image: AxesImage, down: str, label: str, shrink: float) -> None:
    """The scale that all heatmaps of a figure share, and what their rows are."""
    for axis in axes[:, 0]:
        axis.set_ylabel(down)
    bar = figure.colorbar(image, ax=axes, shrink=shrink, pad=0.015, aspect=28)
    bar.set_label(label)
    bar.outline.set_visible(False)


def curves_figure(groups: Sequence[Group], stream: str) -> Figure:
    """Accuracy on the tasks so far, and forgetting, after each stage.

    Bands are ± one standard deviation over class orders. The frozen base forgets too: its prompts list
    ever more classes.
    """
    figure, ((left, right),) = panels(2, 2, 10.6, 4.3)
    measure = groups[0].measure_so_far
    left.set_title(f"{measure[0].upper()}{measure[1:]} on the tasks so far (%)")
    right.set_title("Forgetting of the earlier tasks (points)")
    look, tasks = styles(groups), len(groups[0].runs[0].matrix)
    # before the second task there is nothing to forget
    for axis, curve, first in ((left, accuracy_so_far, 1), (right, forgetting_by_stage, min(2, tasks))):
        for group in groups:
            style, (mean, std) = look[group.label], curve_over_orders(group, curve)
            stages, known = np.arange(1, len(mean) + 1), ~np.isnan(mean)
            label = f"{group.label} (frozen base)" if group.method == FLOOR else group.label
            mark: Any = {"marker": style.marker or None, "ms": 11 if style.marker == "*" else 6, "mec": "white"}
            mark |= {"color": style.color, "ls": style.dash, "label": label, "lw": 2, "mew": 0.8, "zorder": 3}
            axis.plot(stages[known], 100 * mean[known], **mark)
            if std is not None and not group.joint and group.method != FLOOR:
                low, high = 100 * (mean - std)[known], 100 * (mean + std)[known]
                axis.fill_between(stages[known], low, high, color=style.color, alpha=0.13, lw=0)
        axis.set(xticks=range(first, tasks + 1), xlim=(first - 0.15, tasks + 0.15), xlabel="after task")
        axis.grid(axis="y", color=GRID)
    left.set_ylim(bottom=0)
    right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
    return finish(figure, f"{stream}{over_orders(groups, ' ± standard deviation')}", [left])


def orders_figure(groups: Sequence[Group], stream: str) -> Figure:
    """Final result and forgetting of every class order; a thin line joins the runs of one order."""
    figure, ((left, right),) = panels(2, 2, min(max(8.0, 2.2 * len(groups)), 16.0), 4.3)
    final = groups[0].final_metric
    _draw_orders(left, groups, final, f"{metric_of(final).title} (%)")
    _draw_orders(right, groups, "forgetting", "Forgetting (points)")
    floor = next((group.mean(final) for group in groups if group.method == FLOOR), None)
    if floor is not None:
        left.axhline(100 * floor, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    return finish(figure, f"{stream}: every class order; bar = mean, thin line = one order")


def training_figure(groups: Sequence[Group], stream: str) -> Figure | None:
    """Reward, drift and KL over training, mean over class orders; None when no run recorded any.

    Joint training is left out: it does not go task by task.
    """
    groups = [group for group in groups if not group.joint]
    curves = {key: {one.label: curve for one in groups if (curve := _training_curve(one, key))} for key in TRAINING}
    shown = [key for key in TRAINING if curves[key]]
    if not shown:
        return None
    figure, (axes,) = panels(len(shown), len(shown), 4.4 * len(shown) + 0.6, 4.0)
    look = styles(groups)
    tasks = len(groups[0].runs[0].matrix)
    for axis, key in zip(axes, shown, strict=True):
        for label, (x, mean, std) in curves[key].items():
            axis.plot(x, mean, color=look[label].color, ls=look[label].dash, lw=1.8, label=label, zorder=3)
            if std is not None:
                axis.fill_between(x, mean - std, mean + std, color=look[label].color, alpha=0.13, lw=0)
        for boundary in range(1, tasks):
            axis.axvline(boundary, color="#bbbbbb", lw=0.9, zorder=1)
        axis.set_xticks(np.arange(tasks) + 0.5, [str(task + 1) for task in range(tasks)])
        axis.tick_params(axis="x", length=0)
        axis.set(title=TRAINING[key], xlim=(0, tasks), xlabel="training on task")
        axis.grid(axis="y", color=GRID)
    return finish(figure, f"{stream}: training{over_orders(groups)}, running mean of {_SMOOTH} steps", axes)


def curve_over_orders(
    group: Group, curve: Callable[[AccuracyMatrix], FloatArray]
) -> tuple[FloatArray, FloatArray | None]:
    """A curve's mean over class orders and its sample standard deviation, None for one order. [T], [T]"""
    values: FloatArray = np.array([curve(run.matrix) for run in group.runs])
    return values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else None


def _draw_orders(axis: Axes, groups: Sequence[Group], key: str, title: str) -> None:
    look = styles(groups)
    shown = [group for group in groups if group.mean(key) is not None]
    percent = [{seed: 100 * value for seed, value in group.values(key).items()} for group in shown]
    for seed in sorted({run.seed for group in shown for run in group.runs}):
        points = [(x, values[seed]) for x, values in enumerate(percent) if seed in values]
        axis.plot(*zip(*points, strict=True), color="#bbbbbb", lw=0.9, zorder=2)
    for x, (group, values) in enumerate(zip(shown, percent, strict=True)):
        color, marker = look[group.label].color, look[group.label].marker or "o"
        size = 150 if marker == "*" else 46
        axis.scatter(
            [x] * len(values), [*values.values()], s=size, c=color, marker=marker, ec="white", lw=0.8, zorder=4
        )
        axis.hlines(100 * (group.mean(key) or 0.0), x - 0.27, x + 0.27, color=color, lw=3, zorder=3)
    long = any(len(group.label) > 12 for group in shown) or len(shown) > 5
    axis.set_xticks(range(len(shown)), [group.label for group in shown], rotation=25 if long else 0)
    if long:
        for tick in axis.get_xticklabels():
            tick.set_horizontalalignment("right")
    axis.set(xlim=(-0.6, len(shown) - 0.4), title=title)
    low, high = axis.get_ylim()
    axis.set_ylim(min(0.0, low), high + 0.04 * (high - low))
    axis.grid(axis="y", color=GRID)


def _training_curve(group: Group, key: str) -> tuple[FloatArray, FloatArray, FloatArray | None] | None:
    """Tasks trained, mean over orders of the smoothed value, its standard deviation; None if not recorded."""
    x: list[FloatArray] = []
    y: list[FloatArray] = []
    for stage in range(1, len(group.runs[0].matrix) + 1):
        series = [[row[key] for row in run.steps(stage) if key in row] for run in group.runs if stage in run.stages()]
        steps = min((len(one) for one in series), default=0)
        if steps == 0 or len(series) < len(group.runs):
            continue
        x.append(stage - 1 + np.arange(1, steps + 1) / steps)
        # running means: of each value and up to _SMOOTH - 1 before it
        y.append(np.array([[np.mean(one[max(0, i - _SMOOTH) : i]) for i in range(1, steps + 1)] for one in series]))
        x.append(np.array([np.nan]))  # a gap at the boundary: a new task is a new problem
        y.append(np.full((len(series), 1), np.nan))
    if not x:
        return None
    values = np.concatenate(y, axis=1)
    return np.concatenate(x), values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else None


def over_orders(groups: Sequence[Group], spread: str = "") -> str:
    """Words for what was averaged, e.g. ``, mean over 3 class orders``."""
    count = max(len(group.runs) for group in groups)
    return ", one class order" if count == 1 else f", mean{spread} over {count} class orders"
