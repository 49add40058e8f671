"""How a pass over completions is cut: known to what runs it and to what estimates its memory. Imports nothing."""

LARGEST = 2**25  # numbers in a table of tokens times vocabulary: 128 MiB in float32
MOST = 1.5  # times as many scores in a group's one row as in rows of their own, at which copying costs more


def in_one_row(group: int, prompt: int, completion: int, attention: str) -> bool:
    """Whether completions of so many tokens behind a prompt are computed in one row, by an attention of that name.

    It must take any mask, and most of what it goes through must be there to be seen.
    """
    alone, together = prompt + completion, prompt + group * completion
    return group > 1 and together <= MOST * alone and attention == "sdpa"
