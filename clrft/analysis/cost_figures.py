"""Quality against what the training cost: operations and processor hours, one mark per method; PNG files."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from clrft.analysis.compare import FLOOR
from clrft.analysis.cost_tables import costs_to_csv, costs_to_markdown
from clrft.analysis.costs import CostReport, GroupCost
from clrft.analysis.figures import GRID, MUTED, RC, Style, legend_columns, of_stream, over_orders, styles
from clrft.analysis.outputs import write_outputs
from clrft.runs.cost_names import CPU, GPU, TRAIN
from eval.metrics import metric_of

# Figure of the cost, its unit in numbers of it, and the axis's title.
AXES = (
    ("model_flops", 1.0, "model operations of the training"),
    (CPU, 3600.0, "CPU hours of the training"),
    (GPU, 3600.0, "GPU hours of the training"),
)


def write_costs(report: CostReport, out_dir: Path) -> list[Path]:
    """Write ``costs.md``, ``costs.csv`` and a picture per stream in which anything was trained; returns the files.

    Args:
        report: of at least one run that counted what it cost.
        out_dir: made if absent; older files of the same names are replaced.
    """
    texts = {"costs.md": costs_to_markdown(report), "costs.csv": costs_to_csv(report)}
    pictures = (
        of_stream("costs", figure, stream, report.comparison)
        for stream in report.streams()
        if (figure := costs_figure(report.of_stream(stream), stream)) is not None
    )
    return write_outputs(out_dir, texts, pictures)


def costs_figure(groups: Sequence[GroupCost], stream: str) -> Figure | None:
    """Final result (above) and forgetting (below) against each cost that was counted; None where nothing was trained.

    Bars are ± one standard deviation over class orders, both ways. What costs nothing, the frozen base, is a line.
    """
    shown = [axis for axis in AXES if any(one.mean(TRAIN, axis[0]) for one in groups)]
    if not shown:
        return None
    final = groups[0].group.final_metric
    look = styles([one.group for one in groups])
    with rc_context(RC):
        figure = Figure(figsize=(4.9 * len(shown) + 0.4, 7.2), layout="constrained")
        axes = figure.subplots(2, len(shown), squeeze=False, sharey="row")
        for column, (name, unit, title) in enumerate(shown):
            for axis, metric in zip(axes[:, column], (final, "forgetting"), strict=True):
                _draw(axis, groups, look, (name, unit), metric)
            axes[1, column].set_xlabel(title)
        axes[0, 0].set_ylabel(f"{metric_of(final).title} (%)")
        axes[1, 0].set_ylabel("forgetting (points)")
        named = {
            label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        columns = legend_columns(list(named), 60 * len(shown))
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)
        spread = over_orders([one.group for one in groups], " ± standard deviation")
        figure.suptitle(f"{stream}: quality against cost{spread}", x=0.01, ha="left")
        return figure


def _draw(
    axis: Axes, groups: Sequence[GroupCost], look: dict[str, Style], cost: tuple[str, float], metric: str
) -> None:
    name, unit = cost
    for one in groups:
        summary, style = one.group.metrics.get(metric), look[one.group.label]
        if summary is None or summary.mean is None:
            continue
        spent = one.figures.get((TRAIN, name))
        if spent is not None and spent.mean:
            axis.errorbar(
                spent.mean / unit,
                100 * summary.mean,
                xerr=None if not spent.std else spent.std / unit,
                yerr=None if summary.std is None else 100 * summary.std,
                color=style.color,
                marker=style.marker or "o",
                ms=12 if style.marker == "*" else 8,
                mec="white",
                lw=0,
                elinewidth=1.3,
                label=one.group.label,
                zorder=3,
            )
        elif one.group.method == FLOOR:
            label = f"{one.group.label} (frozen base, no training)"
            axis.axhline(100 * summary.mean, color=MUTED, lw=1.2, ls=(0, (4, 3)), label=label, zorder=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" ") if unit == 1 else FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(color=GRID)
