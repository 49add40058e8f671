"""The board of a sweep on Ray: an actor that holds what cells tell. Nothing heavy is imported: it is there soon."""

from collections.abc import Sequence
from typing import Any

Event = tuple[str, Sequence[Any]]  # name and arguments of a reporter's call


class Board:
    """Holds what cells tell until the sweep takes it; an actor of the cluster."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Event]] = []

    def tell(self, number: int, event: Event) -> None:
        """Note an event of an attempt."""
        self.events.append((number, event))

    def take(self) -> list[tuple[int, Event]]:
        """What was told since this was asked last."""
        events, self.events = self.events, []
        return events
