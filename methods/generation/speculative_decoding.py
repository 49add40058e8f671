"""Guesses how a completion goes on, from those before it: what a policy writes often, it likely writes again.

A model that is given a guess says for all its tokens at once what it would have written, so that one pass stands for
several; what differs is thrown away. The completions are those of one token at a time (speculative decoding, arXiv
2211.17192, with the table of arXiv 2402.02057's n-grams instead of a second model).
"""

import math
from collections.abc import Sequence

CONTEXTS = (6, 4, 2, 1)  # tokens before a guess, the longest that is known wins
LARGEST = 2**17


class NgramDrafter:
    """What followed which tokens in completions so far; empty at first. Guesses are as long as they tend to be right.

    ``longest``: tokens in a guess, 0: none is made. ``largest``: contexts that are remembered; beyond them none is new.
    """

    def __init__(self, longest: int = 8, largest: int = LARGEST) -> None:
        self.longest = longest
        self.largest = largest
        self.next: dict[tuple[int, ...], int] = {}
        self._reach = float(longest)

    def learn(self, completion: Sequence[int]) -> None:
        """Remember a completion: what it did last in a context is what is guessed there."""
        if not self.longest:
            return
        for place, token in enumerate(completion):
            for before in [context for context in CONTEXTS if context <= place] or [0]:
                context = tuple(completion[place - before : place])
                if context in self.next or len(self.next) < self.largest:
                    self.next[context] = token

    def accepted(self, right: Sequence[int]) -> None:
        """Take in how many tokens of each draft of a pass were right: later ones are about twice as long at most."""
        if right:
            self._reach = min(self.longest, (self._reach + 1 + 2 * sum(right) / len(right)) / 2)

    def draft(self, completion: Sequence[int], room: int) -> list[int]:
        """How a completion so far may go on, at most ``room`` tokens; fewer where nothing is known."""
        written, start = list(completion), len(completion)
        most = min(self.longest, math.ceil(self._reach), room)
        while len(written) - start < most:
            contexts = [tuple(written[-size:]) for size in CONTEXTS if size <= len(written)] or [()]
            token = next((self.next[context] for context in contexts if context in self.next), None)
            if token is None:
                break
            written.append(token)
        return written[start:]
