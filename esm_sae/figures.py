"""Figures as PNG bytes: one style, and the same bytes for the same data."""

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2166ac", "#d6604d", "#8c8c8c"

_DOTS_PER_INCH = 110


def new_figure(width: float = 6.4, height: float = 3.6) -> "tuple[Figure, Axes]":
    """Return a figure of the given size in inches and its axes, without a window system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def add_legend(axes: "Axes", title: str | None = None) -> None:
    """Put a legend where it hides least of what is drawn."""
    # The place is given although it is the default: without it Matplotlib warns of a slow search
    # by the clock, that is whenever the machine is busy.
    axes.legend(loc="best", title=title, frameon=False)


def shortened(name: str) -> str:
    """Return a foreign name as a label: at most 32 characters, and no formula."""
    text = name if len(name) <= 32 else f"{name[:31]}…"
    return text.replace("$", r"\$")


def png_bytes(figure: "Figure") -> bytes:
    """Render a figure as PNG, with nothing of the clock or the library's version in it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names may be in any script; what the font lacks is drawn as a box.
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font", category=UserWarning
        )
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
