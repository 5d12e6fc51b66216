"""A picture of what a sample consists of."""

from collections.abc import Mapping
from typing import Any

from esm_sae.figures import BLUE, GREY, add_legend, new_figure, png_bytes, shortened


def sample_figure(summary: Mapping[str, Any]) -> bytes:
    """Draw the lengths of a sample's proteins and of its source's, and its commonest taxa.

    Args:
        summary: of the sample's manifest.

    Returns:
        The figure as PNG.
    """
    figure, lengths = new_figure(9.6, 3.4)
    _draw_lengths(lengths, summary)
    if summary["top_taxa"]:
        left, right = figure.add_gridspec(1, 2, width_ratios=[3, 2])
        lengths.set_subplotspec(left)
        taxa = figure.add_subplot(right)
        taxa.spines[["top", "right"]].set_visible(False)
        _draw_taxa(taxa, summary)
    return png_bytes(figure)


def _draw_lengths(axes: Any, summary: Mapping[str, Any]) -> None:
    rows = summary["lengths"]
    places = range(len(rows))
    for offset, name, total, colour in (
        (-0.2, "read", summary["read"], GREY),
        (0.2, "sampled", summary["sampled"], BLUE),
    ):
        shares = [100 * row[name] / total for row in rows]
        places_of_bars = [place + offset for place in places]
        axes.bar(places_of_bars, shares, width=0.4, color=colour, label=f"{total:,} {name}")
    axes.set_xticks(places, [row["length"] for row in rows], rotation=45, ha="right")
    axes.set_xlabel("residues")
    axes.set_ylabel("% of the proteins")
    add_legend(axes)


def _draw_taxa(axes: Any, summary: Mapping[str, Any]) -> None:
    rows = summary["top_taxa"][::-1]
    places = range(len(rows))
    axes.barh(places, [row["records"] for row in rows], color=BLUE)
    axes.set_yticks(places, [shortened(row["taxon"]) for row in rows], fontsize=8)
    axes.set_xlabel("sampled proteins")
    axes.set_title(f"commonest of {summary['taxa']:,} taxa", fontsize=10)
