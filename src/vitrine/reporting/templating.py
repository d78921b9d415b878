"""Fill the templates of the reports; text from datasets is escaped in HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vitrine.labels import display_name

SIGNIFICANCE = 0.05
"""The p-value below which reports call a difference shown."""


def render(template: str, **values: Any) -> str:
    """Fill a file in templates/; an undefined name is an error."""
    return _ENVIRONMENT.get_template(template).render(values)


def percent(value: float) -> str:
    return "" if pd.isna(value) else f"{100 * value:.1f} %"


def with_interval(row: Mapping[Any, Any], name: str) -> str:
    """Format a fraction and its interval in percent, such as "41.5 % [23, 60]"; empty if there is none."""
    if name not in row or pd.isna(row[name]):
        return ""
    low, high = row[f"{name}_ci_low"], row[f"{name}_ci_high"]
    return f"{100 * row[name]:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"


def points(row: Mapping[Any, Any]) -> str:
    """Format a difference of accuracies with its interval and p-value."""
    gain, low, high = (100 * row[key] for key in ("difference", "difference_ci_low", "difference_ci_high"))
    p_value = "p < 0.001" if row["p_value"] < 0.0005 else f"p = {row['p_value']:.3f}"
    return f"{gain:+.1f} points [{low:+.0f}, {high:+.0f}], {p_value}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table; the first column is text, the others are right-aligned. Pipes in cells are escaped."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _in_words(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.globals["significance"] = SIGNIFICANCE
_ENVIRONMENT.filters |= {
    "display_name": display_name,
    "in_words": _in_words,
    "percent": percent,
    "points": points,
    "table": lambda rows, header: markdown_table(header, rows),
    "with_interval": with_interval,
}
