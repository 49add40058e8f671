"""The study of drift as pictures: forgetting against drift with the fitted curve, spread of drift over tasks.

Each as PNG and PDF. Colours, markers and dashes are those of a comparison's other pictures
(``clrft.analysis.figures``).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clrft.analysis.drift_study import DriftStudy, Relation, Spread, StreamStudy
from clrft.analysis.drift_tables import (
    SPREAD_TITLES,
    drift_to_markdown,
    points_to_csv,
    relations_to_csv,
    spreads_to_csv,
)
from clrft.analysis.figures import GRID, MUTED, RC, legend_columns, of_stream, over_orders, styles
from clrft.analysis.outputs import ENDINGS, write_outputs

SHOWN = {
    "kl_base_forward": "forward KL from the base",
    "kl_base_reverse": "reverse KL to the base",
    "kl_prev_forward": "forward KL from the previous policy",
    "drift_prev": "drift D from the previous policy",
}


def write_drift(study: DriftStudy, out_dir: Path) -> list[Path]:
    """Write tables and pictures of a study; returns the files.

    Args:
        study: of at least one stream.
        out_dir: made if absent; older files of the same names are replaced.
    """
    texts = {
        "drift.md": drift_to_markdown(study),
        "drift.csv": relations_to_csv(study),
        "drift_runs.csv": points_to_csv(study),
        "drift_spread.csv": spreads_to_csv(study),
    }
    pictures = (
        of_stream(name, figure, one.stream, study.comparison)
        for one in study.streams
        for name, figure in drift_figures(one).items()
    )
    return write_outputs(out_dir, texts, pictures, ENDINGS)


def drift_figures(study: StreamStudy) -> dict[str, Figure]:
    """Figures of one stream by file name without ending; those that have something to show."""
    with rc_context(RC):
        relations = [one for one in study.relations if one.measure in SHOWN and one.outcome == "forgetting"]
        made = {}
        if any(one.correlation.n for one in relations):
            made["drift_forgetting"] = forgetting_figure(study, relations)
        if any(spread.means() for spread in study.spreads):
            made["drift_spread"] = spread_figure(study)
        return made


def forgetting_figure(study: StreamStudy, relations: Sequence[Relation]) -> Figure:
    """A panel per measure: one mark per run, the fitted curve, the rank correlation with its interval."""
    figure = Figure(figsize=(3.5 * len(relations) + 0.4, 4.1), layout="constrained")
    axes = figure.subplots(1, len(relations), squeeze=False, sharey=True)[0]
    for axis, one in zip(axes, relations, strict=True):
        _draw_relation(axis, study, one)
    axes[0].set_ylabel("forgetting (points)")
    _legend(figure, axes)
    figure.suptitle(f"{study.stream}: forgetting against drift, one mark per run", x=0.01, ha="left")
    return figure


def spread_figure(study: StreamStudy) -> Figure:
    """A panel per kind of group: mean spread over class orders by task, one line per method."""
    figure = Figure(figsize=(5.2 * len(SPREAD_TITLES) + 0.4, 4.1), layout="constrained")
    axes = figure.subplots(1, len(SPREAD_TITLES), squeeze=False, sharey=True)[0]
    for axis, (name, title) in zip(axes, SPREAD_TITLES.items(), strict=True):
        for spread in study.spreads:
            if spread.name == name:
                _draw_spread(axis, study, spread)
        axis.set_title(f"groups of rollouts: {title}")
        axis.set_xlabel("after task")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(axis="y", color=GRID)
    axes[0].set_ylabel("spread (nats per token)")
    axes[0].set_ylim(bottom=0)
    _legend(figure, axes)
    words = over_orders(study.groups)
    figure.suptitle(f"{study.stream}: spread of drift inside groups of equal reward{words}", x=0.01, ha="left")
    return figure


def _draw_relation(axis: Axes, study: StreamStudy, one: Relation) -> None:
    drawn: list[float] = []
    for label, style in styles(study.groups).items():
        points = [point for point in study.points if point.label == label]
        xy = [
            (point.measures[one.measure], 100 * point.outcomes[one.outcome])
            for point in points
            if one.measure in point.measures and one.outcome in point.outcomes
        ]
        if xy:
            places, heights = zip(*xy, strict=True)
            marker = style.marker or "o"
            axis.scatter(places, heights, s=40, c=style.color, marker=marker, ec="white", lw=0.7, label=label)
            drawn += places
    if one.curve is not None:
        x = np.linspace(min(drawn), max(drawn), 100)
        axis.plot(x, 100 * one.curve.at(x), color=MUTED, lw=1.4, ls=(0, (4, 3)), zorder=1)
    axis.set_title(SHOWN[one.measure], fontsize=10.5, pad=32)
    axis.text(0, 1.03, _caption(one), transform=axis.transAxes, fontsize=8.5, color=MUTED)
    axis.set_xlabel("nats per token")
    axis.grid(color=GRID)


def _caption(one: Relation) -> str:
    found = one.correlation
    if found.rho is None:
        return f"no rank correlation: {found.reason}"
    between = "" if found.low is None else f" (95 %: {found.low:+.2f} to {found.high:+.2f})"
    fit = "no fitted curve" if one.curve is None else f"quadratic R² {one.curve.r2:.2f}"
    return f"Spearman {found.rho:+.2f}{between}\n{fit}, {found.n} runs, {found.orders} orders".replace("-", "−")


def _draw_spread(axis: Axes, study: StreamStudy, spread: Spread) -> None:
    means = spread.means()
    style = styles(study.groups)[spread.group.label]
    look = {"color": style.color, "marker": style.marker or "o", "mec": "white", "label": spread.group.label}
    axis.plot(list(means), list(means.values()), ls=style.dash, lw=1.8, **look)  # type: ignore[arg-type]


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    named = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = legend_columns(list(named), 100)
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)
