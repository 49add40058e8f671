"""Exact lists of training items: a JSONL file whose every row must name one training item of the source.

A row is ``{"key": "…"}`` (as ``clrft`` names items) or the form of RaPO's released lists:
``{"class_name": "…", "relative_path": "<class>/<file>", "file_name": "<file>"}``.
"""

from collections.abc import Sequence

from task_streams.records import Record


def listed_records(path: str, records: Sequence[Record]) -> tuple[Record, ...]:
    """The records that a list names for training, and all test records.

    Raises:
        UserError: the list is missing or damaged, or rows name no item, several, or one twice; all of them.
    """
    raise NotImplementedError
