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
    """A figure of the page, also written as PDF and PNG.

    Attributes:
        key: its file name without ending, and its place in the page.
        title: caption.
        described: what it shows, for those who cannot see it.
        figure: the drawing.
        table: the numbers behind it; None only where another table of the section holds them (then ``note`` says so).
        note: a sentence below it.
    """

    key: str
    title: str
    described: str
    figure: Figure
    table: Table | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A part with a template of its own, ``page/<template>.html``.

    Attributes:
        template: its name.
        values: what the template shows.
        picture: its figure and table for the files beside the page.
    """

    template: str
    values: Mapping[str, Any]
    picture: Picture | None = None


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
    """What tables, pictures and a report are about; what they share is computed when it is first asked for, and once.

    Attributes:
        comparison: the runs, compared.
        left_out: folders that are not compared, and why.
    """

    comparison: Comparison
    left_out: tuple[LeftOut, ...] = ()

    @cached_property
    def taxonomy(self) -> Study[GroupTaxonomy]:
        """The kinds of forgetting; they are read from every single answer, 20 ms or more a run."""
        return taxonomy_report(self.comparison)

    @cached_property
    def rewards(self) -> Study[GroupRewards]:
        """What rewards were made of.

        Raises:
            UserError: a file of steps is damaged.
        """
        return reward_report(self.comparison)


def missing(text: str) -> Sentence:
    """A sentence that says what was not measured."""
    return Sentence(text, "missing")
