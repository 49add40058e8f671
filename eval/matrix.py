"""The accuracy matrix R[i, j]: accuracy on task j after training on task i (both from 1), and AP pooled over tasks.

A cell that was not evaluated is NaN, never 0.
Deliberately absent: every number derived from it (``eval.metrics``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from task_streams.errors import UserError

FloatArray = NDArray[np.float64]
SCHEMA = 1
# What a stream is measured by (``eval.task_accuracy.measure_of``).
ACCURACY, BOX_AP, POOLED_BOX_AP = "accuracy", "box AP", "pooled box AP"


@dataclass(frozen=True, eq=False, slots=True)
class AccuracyMatrix:
    """Accuracies of one run, as fractions 0 to 1; immutable, its arrays are read-only.

    Attributes:
        tasks: names of the T tasks in the order in which they were learned.
        correct: right predictions per cell, NaN = not evaluated or not a count. [T, T]
        total: test items per cell, likewise. [T, T]
        value: accuracy (or AP) per cell, NaN = not evaluated. [T, T]
        base: b_j, accuracy of the base model before any training, NaN = not evaluated. [T]
        joint: J_j, accuracy after joint training on all tasks, NaN = not evaluated. [T]
        final_list: V_j, accuracy on task j right after learning it when the prompt lists the classes of all tasks,
            as it will at the end, NaN = not evaluated. [T]
        pooled: AP after each stage over all classes and images so far, NaN = not evaluated or not that measure. [T]
    """

    tasks: tuple[str, ...]
    correct: FloatArray
    total: FloatArray
    value: FloatArray
    base: FloatArray
    joint: FloatArray
    final_list: FloatArray
    pooled: FloatArray

    def __post_init__(self) -> None:
        """Check shapes and make the arrays read-only.

        Raises:
            ValueError: no tasks, or an array of another shape.
        """
        size = len(self.tasks)
        if size == 0:
            raise ValueError("an accuracy matrix needs at least one task")
        for name, shape in _SHAPES.items():
            array: FloatArray = np.array(getattr(self, name), dtype=np.float64)
            if array.shape != (size,) * shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {(size,) * shape}")
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def empty(cls, tasks: Sequence[str]) -> "AccuracyMatrix":
        """A matrix of which nothing was evaluated yet."""
        size = len(tasks)
        square, row = np.full((size, size), np.nan), np.full(size, np.nan)
        return cls(tuple(tasks), square, square, square, row, row, row, row)

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def measure(self) -> str:
        """What the cells are: ``accuracy``, or ``box AP`` where there are values without counts of items."""
        return BOX_AP if np.isnan(self.total[~np.isnan(self.value)]).any() else ACCURACY

    def with_row(self, stage: int, cells: Mapping[int, tuple[int, int] | float]) -> "AccuracyMatrix":
        """A copy in which the cells of a stage hold accuracies, by the index of the task.

        ``cells``: (correct, total), or a fraction alone where it is no share of right answers, e.g. box AP.

        Raises:
            IndexError: a stage or task out of 1..T.
            ValueError: an empty test set, not 0 <= correct <= total, or a fraction out of 0..1.
        """
        correct, total, value = self.correct.copy(), self.total.copy(), self.value.copy()
        for task, given in cells.items():
            cell = self._index(stage), self._index(task)
            if isinstance(given, tuple):
                right, items = given
                if items < 1 or not 0 <= right <= items:
                    raise ValueError(f"stage {stage}, task {task}: {right} right of {items} items")
                correct[cell], total[cell], value[cell] = right, items, right / items
            else:
                correct[cell], total[cell], value[cell] = math.nan, math.nan, given
            if not 0.0 <= value[cell] <= 1.0:
                raise ValueError(f"{given} is no fraction 0..1")
        return replace(self, correct=correct, total=total, value=value)

    def with_rows(self, **rows: Mapping[int, float]) -> "AccuracyMatrix":
        """A copy that knows more of ``base``, ``joint``, ``final_list`` or ``pooled``: task (or stage) to fraction.

        Raises:
            IndexError: a task or stage out of 1..T.
            ValueError: a value out of 0..1.
        """
        changed = {name: getattr(self, name).copy() for name in rows}
        for name, cells in rows.items():
            for position, fraction in cells.items():
                if not 0.0 <= fraction <= 1.0:
                    raise ValueError(f"{fraction} is no fraction 0..1")
                changed[name][self._index(position)] = fraction
        return replace(self, **changed)

    def to_json(self) -> dict[str, Any]:
        """Plain values; null = not evaluated."""
        return {
            "schema": SCHEMA,
            "tasks": list(self.tasks),
            "correct": [_plain(row, int) for row in self.correct],
            "total": [_plain(row, int) for row in self.total],
            "value": [_plain(row, float) for row in self.value],
            **{name: _plain(getattr(self, name), float) for name in _ROWS},
        }

    @classmethod
    def from_json(cls, data: object) -> "AccuracyMatrix":
        """The matrix of ``to_json``; ``base``, ``joint``, ``final_list`` and ``pooled`` may be left out.

        Raises:
            UserError: another schema, a missing part, a wrong shape, or a number that is no accuracy.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            given = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise UserError(f"accuracy matrix: schema {given!r}, expected {SCHEMA}.")
        try:
            tasks = data["tasks"]
            if not isinstance(tasks, list) or not all(isinstance(name, str) for name in tasks):
                raise TypeError("the tasks are no list of names")
            unknown = [None] * len(tasks)
            parts = {name: _array(data[name]) for name in ("correct", "total", "value")}
            rows = {name: _array(data.get(name, unknown)) for name in _ROWS}
            matrix = cls(tuple(tasks), **parts, **rows)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"damaged accuracy matrix: {type(error).__name__}: {error}.") from error
        _check_cells(matrix)
        return matrix

    def to_markdown(self) -> str:
        """Table in percent: rows = after task i, columns = task j and what is pooled, a dash = not evaluated."""
        pooled, rows = self._shown()
        names = [*self.tasks, *pooled]
        lines = [["after", *names], ["---", *["---:"] * len(names)], *rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"

    def to_table(self) -> Table:
        """The same table for the terminal; columns are numbers of tasks, whose names stand in the rows."""
        pooled, rows = self._shown()
        table = Table(title=f"{self.measure[0].upper()}{self.measure[1:]} (%)")
        table.add_column("after task")
        for column in (*map(str, range(1, len(self) + 1)), *pooled):
            table.add_column(column, justify="right", no_wrap=True)
        for name, *cells in rows:
            place = f"{self.tasks.index(name) + 1} " if name in self.tasks else ""
            table.add_row(Text(place + name), *cells)
        return table

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        """Name of a table's last column, where anything was pooled, and its rows: a name, then cells in percent."""
        pooled = [] if np.isnan(self.pooled).all() else ["pooled"]
        named = [*zip(self.tasks, self.value, self.pooled, strict=True)]
        if not np.isnan(self.base).all():
            named.insert(0, ("(base)", self.base, math.nan))
        if not np.isnan(self.joint).all():
            named.append(("(joint)", self.joint, math.nan))
        rows = [(name, (*row, last) if pooled else row) for name, row, last in named]
        return pooled, [[name, *("–" if math.isnan(x) else f"{100 * x:.1f}" for x in row)] for name, row in rows]

    def _index(self, position: int) -> int:
        if not 1 <= position <= len(self):
            raise IndexError(f"{position} is out of 1..{len(self)}")
        return position - 1


_ROWS = ("base", "joint", "final_list", "pooled")
_SHAPES = {"correct": 2, "total": 2, "value": 2, **dict.fromkeys(_ROWS, 1)}


def _array(rows: Any) -> FloatArray:
    """Nested lists with null to an array with NaN."""
    array = np.array(rows, dtype=object)
    wrong = [one for one in array.flat if one is not None and type(one) not in (int, float)]
    if wrong:
        raise TypeError(f"a {type(wrong[0]).__name__} where a number or null is expected")
    return array.astype(np.float64)


def _plain(row: FloatArray, kind: type[int] | type[float]) -> list[int | float | None]:
    return [None if math.isnan(x) else kind(x) for x in row]


def _check_cells(matrix: AccuracyMatrix) -> None:
    """Numbers of a file must agree: a matrix that contradicts itself must not reach an average."""
    problems = []
    for name in ("value", *_ROWS):
        numbers = getattr(matrix, name)
        if ((numbers < 0) | (numbers > 1) | np.isinf(numbers)).any():
            problems.append(f"damaged accuracy matrix: {name!r} holds a number out of 0..1.")
    counted = ~np.isnan(matrix.total)
    right = matrix.correct[~np.isnan(matrix.correct)]
    broken = (right != np.floor(right)).any()  # no whole number
    with np.errstate(divide="ignore", invalid="ignore"):
        implied = matrix.correct / matrix.total
    if (counted != ~np.isnan(matrix.correct)).any() or (matrix.total <= 0).any() or broken:
        problems.append("damaged accuracy matrix: 'correct' and 'total' do not belong to each other.")
    elif not np.allclose(implied[counted], matrix.value[counted], rtol=0, atol=1e-6, equal_nan=False):
        problems.append("damaged accuracy matrix: 'value' is not 'correct' / 'total'.")
    if problems:
        raise UserError(*problems)
