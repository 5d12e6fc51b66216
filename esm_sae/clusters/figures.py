"""A map of the embedding clusters."""

from typing import TYPE_CHECKING

import polars as pl

from esm_sae import storage
from esm_sae.figures import GREY, new_figure, png_bytes, shortened
from esm_sae.formats.cluster_summary import read_map, read_summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

# Of the map tab10, without its grey, which is for noise.
_COLOURS = (0, 1, 2, 3, 4, 5, 6, 8, 9)


def embedding_map(summary: storage.PathLike) -> bytes:
    """Draw the map beside a summary of clusters: the largest in colour, named by their labels.

    Noise is pale grey, the other clusters are grey. A name stands at its cluster's medoid; a
    cluster without a label is called by its number.

    Args:
        summary: the table that ``describe_clusters`` wrote.

    Returns:
        The figure as PNG.

    Raises:
        InputError: the summary or its map is missing or no such table.
    """
    clusters = read_summary(summary).head(len(_COLOURS))
    proteins, axis_names = read_map(summary)
    figure, axes = new_figure(7.2, 4.6)
    noise = pl.col("cluster") < 0
    large = pl.col("cluster") < len(_COLOURS)
    _scatter(axes, proteins.filter(noise), 3, GREY, 0.25, "noise")
    _scatter(axes, proteins.filter(~noise & ~large), 4, "#4d4d4d", 0.45, "other clusters")
    named = []
    for row in clusters.iter_rows(named=True):
        members = proteins.filter(pl.col("cluster") == row["cluster"])
        medoid = members.row(by_predicate=pl.col("row") == row["medoid_row"], named=True)
        name = shortened(row["label"] or f"cluster {row['cluster']}")
        colour = _colour(row["cluster"])
        _scatter(axes, members, 12, colour, 1, f"{name} ({row['size']:,})")
        named.append((medoid["x"], medoid["y"], name))
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], xticks=[], yticks=[])
    # One scale for both axes, or distances on the map would mean nothing.
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)
    figure.draw_without_rendering()
    _name(axes, named)
    return png_bytes(figure)


def _colour(cluster: int) -> object:
    from matplotlib import colormaps

    return colormaps["tab10"](_COLOURS[cluster])


def _name(axes: "Axes", named: list[tuple[float, float, str]]) -> None:
    """Write names at their points; one that would cover another is left to the legend."""
    from matplotlib.patheffects import withStroke

    taken: list[Bbox] = []
    for x, y, name in named:
        text = axes.annotate(
            name,
            (x, y),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=8,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)


def _scatter(
    axes: "Axes", proteins: pl.DataFrame, size: float, colour: object, opacity: float, name: str
) -> None:
    axes.scatter(
        proteins["x"], proteins["y"], s=size, color=colour, alpha=opacity, linewidths=0, label=name
    )
