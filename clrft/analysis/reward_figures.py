"""What rewards were made of, as a picture: bars of every component and of what every shaper added, task by task."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from clrft.analysis.figures import GRID, RC, legend_columns, of_stream, over_orders
from clrft.analysis.outputs import write_outputs
from clrft.analysis.reward_tables import rewards_to_csv, rewards_to_markdown, task_name
from clrft.analysis.rewards import PARTS_OF_REWARDS, SHAPED, Figure, GroupRewards, RewardReport

_COMPONENT_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#332288")
_SHAPER_COLORS = ("#D55E00", "#E69F00", "#CC79A7", "#F0E442", "#882255", "#999933", "#8C6D31", "#117733")
_ACROSS = 4  # panels beside each other
_LEAST = 3  # tasks that a panel has room for, so that bars are not wide
_SUM = "what the learner gets"


def write_rewards(report: RewardReport, out_dir: Path) -> list[Path]:
    """Write ``rewards.md``, ``rewards.csv`` and a picture per stream; returns the files.

    Args:
        report: of at least one run with rewards.
        out_dir: made if absent; older files of the same names are replaced.
    """
    texts = {"rewards.md": rewards_to_markdown(report), "rewards.csv": rewards_to_csv(report)}
    pictures = (
        of_stream("rewards", rewards_figure(report.of_stream(stream), stream), stream, report.comparison)
        for stream in report.streams()
    )
    return write_outputs(out_dir, texts, pictures)


def rewards_figure(groups: Sequence[GroupRewards], stream: str) -> Picture:
    """A panel per method: mean rewards of each task stacked, what was taken away below zero, a mark at their sum."""
    with rc_context(RC):
        across = min(len(groups), _ACROSS)
        down = -(-len(groups) // across)
        picture = Picture(figsize=(max(2.9 * across, 5.2), 2.7 * down + 1.0), layout="constrained")
        axes = picture.subplots(down, across, squeeze=False, sharey=True)
        for axis in axes.flat[len(groups) :]:
            axis.set_visible(False)
        colors = part_colors(groups)
        for axis, one in zip(axes.flat, groups, strict=False):
            _draw(axis, one, colors)
        for axis in axes[:, 0]:
            axis.set_ylabel("mean reward")
        handles = {
            label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        handles |= {_SUM: handles.pop(_SUM)} if _SUM in handles else {}  # last
        columns = legend_columns(list(handles), 32 * across)
        picture.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
        title = f"{stream}: what rewards were made of{over_orders([one.group for one in groups])}"
        picture.suptitle(title, x=0.01, ha="left")
        return picture


def part_colors(groups: Sequence[GroupRewards]) -> dict[Figure, str]:
    """Colour of every component, the same in every picture, and of every shaper at hand."""
    colors = {
        Figure("component", name): _COMPONENT_COLORS[place % len(_COMPONENT_COLORS)]
        for place, name in enumerate(PARTS_OF_REWARDS)
    }
    shapers = dict.fromkeys(name for one in groups for name in one.shapers)
    for place, name in enumerate(shapers):
        colors[Figure("added", name)] = _SHAPER_COLORS[place % len(_SHAPER_COLORS)]
    return colors


def _draw(axis: Axes, one: GroupRewards, colors: dict[Figure, str]) -> None:
    places = range(len(one.tasks))
    above, below = [0.0] * len(places), [0.0] * len(places)
    stacked = [Figure("component", name) for name in one.components] + [Figure("added", name) for name in one.shapers]
    for figure in stacked:
        means = {x: figures[figure].mean for x, figures in enumerate(one.tasks.values())}
        heights = {x: mean for x, mean in means.items() if mean is not None}  # what was not measured is not drawn
        bottoms = [above[x] if height >= 0 else below[x] for x, height in heights.items()]
        label = figure.name if figure.kind == "component" else f"added by {figure.name}"
        look = {"color": colors[figure], "ec": "white", "lw": 0.8, "label": label, "zorder": 2}
        axis.bar(list(heights), list(heights.values()), 0.72, bottom=bottoms, **look)  # type: ignore[arg-type]
        for x, height in heights.items():
            above[x] += max(height, 0.0)
            below[x] += min(height, 0.0)
    sums = [figures[SHAPED].mean for figures in one.tasks.values()]
    known = [(x, total) for x, total in zip(places, sums, strict=True) if total is not None]
    if known:
        axis.plot(*zip(*known, strict=True), color="#222222", ls="", marker="_", ms=15, mew=2, label=_SUM)
    axis.axhline(0, color="#999999", lw=0.9, zorder=3)
    axis.set_xticks(places, [task_name(one, task) for task in one.tasks])
    axis.tick_params(axis="x", length=0)
    middle, half = (len(places) - 1) / 2, max(len(places), _LEAST) / 2
    axis.set_xlim(middle - half, middle + half)
    axis.set_xlabel("training on task")
    axis.set_title(one.group.label, fontsize=11.5 if len(one.group.label) < 24 else 8.5)
    axis.grid(axis="y", color=GRID)
