"""The map of decoder rows as a figure."""

import polars as pl

from esm_sae.figures import GREY, new_figure, png_bytes

# Of the map tab10, without its grey, which is for latents of no cluster.
_COLOURS = (0, 1, 2, 3, 4, 5, 6, 8, 9)


def latent_map_figure(table: pl.DataFrame, density: pl.Series) -> bytes:
    """Draw the map: a dot per latent, larger where it fires more often; the 9 largest clusters.

    Args:
        table: as ``latent_map`` returns it.
        density: share of the rows on which each of these latents fires.
    """
    figure, axes = new_figure(6.8, 5.0)
    table = table.with_columns(area=4 + 60 * density.sqrt())
    rest = (pl.col("cluster") < 0) | (pl.col("cluster") >= len(_COLOURS))
    others = table.filter(rest)
    axes.scatter(others["x"], others["y"], others["area"], color=GREY, alpha=0.45, linewidths=0)
    for number, colour in enumerate(_COLOURS):
        members = table.filter(pl.col("cluster") == number)
        if len(members):
            label = f"cluster {number}: {len(members)} latents"
            axes.scatter(
                members["x"], members["y"], members["area"], color=f"C{colour}", label=label
            )
    clusters = table.filter(pl.col("cluster") >= 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(
        f"Decoder rows of {len(table):,} live latents, by t-SNE of their cosines", fontsize=10
    )
    axes.set_xlabel(
        f"{clusters['cluster'].n_unique()} clusters hold {len(clusters):,} of them; the larger a "
        "dot, the more rows the latent fires on",
        fontsize=9,
    )
    if len(clusters):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return png_bytes(figure)
