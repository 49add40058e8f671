"""The sections of a report, in the order in which one reads them."""

from collections.abc import Callable

from clrft.report.ability import ability_section
from clrft.report.costs import costs_section
from clrft.report.curves import curves_section
from clrft.report.definitions import definitions_section
from clrft.report.headline import headline_section
from clrft.report.matrices import matrices_section
from clrft.report.origin import left_out_section, origin_section
from clrft.report.pairs import pairs_section
from clrft.report.parts import Section, Subject
from clrft.report.plane import plane_section
from clrft.report.published import ledger_section
from clrft.report.samples import samples_section
from clrft.report.settings import settings_section
from clrft.report.taxonomy import kinds_section
from clrft.report.why import why_section

SECTIONS: tuple[Callable[[Subject], Section], ...] = (
    headline_section,
    matrices_section,
    curves_section,
    plane_section,
    pairs_section,
    kinds_section,
    why_section,
    ability_section,
    costs_section,
    samples_section,
    ledger_section,
    settings_section,
    origin_section,
    left_out_section,
    definitions_section,
)
