"""Numbers as tables show them: percent, signed points, raw for CSV, a dash for what there is none of."""

from eval.metrics import metric_of

DASH = "–"

Rows = list[list[str]]


def percent(value: float | None) -> str:
    """A fraction in percent."""
    return DASH if value is None else f"{100 * value:.1f}"


def in_unit(key: str, value: float | None) -> str:
    """A metric's value in its unit: percent, or as it is."""
    if value is None or metric_of(key).unit == "%":
        return percent(value)
    return f"{value:.4f}"


def named(key: str) -> str:
    """A metric's key, with its unit where that is not percent."""
    unit = metric_of(key).unit
    return key if unit == "%" else f"{key} ({unit})"


def probe_words(probe: str) -> str:
    """A probe's name in words."""
    return probe.replace("_", " ")


def titled(key: str) -> str:
    """A metric's title, with the probe behind it where the key names one."""
    probe = key.partition("/")[2]
    return metric_of(key).title + (f": {probe_words(probe)}" if probe else "")


def signed(value: float | None) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return DASH if value is None else f"{100 * value:+.1f}".replace("-", "−")


def raw(value: float | None) -> str:
    """A number as CSV holds it; empty where there is none."""
    return "" if value is None else repr(value)
