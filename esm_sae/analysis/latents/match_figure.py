"""The shares of latents that SAEs of other seeds have too, as a figure."""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from esm_sae.figures import BLUE, ORANGE, new_figure, png_bytes
from esm_sae.formats.analysis_tables import MAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {"cosine": "By decoder rows (cosine > 0.7)", "correlation": "By activations (r > 0.7)"}
_BELOW: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "frameon": False}


def match_figure(comparison: pl.DataFrame) -> bytes:
    """Draw for each SAE the share of its live latents that each replicate has too.

    A group of bars per k, in it a bar per k of the replicate, of which the dark part is matched
    mutually. The line across a group is the ceiling, the cross in a bar is chance.

    Args:
        comparison: as ``comparison_table`` returns it.
    """
    main = comparison.filter(pl.col("sae") == MAIN)
    figure, axes = new_figure(8.6, 3.9)
    axes.remove()
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (name, title) in zip(panels, _TITLES.items(), strict=True):
        panel.spines[["top", "right"]].set_visible(False)
        _draw(panel, main, name)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(
            "under the bars k of the replicate, below k of the SAE", fontsize=9, labelpad=22
        )
    panels[0].set_ylabel("share of its live latents\nfound in the replicate, %")
    panels[0].set_ylim(0, 100)
    figure.legend(*panels[0].get_legend_handles_labels(), **_BELOW)
    return png_bytes(figure)


def _draw(axes: "Axes", main: pl.DataFrame, name: str) -> None:
    ks, others = (main[column].unique().sort().to_list() for column in ("k", "other_k"))
    width = 0.8 / len(others)
    places = np.array(
        [
            ks.index(k) + (others.index(other_k) - (len(others) - 1) / 2) * width
            for k, other_k in main.select("k", "other_k").iter_rows()
        ]
    )
    matched, mutual, chance, ceiling = (
        100 * main[f"{name}_{figure}"].fill_null(np.nan).to_numpy()
        for figure in ("matched", "mutual", "chance", "ceiling")
    )
    axes.bar(places, matched, 0.92 * width, color=BLUE, alpha=0.35, label="nearest latent matches")
    axes.bar(places, mutual, 0.92 * width, color=BLUE, label="and mutually")
    axes.plot(places, chance, "x", color="black", markersize=5, label="by chance")
    left, right = places - width / 2, places + width / 2
    label = "ceiling: same k, two seeds"
    axes.hlines(ceiling, left, right, color=ORANGE, linestyle="--", label=label)
    live = dict(main.select("k", "live").iter_rows())
    axes.set_xticks(places, [str(k) for k in main["other_k"]], fontsize=8)
    axes.tick_params(axis="x", length=0)
    for place, k in enumerate(ks):
        axes.annotate(
            f"k = {k}: {live[k]:,} live",
            (place, 0),
            xytext=(0, -20),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
            annotation_clip=False,
        )
