"""The board of a sweep on Ray: an actor that holds what cells tell. Nothing heavy is imported: it is there soon."""

from collections.abc import Sequence
from typing import Any

HEAD = "node:__internal_head__"  # what Ray counts the head node as
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


def board_of(ray: Any) -> Any:
    """A new board on the head node, which the cluster lives and dies with.

    It asks for a little of what the head alone has. A node that is asked for by name is passed over where it, or
    another, has just joined: the node that places an actor may not know it yet. A board whose process dies is started
    again, and what could not be told meanwhile is told then.

    Args:
        ray: the module, connected.
    """
    return ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_restarts=-1, max_task_retries=-1)(Board).remote()
