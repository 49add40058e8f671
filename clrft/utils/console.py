r"""The terminal: what files, data and models say reaches it without control over it.

Names of files and classes, answers and errors may hold escape codes (ANSI, C0 and C1) and marks that turn the order of
letters (Unicode's bidirectional formatting). A terminal gets them as ``\u001b``; files keep them.
"""

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# All but tab and line end, which rich lays out itself.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with characters that control a terminal written as escapes, as JSON writes them."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class SafeConsole(Console):
    """A console on which no text moves the cursor, changes colours or turns the order of letters; its styles do."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of what is shown; those that are rich's own control codes pass."""
        for segment in super().render(renderable, options):
            if segment.control or not _CONTROL.search(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)
