"""A figure of taxon clusters: the largest ones, all sizes, and what was left out."""

from typing import TYPE_CHECKING, Any

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.figures import BLUE, GREY, ORANGE, png_bytes, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LARGEST = 15
_FEWEST_BARS = 4
_WIDTH, _HEIGHT = 10.0, 4.2
_WIDTH_WITH_RANK = 13.0
_COLOURS = {
    "above_rank": (ORANGE, "above the rank"),
    "rank_missing": ("#f4a582", "no such rank in the lineage"),
    "unknown_taxon": (GREY, "unknown taxon"),
    "without_taxon": ("#d0d0d0", "no taxon in the header"),
}


def taxa_figure(statistics: storage.PathLike) -> bytes:
    """Draw what ``cluster_statistics.json`` says of taxon clusters.

    The largest taxa as bars; the size of every taxon by its place, on logarithmic axes; and,
    where the taxa were lifted to a rank, the share of the records left out by the member count
    of their UniRef cluster.

    Returns:
        The figure as PNG.

    Raises:
        InputError: the file is not such statistics.
    """
    content = storage.read_json(statistics)
    try:
        sizes = sorted((-entry["size"], name) for name, entry in content["clusters"].items())
        sizes = [(-size, name) for size, name in sizes]
        return _drawn(sizes, content.get("left_out", []), content.get("rank"))
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            f"{statistics}: not the statistics of taxon clusters; cluster by taxon again"
        ) from None


def _drawn(
    sizes: list[tuple[int, str]], by_members: list[dict[str, Any]], rank: str | None
) -> bytes:
    from matplotlib.figure import Figure

    panels = 3 if by_members else 2
    width = _WIDTH_WITH_RANK if by_members else _WIDTH
    figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
    axes = figure.subplots(1, panels)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    _draw_largest(axes[0], sizes[:_LARGEST])
    _draw_sizes(axes[1], np.array([size for size, _ in sizes]))
    if by_members:
        _draw_left_out(axes[2], by_members, rank)
    return png_bytes(figure)


def _draw_largest(axes: "Axes", largest: list[tuple[int, str]]) -> None:
    names = [shortened(name) for _, name in largest]
    places = range(len(largest))
    axes.barh(places, [size for size, _ in largest], color=BLUE)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("proteins")
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"the {len(largest)} largest taxa", fontsize=10)


def _draw_sizes(axes: "Axes", sizes: np.ndarray) -> None:
    # Of steps only the ends are drawn: half a million points show no more.
    ends = np.flatnonzero(np.diff(sizes, append=-1))
    starts = np.concatenate([[0], ends[:-1] + 1])
    corners = np.unique(np.concatenate([starts, ends]))
    axes.plot(corners + 1, sizes[corners], color=BLUE, marker=".", markersize=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("taxa, from the largest")
    axes.set_ylabel("proteins")
    axes.set_title(f"sizes of all {len(sizes):,} taxa", fontsize=10)


def _draw_left_out(axes: "Axes", by_members: list[dict[str, Any]], rank: str | None) -> None:
    places = np.arange(len(by_members))
    records = np.array([row["records"] for row in by_members])
    below = np.zeros(len(by_members))
    for reason, (colour, label) in _COLOURS.items():
        share = np.array([row[reason] for row in by_members]) / records * 100
        if share.any():
            axes.bar(places, share, bottom=below, color=colour, label=label)
        below += share
    axes.set_xticks(places, [row["members"] for row in by_members], fontsize=8, rotation=30)
    # One bar alone would fill the panel.
    axes.set_xlim(-0.6, max(len(by_members), _FEWEST_BARS) - 0.4)
    axes.set_ylim(0, 100)
    axes.set_ylabel("left out, % of the proteins")
    axes.set_xlabel("members of the UniRef cluster")
    axes.set_title(f"left out at rank {rank}", fontsize=10)
    if below.any():
        axes.legend(fontsize=8, frameon=False, loc="upper left")
