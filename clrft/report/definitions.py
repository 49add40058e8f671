"""What each figure of the report means: every metric's formula, and why some are undefined."""

from clrft.report.parts import Column, Section, Sentence, Subject, Table, text_cells
from eval.metrics import METRICS

NOTATION = (
    "R[i,j]: accuracy on task j after training on task i, of T tasks. A_i: accuracy after task i over all test items "
    "so far. n_j: test items of task j. b_j: the base's accuracy on task j. V_j: accuracy on task j right after "
    "learning it, asked under the final class list. J_j: accuracy on task j after joint training. Forgetting of a task "
    "that never rises again is its fall from the best it ever had."
)


def definitions_section(subject: Subject) -> Section:
    """All metrics, defined here or not."""
    groups = subject.comparison.groups
    rows = []
    for key, metric in METRICS.items():
        own = {name: one for group in groups for name, one in group.metrics.items() if name.partition("/")[0] == key}
        measured = any(one.mean is not None for one in own.values())
        reason = next((one.reason for one in own.values() if one.reason), "not asked for")
        better = "higher" if metric.higher_is_better else "lower"
        rows.append(text_cells([key, metric.title, metric.definition, better, "" if measured else str(reason)]))
    names = ("key", "title", "formula", "better", "undefined here because")
    columns = tuple(Column(name, "text") for name in names)
    return Section(
        "definitions", "Definitions", (Sentence(NOTATION), Table("definitions", "Metrics", columns, tuple(rows)))
    )
