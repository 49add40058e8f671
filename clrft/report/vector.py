"""A matplotlib figure as SVG inside of an HTML page that allows no style but its own.

Styles become attributes, ids are made unique in the page, and fonts are the page's. Colours stay as they are drawn;
``recoloured`` gives the rules by which a dark page shows them. Text is escaped by matplotlib and again on the way out.
"""

import io
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.figure import Figure

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"(?:(?P<weight>bold|\d{3}) )?(?:italic )?(?P<size>[\d.]+)px")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
PAPER = (0x14, 0x17, 0x1C)  # of a dark page
LEAST_CONTRAST = 4.5


def inline_svg(figure: Figure, key: str, described: str) -> Markup:
    """The figure, drawn with ``svg.fonttype`` none so that text stays text, as an ``svg`` element.

    ``key`` is unique in the page, ``described`` the text alternative.
    """
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # it is laid out: what is drawn next takes its places as they are
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style", f"{{{SVG}}}title"):
                parent.remove(child)
    values = [value for element in root.iter() for value in element.attrib.values()]
    used = {element.attrib.get(f"{{{LINK}}}href", "").removeprefix("#") for element in root.iter()}
    used |= {name for value in values for name in _REFERENCE.findall(value)}
    for element in root.iter():
        _plain(element, key, used)
    width, height = (root.attrib.pop(name).removesuffix("pt") for name in ("width", "height"))
    raster = any(element.tag == f"{{{SVG}}}image" for element in root.iter())
    root.attrib |= {
        "role": "img",
        "aria-label": described,
        "width": f"{float(width) * 4 / 3:.0f}",  # pt to px
        "height": f"{float(height) * 4 / 3:.0f}",
        "class": "figure light-only" if raster else "figure",
        "fill": "#000000",  # what matplotlib leaves unsaid
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    ElementTree.register_namespace("", SVG)
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
    return Markup(text.replace("\n", ""))


def recoloured(colour: str) -> str:
    """The colour that a dark page shows for one: greys are turned round, dark colours are lightened."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    if max(red, green, blue) - min(red, green, blue) <= 12:
        mean = (red + green + blue) / 3 / 255
        shade = [round(paper + (0xF0 - paper) * (1 - mean) ** 0.8) for paper in PAPER]
        return "#{:02x}{:02x}{:02x}".format(*shade)
    for part in range(20):
        mixed = tuple(round(channel + (255 - channel) * part / 20) for channel in (red, green, blue))
        if contrast(mixed, PAPER) >= LEAST_CONTRAST:
            break
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def contrast(first: Sequence[int], second: Sequence[int]) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    luminances = []
    for colour in (first, second):
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminances.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def _plain(element: ElementTree.Element, key: str, used: set[str]) -> None:
    """Styles to attributes; ids with the page's key; links without their namespace; numbers of two digits."""
    given = element.attrib
    if element.tag == f"{{{SVG}}}svg":
        given.pop("version", None)
    name = given.pop("id", None)
    if name in used:
        given["id"] = f"{key}-{name}"
    link = given.pop(f"{{{LINK}}}href", None)
    if link is not None:
        given["href"] = f"#{key}-{link[1:]}" if link.startswith("#") else link
    for declaration in given.pop("style", "").split(";"):
        attribute, _, value = (text.strip() for text in declaration.partition(":"))
        if attribute == "font":
            found = _FONT.match(value)
            if found is None:
                raise ValueError(f"a font that matplotlib did not write so far: {value}")
            given["font-size"] = found["size"]
            given |= {"font-weight": found["weight"]} if found["weight"] else {}
        elif value and attribute not in ("font-family", "mix-blend-mode"):
            given[attribute] = value
    for attribute, value in given.items():
        value = _REFERENCE.sub(lambda found: f"url(#{key}-{found[1]})", value)
        if attribute in ("d", "x", "y", "transform", "points"):
            value = " ".join(_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", value).split())
        given[attribute] = value
