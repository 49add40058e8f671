"""Pictures of the studies of a comparison: what rewards were made of, forgetting taken apart, quality against cost,
drift.

Every kind of answer has a colour and a hatch, so that it is told apart without colours; methods look as in a
comparison's other pictures (``clrft.analysis.figures``). A picture that has nothing to show is None or left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from clrft.analysis.compare import FLOOR
from clrft.analysis.costs import HOUR, GroupCost
from clrft.analysis.drift import SPREADS, Relation, StreamStudy
from clrft.analysis.figures import GRID, INK, MUTED, RC, Style, colour_bar, finish, heatmap, over_orders, panels, styles
from clrft.analysis.rewards import PARTS_OF_REWARDS, SHAPED, Figure, GroupRewards
from clrft.analysis.taxonomy import GroupTaxonomy, shown_outcomes
from clrft.runs.layout import CPU, GPU, TRAIN
from eval.judgement import Failure
from eval.metrics import metric_of
from eval.taxonomy import BESIDE

_COMPONENT_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#332288")
_SHAPER_COLORS = ("#D55E00", "#E69F00", "#CC79A7", "#F0E442", "#882255", "#999933", "#8C6D31", "#117733")
_ACROSS = 4  # panels beside each other
_LEAST = 3  # tasks that a panel of rewards has room for, so that bars are not wide
_SUM = "what the learner gets"
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
# Figure of the cost, its unit in numbers of it, and the axis's title.
COSTS = (
    ("model_flops", 1.0, "model operations of the training"),
    (CPU, HOUR, "CPU hours of the training"),
    (GPU, HOUR, "GPU hours of the training"),
)
DRIFTS = {
    "kl_base_forward": "forward KL from the base",
    "kl_base_reverse": "reverse KL to the base",
    "kl_prev_forward": "forward KL from the previous policy",
    "drift_prev": "drift D from the previous policy",
}


@rc_context(RC)
def rewards_figure(groups: Sequence[GroupRewards], stream: str) -> Picture:
    """A panel per method: mean rewards of each task stacked, what was taken away below zero, a mark at their sum."""
    across = min(len(groups), _ACROSS)
    down = -(-len(groups) // across)
    picture, axes = panels(len(groups), across, max(2.9 * across, 5.2), 2.7 * down + 1.0, sharey=True)
    colors = {  # of a component the same in every picture
        Figure("component", name): _COMPONENT_COLORS[place % len(_COMPONENT_COLORS)]
        for place, name in enumerate(PARTS_OF_REWARDS)
    }
    for place, name in enumerate(dict.fromkeys(name for one in groups for name in one.shapers)):
        colors[Figure("added", name)] = _SHAPER_COLORS[place % len(_SHAPER_COLORS)]
    for axis, one in zip(axes.flat, groups, strict=False):
        _draw_rewards(axis, one, colors)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean reward")
    title = f"{stream}: what rewards were made of{over_orders([one.group for one in groups])}"
    return finish(picture, title, axes.flat, 32 * across, last=_SUM)


def _draw_rewards(axis: Axes, one: GroupRewards, colors: Mapping[Figure, str]) -> None:
    above, below = np.zeros(len(one.tasks)), np.zeros(len(one.tasks))
    for figure in [Figure("component", name) for name in one.components] + [Figure("added", x) for x in one.shapers]:
        heights = np.array([figures[figure].mean for figures in one.tasks.values()], dtype=np.float64)
        bottoms, known = np.where(heights >= 0, above, below), np.flatnonzero(~np.isnan(heights))
        label = figure.name if figure.kind == "component" else f"added by {figure.name}"
        look: Any = {"color": colors[figure], "ec": "white", "lw": 0.8, "label": label, "zorder": 2}
        axis.bar(known, heights[known], 0.72, bottoms[known], **look)  # what was not measured is not drawn
        above, below = above + np.fmax(heights, 0), below + np.fmin(heights, 0)
    totals = np.array([figures[SHAPED].mean for figures in one.tasks.values()], dtype=np.float64)
    if not np.isnan(totals).all():
        axis.plot(range(len(totals)), totals, color=INK, ls="", marker="_", ms=15, mew=2, label=_SUM)
    axis.axhline(0, color="#999999", lw=0.9, zorder=3)
    axis.set_xticks(range(len(one.tasks)), [one.task_name(task) for task in one.tasks])
    axis.tick_params(axis="x", length=0)
    middle, half = (len(one.tasks) - 1) / 2, max(len(one.tasks), _LEAST) / 2
    axis.set(xlim=(middle - half, middle + half), xlabel="training on task")
    axis.set_title(one.group.label, fontsize=11.5 if len(one.group.label) < 24 else 8.5)
    axis.grid(axis="y", color=GRID)


def taxonomy_figures(groups: Sequence[GroupTaxonomy], stream: str) -> dict[str, Picture]:
    """Pictures of one stream by file name without ending."""
    made = {
        "kinds_answers": answers_figure(groups, stream),
        "kinds_tasks": confusion_figure(groups, stream),
        "kinds_forgetting": forgetting_figure(groups, stream),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


@rc_context(RC)
def answers_figure(groups: Sequence[GroupTaxonomy], stream: str) -> Picture | None:
    """A panel per method: answers to the old tasks after each task, stacked to 100 %; None without old tasks."""
    shown = [one for one in groups if one.old]
    if not shown:
        return None
    across = min(len(shown), _ACROSS)
    figure, axes = panels(len(shown), across, max(2.9 * across, 5.4), 2.5 * -(-len(shown) // across) + 1.2)
    outcomes = shown_outcomes(shown)
    for axis, one in zip(axes.flat, shown, strict=False):
        _draw_answers(axis, one, outcomes)
    for axis in axes[:, 0]:
        axis.set_ylabel("items of old tasks (%)")
    title = f"{stream}: answers to the old tasks{over_orders([one.group for one in shown])}"
    return finish(figure, title, [axes[0, 0]], 32 * across, handlelength=2.4, handleheight=1.2)


@rc_context(RC)
def confusion_figure(groups: Sequence[GroupTaxonomy], stream: str) -> Picture | None:
    """A heatmap per method on one scale: task of the answer by task of the item; None where no answer tells it."""
    shown = [one for one in groups if one.confusion is not None]
    if not shown:
        return None
    size = len(shown[0].group.runs[0].matrix)
    across = min(len(shown), _ACROSS)
    height = (0.9 + 2.7 * size / (size + 1 + len(BESIDE))) * -(-len(shown) // across) + 1.2
    figure, axes = panels(len(shown), across, max(2.9 * across, 5.4), height)
    for axis, one in zip(axes.flat, shown, strict=False):
        # what is no task's stands behind a gap
        percent = np.insert(100 * np.asarray(one.confusion), size, np.nan, axis=1)
        ticks = {task: str(task + 1) for task in range(size)} | {size + 1: "outside", size + 2: "format"}
        image = heatmap(axis, percent, ticks, 11)
        for tick in axis.get_xticklabels()[size:]:
            tick.set_rotation(90)
        axis.set_xlabel("answered with a class of task")
        axis.set_title(one.group.name, fontsize=11.5 if len(one.group.name) < 24 else 8.0)
    colour_bar(figure, axes, image, "item of task", "of the task's items (%)", 0.8)
    title = f"{stream}: whose classes are answered after the last task{over_orders([one.group for one in shown])}"
    return finish(figure, title)


@rc_context(RC)
def forgetting_figure(groups: Sequence[GroupTaxonomy], stream: str) -> Picture | None:
    """Forgetting of every method taken apart, by cause and by what was lost; None where neither is known."""
    known = {
        title: [one for one in groups if all(one.metrics[part[0]].mean is not None for part in parts)]
        for title, parts in PARTS.items()
    }
    known = {title: shown for title, shown in known.items() if shown}
    if not known:
        return None
    most = max(map(len, known.values()))
    figure = Picture(figsize=(max(9.0, 5.6 * len(known)), 0.5 * most + 2.1), layout="constrained")
    halves = figure.subfigures(1, len(known), squeeze=False)[0]
    for half, (title, shown) in zip(halves, known.items(), strict=True):
        axis = half.subplots()
        _draw_parts(axis, title, shown)
        handles, labels = axis.get_legend_handles_labels()
        half.legend(handles, labels, loc="outside lower center", ncols=2, handlelength=2.4, handleheight=1.2)
    return finish(figure, f"{stream}: forgetting taken apart{over_orders([one.group for one in groups])}")


def _draw_answers(axis: Axes, one: GroupTaxonomy, outcomes: Mapping[Failure, str]) -> None:
    """Stacked areas over the stages; a bar where there is one stage only, as after joint training."""
    stages = list(one.old)
    bottom = np.zeros(len(stages))
    for outcome, title in outcomes.items():
        heights = 100 * np.array([one.old[stage][outcome].mean for stage in stages], dtype=np.float64)
        color, hatch = OUTCOME_LOOKS[outcome]
        look: Any = {"fc": color, "ec": "white", "hatch": hatch, "lw": 0.6, "label": title, "zorder": 2}
        if len(stages) > 1:
            axis.fill_between(stages, bottom, bottom + heights, **look)
        else:
            axis.bar(stages, heights, 0.7, bottom, **look)
        bottom = bottom + heights
    tasks = len(one.group.runs[0].matrix)
    ends = (2, tasks) if len(stages) > 1 else (tasks - 1, tasks + 1)
    axis.set(xticks=range(2, tasks + 1), xlim=ends, ylim=(0, 100), xlabel="after task")
    axis.set_title(one.group.name, fontsize=11.5 if len(one.group.name) < 24 else 8.0)


def _draw_parts(axis: Axes, title: str, shown: Sequence[GroupTaxonomy]) -> None:
    """Bars to the right for what adds to forgetting, to the left for what takes from it, a mark at the whole."""
    places = np.arange(len(shown))
    ahead, behind = np.zeros(len(shown)), np.zeros(len(shown))
    for key, label, color, hatch, sign in PARTS[title]:
        widths = sign * 100 * np.array([one.metrics[key].mean for one in shown], dtype=np.float64)
        left = np.where(widths >= 0, ahead, behind)
        axis.barh(places, widths, 0.62, left, fc=color, ec="white", hatch=hatch, lw=0.8, label=label, zorder=2)
        ahead, behind = ahead + np.maximum(widths, 0), behind + np.minimum(widths, 0)
    for place, one in zip(places, shown, strict=True):
        orders = [100 * value for value in one.metrics["forgetting_diag"].known().values()]
        axis.plot(orders, [place + 0.42] * len(orders), ls="", marker="o", ms=2.6, color=MUTED, zorder=3)
        whole = float(np.mean(orders))
        mark = axis.plot([whole], [place], ls="", marker="|", ms=19, mew=2.4, color=INK, zorder=4)[0]
        text = (ahead[place], place), (6, 0)
        axis.annotate(f"{whole:.1f}".replace("-", "−"), *text, textcoords="offset points", va="center", fontsize=9)
    mark.set_label("the whole (forgetting_diag); dots: orders")
    axis.axvline(0, color="#999999", lw=0.9, zorder=3)
    axis.set_yticks(places, [one.group.name for one in shown])
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set(xlabel="points", title=title)
    axis.grid(axis="x", color=GRID)


@rc_context(RC)
def costs_figure(groups: Sequence[GroupCost], stream: str) -> Picture | None:
    """Final result (above) and forgetting (below) against each cost that was counted; None where nothing was trained.

    Bars are ± one standard deviation over class orders, both ways. What costs nothing, the frozen base, is a line.
    """
    shown = [
        axis for axis in COSTS if any((found := one.figures.get((TRAIN, axis[0]))) and found.mean for one in groups)
    ]
    if not shown:
        return None
    final = groups[0].group.final_metric
    look = styles([one.group for one in groups])
    figure, axes = panels(2 * len(shown), len(shown), 4.9 * len(shown) + 0.4, 7.2, sharey="row")
    for column, (name, unit, title) in enumerate(shown):
        for axis, metric in zip(axes[:, column], (final, "forgetting"), strict=True):
            _draw_cost(axis, groups, look, (name, unit), metric)
        axes[1, column].set_xlabel(title)
    axes[0, 0].set_ylabel(f"{metric_of(final).title} (%)")
    axes[1, 0].set_ylabel("forgetting (points)")
    spread = over_orders([one.group for one in groups], " ± standard deviation")
    return finish(figure, f"{stream}: quality against cost{spread}", axes.flat, 60 * len(shown))


def _draw_cost(
    axis: Axes, groups: Sequence[GroupCost], look: dict[str, Style], cost: tuple[str, float], metric: str
) -> None:
    name, unit = cost
    for one in groups:
        summary, style = one.group.metrics.get(metric), look[one.group.label]
        if summary is None or summary.mean is None:
            continue
        spent = one.figures.get((TRAIN, name))
        if spent is not None and spent.mean:
            xerr = None if not spent.std else spent.std / unit
            yerr = None if summary.std is None else 100 * summary.std
            mark: Any = {"marker": style.marker or "o", "ms": 12 if style.marker == "*" else 8, "mec": "white", "lw": 0}
            mark |= {"color": style.color, "elinewidth": 1.3, "label": one.group.label, "zorder": 3}
            axis.errorbar(spent.mean / unit, 100 * summary.mean, yerr, xerr, **mark)
        elif one.group.method == FLOOR:
            label = f"{one.group.label} (frozen base, no training)"
            axis.axhline(100 * summary.mean, color=MUTED, lw=1.2, ls=(0, (4, 3)), label=label, zorder=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" ") if unit == 1 else FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(color=GRID)


@rc_context(RC)
def drift_figures(study: StreamStudy) -> dict[str, Picture]:
    """Pictures of one stream by file name without ending: forgetting against drift, spread of drift over tasks."""
    relations = [one for one in study.relations if one.measure in DRIFTS and one.outcome == "forgetting"]
    made = {}
    if any(one.correlation.n for one in relations):
        figure, axes = panels(len(relations), len(relations), 3.5 * len(relations) + 0.4, 4.1, sharey=True)
        for axis, one in zip(axes[0], relations, strict=True):
            _draw_relation(axis, study, one)
        axes[0, 0].set_ylabel("forgetting (points)")
        title = f"{study.stream}: forgetting against drift, one mark per run"
        made["drift_forgetting"] = finish(figure, title, axes.flat, 100)
    if any(spread.means() for spread in study.spreads):
        figure, axes = panels(len(SPREADS), len(SPREADS), 5.2 * len(SPREADS) + 0.4, 4.1, sharey=True)
        look = styles(study.groups)
        for axis, (name, title) in zip(axes[0], SPREADS.items(), strict=True):
            for spread in study.spreads:
                if spread.name == name:  # mean over class orders by task, one line per method
                    means, label = spread.means(), spread.group.label
                    mark = {"color": look[label].color, "marker": look[label].marker or "o", "mec": "white"}
                    axis.plot(list(means), list(means.values()), ls=look[label].dash, lw=1.8, label=label, **mark)
            axis.set(title=f"groups of rollouts: {title}", xlabel="after task")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(axis="y", color=GRID)
        axes[0, 0].set(ylabel="spread (nats per token)", ylim=(0, None))
        title = f"{study.stream}: spread of drift inside groups of equal reward{over_orders(study.groups)}"
        made["drift_spread"] = finish(figure, title, axes.flat, 100)
    return made


def _draw_relation(axis: Axes, study: StreamStudy, one: Relation) -> None:
    drawn: list[float] = []
    for label, style in styles(study.groups).items():
        xy = [
            (point.values[one.measure], 100 * point.values[one.outcome])
            for point in study.points
            if point.label == label and {one.measure, one.outcome} <= point.values.keys()
        ]
        if xy:
            places, heights = zip(*xy, strict=True)
            marker = style.marker or "o"
            axis.scatter(places, heights, s=40, c=style.color, marker=marker, ec="white", lw=0.7, label=label)
            drawn += places
    if one.curve is not None:
        x = np.linspace(min(drawn), max(drawn), 100)
        a, b, c, _ = one.curve
        axis.plot(x, 100 * (a + b * x + c * x**2), color=MUTED, lw=1.4, ls=(0, (4, 3)), zorder=1)
    axis.set_title(DRIFTS[one.measure], fontsize=10.5, pad=32)
    found = one.correlation
    caption = f"no rank correlation: {found.reason}"
    if found.rho is not None:
        between = "" if found.low is None else f" (95 %: {found.low:+.2f} to {found.high:+.2f})"
        fit = "no fitted curve" if one.curve is None else f"quadratic R² {one.curve.r2:.2f}"
        caption = f"Spearman {found.rho:+.2f}{between}\n{fit}, {found.n} runs, {found.orders} orders".replace("-", "−")
    axis.text(0, 1.03, caption, transform=axis.transAxes, fontsize=8.5, color=MUTED)
    axis.set_xlabel("nats per token")
    axis.grid(color=GRID)
