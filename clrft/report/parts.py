"""What a page is made of: sections of sentences, tables, pictures, and blocks that have a template of their own.

Texts are plain texts, whoever wrote them: the templates escape them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.figure import Figure

from clrft.analysis.compare import Comparison, Study
from clrft.analysis.rewards import GroupRewards, reward_report
from clrft.analysis.table import Sentence, Table
from clrft.analysis.taxonomy import GroupTaxonomy, taxonomy_report
from clrft.runs.read import LeftOut


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the page, also written as PDF and PNG."""

    key: str  # its file name without ending, and its place in the page
    title: str  # caption
    described: str  # what it shows, for those who cannot see it
    figure: Figure
    table: Table | None = None  # the numbers behind it; None where another table of the section has them, as note says
    note: str = ""  # a sentence below it


@dataclass(frozen=True, slots=True)
class Block:
    """A part with a template of its own, ``page/<template>.html``."""

    template: str  # its name
    values: Mapping[str, Any]  # what the template shows
    picture: Picture | None = None  # its figure and table for the files beside the page


Part = Table | Picture | Sentence | Block


@dataclass(frozen=True, slots=True)
class Section:
    """One section; what was not measured is said in a sentence, never left out."""

    key: str
    title: str
    parts: tuple[Part, ...]

    @property
    def tables(self) -> list[Table]:
        """Its tables, those behind pictures among them."""
        behind = [picture.table for picture in self.pictures if picture.table is not None]
        return [*(part for part in self.parts if isinstance(part, Table)), *behind]

    @property
    def pictures(self) -> list[Picture]:
        """Its pictures, those of blocks among them."""
        own = [part.picture if isinstance(part, Block) else part for part in self.parts]
        return [picture for picture in own if isinstance(picture, Picture)]


@dataclass(frozen=True)
class Subject:
    """What tables, pictures and a report are about; what they share is computed once, when it is first asked for."""

    comparison: Comparison  # the runs, compared
    left_out: tuple[LeftOut, ...] = ()  # folders that are not compared, and why

    @cached_property
    def taxonomy(self) -> Study[list[GroupTaxonomy]]:
        """The kinds of forgetting; they are read from every single answer, 20 ms or more a run."""
        return taxonomy_report(self.comparison)

    @cached_property
    def rewards(self) -> Study[list[GroupRewards]]:
        """What rewards were made of.

        Raises:
            UserError: a file of steps is damaged.
        """
        return reward_report(self.comparison)


def missing(text: str) -> Sentence:
    """A sentence that says what was not measured."""
    return Sentence(text, "missing")
