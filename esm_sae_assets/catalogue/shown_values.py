"""How figures, tables and plots are shown on an asset's page.

Dagster draws a plot over time of every number, so what cannot change between runs of one asset
partition is text. Markdown of less than 1,000 characters is shown in place, where what is too wide
is cut off; longer Markdown, as all plots are, is behind a click and can be scrolled. Names are
wrapped at spaces alone.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

Metadata = dict[str, Any]

_WIDEST_NAME = 26
_WIDEST_CELL = 48
_WIDEST_IN_PLACE = 52
_LEAST_BEHIND_A_CLICK = 1_000
_COLOURS = 128

# The same in every run: nothing to plot.
_CONSTANT = {"seed", "k", "latent_dim", "width", "files", "layer"}


def in_order(values: Mapping[str, Any]) -> Metadata:
    """Return values ready to show: plots and pages, then figures, tables, and texts.

    Counts by name get a line each, so that each has its plot. What is empty is left out.
    """
    shown: Metadata = {}
    for name, value in values.items():
        shown |= {_wrappable(label): line for label, line in _lines(name, value).items()}
    return dict(sorted(shown.items(), key=lambda item: _place(item[1])))


def plot(source: Path | bytes, title: str = "") -> dg.MarkdownMetadataValue:
    """Show a PNG in the metadata, in fewer colours than it has: it is kept in the event log."""
    png = source.read_bytes() if isinstance(source, Path) else source
    encoded = base64.b64encode(_in_few_colours(png)).decode()
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{encoded})")


def page(address: str) -> dg.MetadataValue:
    """Show where a page to browse is; from a page of the web, browsers do not open a file's."""
    on_the_web = address.startswith(("http://", "https://"))
    return dg.MetadataValue.url(address) if on_the_web else dg.MetadataValue.path(address)


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """Show a few rows as a table, behind a click if it is wide."""
    if not rows:
        return dg.MetadataValue.md("(none)")
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["---"] * len(widths)
    if sum(width + 2 for width in widths) > _WIDEST_IN_PLACE:
        rule[0] = "-" * _LEAST_BEHIND_A_CLICK
    heading, *body = ([_escaped(cell) for cell in line] for line in cells)
    lines = ("| " + " | ".join(line) + " |" for line in (heading, rule, *body))
    return dg.MetadataValue.md("\n".join(lines))


def _wrappable(name: str) -> str:
    return name if len(name) <= _WIDEST_NAME else name.replace("_", " ")


def _lines(name: str, value: Any) -> Metadata:
    if isinstance(value, Mapping):
        return _lines_of_mapping(name, value)
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return {name: table(value)}
    if isinstance(value, list):
        return {name: ", ".join(map(_cell, value)) or "none"}
    if isinstance(value, float):
        return {name: float(f"{value:.6g}")}
    if value is None or value == "":
        return {}
    return {name: str(value) if name in _CONSTANT else value}


def _lines_of_mapping(name: str, value: Mapping[str, Any]) -> Metadata:
    parts = list(value.values())
    if all(isinstance(part, Mapping) for part in parts):
        first = name.removesuffix("s")
        return {name: table([{first: key, **part} for key, part in value.items()])}
    if all(isinstance(part, int | float) for part in parts):
        figures = (_lines(f"{name}: {key}", part) for key, part in value.items())
        return {label: figure for each in figures for label, figure in each.items()}
    return {name: table([{"": key, name: part} for key, part in value.items()])}


def _place(value: Any) -> int:
    if isinstance(value, dg.MarkdownMetadataValue):
        return 0 if (value.md_str or "").startswith("![") else 2
    if isinstance(value, dg.UrlMetadataValue | dg.PathMetadataValue):
        return 0
    return 1 if isinstance(value, int | float) and not isinstance(value, bool) else 3


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDEST_CELL else text[: _WIDEST_CELL - 1] + "…"


def _escaped(text: str) -> str:
    # Names come from headers: as Markdown or HTML they could bring images and links of their own.
    return re.sub(r"([\\`*_\[\]<>&!|~])", r"\\\1", text)


def _in_few_colours(png: bytes) -> bytes:
    # Only here: matplotlib brings Pillow, and loading the definitions needs neither.
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        # The usual method, median cut, loses the colour of a few dots.
        reduced = image.convert("RGB").quantize(
            _COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
    written = io.BytesIO()
    reduced.save(written, "PNG")
    return min(written.getvalue(), png, key=len)
