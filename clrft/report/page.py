"""Write a report: the page, and beside it every table as CSV and LaTeX, every picture as PDF and PNG.

The page is one file that asks for nothing: its policy (Content-Security-Policy) allows its own style and script, by
their hash, and images that are written into it. Deliberately absent: any dependency of the page.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps, rc_context

from clrft.analysis.figures import RC
from clrft.analysis.outputs import ENDINGS, save_picture
from clrft.analysis.render import to_csv, to_latex
from clrft.analysis.table import Sentence, Table
from clrft.report import accuracy, headline, provenance, samples, studies
from clrft.report.parts import Block, Part, Picture, Section, Subject
from clrft.report.vector import inline_svg, recoloured
from clrft.runs.provenance import versions
from clrft.utils.files import write_text_atomic

# Key, title and parts of every section, in the order in which one reads them.
SECTIONS: tuple[tuple[str, str, Callable[[Subject], Iterable[Part]]], ...] = (
    ("answer", "Which method forgets less?", headline.headline_section),
    ("matrices", "Accuracy matrices", accuracy.matrices_section),
    ("curves", "Over tasks and class orders", accuracy.curves_section),
    ("plane", "Stability against plasticity", accuracy.plane_section),
    ("pairs", "Paired differences", accuracy.pairs_section),
    ("kinds", "What kind of forgetting", studies.taxonomy_section),
    ("why", "Why: drift and rewards", studies.why_section),
    ("ability", "General ability beside forgetting", accuracy.ability_section),
    ("costs", "Cost beside quality", studies.costs_section),
    ("samples", "What was forgotten", samples.samples_section),
    ("ledger", "Published figures beside measured ones", studies.published_section),
    ("settings", "Settings that differ", provenance.settings_section),
    ("origin", "Runs, versions and hardware", provenance.origin_section),
    ("left-out", "Folders left out", provenance.left_out_section),
    ("definitions", "Definitions", provenance.definitions_section),
)
TABLES, FIGURES = "tables", "figures"
PAGE = "index.html"
_COLOUR = re.compile(r"#[0-9a-f]{6}")
# Text stays text in SVG; labels hold whatever anybody wrote, and are no formulas.
DRAWN = {**RC, "svg.fonttype": "none", "svg.hashsalt": "clrft", "text.parse_math": False, "savefig.dpi": 144}
PARTS = {Table: "table", Picture: "picture", Sentence: "sentence", Block: "block"}


def write_report(subject: Subject, title: str, out_dir: Path) -> list[Path]:
    """Write a report of that title into a folder, which is made if absent; returns its files, the page first.

    Raises:
        UserError: a file that the runs should have is damaged.
    """
    with rc_context(DRAWN):
        sections = [Section(key, heading, tuple(build(subject))) for key, heading, build in SECTIONS]
        for picture in (picture for section in sections for picture in section.pictures):
            picture.figure.suptitle("")  # a caption stands beside it, here and in a paper
        html = page_html(subject, title, sections)
        paths = [out_dir / PAGE]
        for name in (TABLES, FIGURES):
            (out_dir / name).mkdir(parents=True, exist_ok=True)
        for section in sections:
            for table in section.tables:
                for ending, text in (("csv", to_csv(table)), ("tex", to_latex(table))):
                    paths.append(out_dir / TABLES / f"{table.key}.{ending}")
                    write_text_atomic(paths[-1], text)
            for picture in section.pictures:
                for ending in ENDINGS:
                    paths.append(out_dir / FIGURES / f"{picture.key}.{ending}")
                    save_picture(picture.figure, paths[-1])
                    picture.figure.set_layout_engine("none")  # laid out once
    write_text_atomic(out_dir / PAGE, html)  # when all is there that it names
    return paths


def page_html(subject: Subject, title: str, sections: Sequence[Section]) -> str:
    """The page. To be called within ``rc_context(DRAWN)``."""
    drawings = {
        picture.key: inline_svg(picture.figure, f"figure-{picture.key}", picture.described)
        for section in sections
        for picture in section.pictures
        if picture in section.parts  # a block draws its own
    }
    packaged = files("clrft.report") / "page"
    style, script = ((packaged / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    style += _colour_rules(drawings.values())
    environment = Environment(
        loader=PackageLoader("clrft.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["shown"] = lambda table: table.for_medium("report")
    runs = [run for group in subject.comparison.groups for run in group.runs]
    return environment.get_template("page.html").render(
        title=title,
        sections=[(section, [(PARTS[type(part)], part) for part in section.parts]) for section in sections],
        drawings=drawings,
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        counts={
            "runs": len(runs),
            "methods": len({group.label for group in subject.comparison.groups}),
            "orders": len({run.seed for run in runs}),
            "streams": len(subject.comparison.streams),
        },
        version=versions()["clrft"],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def policy(style: str, script: str) -> str:
    """The page's Content-Security-Policy: nothing but its own style and script, and images inside of it."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    own = "style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)
    return f"default-src 'none'; {own}; img-src data:; base-uri 'none'; form-action 'none'"


def _colour_rules(drawings: Iterable[str]) -> str:
    """Rules for the colour scale of matrices, and for the colours of drawings on a dark page."""
    scale = colormaps["cividis"]
    rules = []
    for step in range(accuracy.SHADES + 1):
        red, green, blue = (round(255 * part) for part in scale(step / accuracy.SHADES)[:3])
        ink = "#222222" if step > 0.55 * accuracy.SHADES else "#ffffff"
        rules.append(f".shade-{step}{{background:#{red:02x}{green:02x}{blue:02x};color:{ink}}}")
    for colour in sorted({colour for svg in drawings for colour in _COLOUR.findall(svg)}):
        dark = recoloured(colour)
        for attribute in ("fill", "stroke"):  # without an ancestor: what <use> repeats has none
            rules.append(f'[{attribute}="{colour}"]{{{attribute}:light-dark({colour},{dark})}}')
    return "\n".join(["", *rules, ""])


def title_of(paths: Sequence[Path]) -> str:
    """A report's title: the names of its folders."""
    names = dict.fromkeys(path.resolve().name for path in paths)
    shown = list(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
