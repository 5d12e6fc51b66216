"""Plots of a training, of its latents and of several k."""

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from esm_sae.figures import BLUE, GREY, ORANGE, add_legend, new_figure, shortened
from esm_sae.sae.subgroups import LENGTH, OTHER, TAXON, UNKNOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TAXA_SHOWN = 12
_BELOW: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False}


def plot_training(log: pl.DataFrame) -> "Figure":
    """Plot the course of a training over its epochs: loss and FVU, dead latents, learning rate.

    Args:
        log: ``metrics.parquet`` of a training folder.
    """
    figure, (top, middle, bottom) = _panels(3, 1, height=5.6, ratios=(3, 1.5, 1), sharex=True)
    last = log.row(-1, named=True)
    log = log.with_columns((pl.col("step") * last["epoch"] / last["step"]).alias("at"))
    top.plot(log["at"], log["loss"], color=GREY, linewidth=1, label="loss, auxiliary one included")
    for column, colour, label in (
        ("train_fvu", BLUE, "FVU, training rows"),
        ("validation_fvu", ORANGE, "FVU, validation rows"),
    ):
        ends = log.filter(pl.col(column).is_not_null())
        if len(ends):
            top.plot(ends["at"], ends[column], "o-", markersize=4, color=colour, label=label)
    top.set(ylabel="loss, FVU", yscale="log", title="Training")
    add_legend(top)
    middle.plot(log["at"], 100 * log["dead_share"], color=BLUE)
    middle.set(ylabel="dead latents, %")
    middle.set_ylim(bottom=0)
    bottom.plot(log["at"], log["learning_rate"], color=GREY)
    bottom.set(xlabel="epoch", ylabel="learning rate")
    bottom.set_ylim(bottom=0)
    return figure


def plot_densities(densities: np.ndarray, k: int) -> "Figure":
    """Plot on how many of the test rows each latent fires, as a histogram of log10 shares."""
    figure, axes = new_figure()
    firing = densities[densities > 0]
    axes.hist(np.log10(firing), bins=40, color=BLUE)
    uniform = k / len(densities)
    label = f"uniform use, k/L = {uniform:.2g}"
    axes.axvline(math.log10(uniform), color=GREY, linestyle="--", label=label)
    unfired = len(densities) - len(firing)
    axes.set(
        xlabel="log10 of the share of test rows a latent fires on",
        ylabel="latents",
        title=f"Firing density ({unfired:,} of {len(densities):,} latents fire on no test row)",
    )
    add_legend(axes)
    return figure


def plot_l0(histogram: np.ndarray) -> "Figure":
    """Plot how many latents fire on a test row, from the number of rows with 0, 1, .."""
    figure, axes = new_figure()
    axes.bar(np.arange(len(histogram)), histogram, width=0.9, color=BLUE)
    mean = float(np.average(np.arange(len(histogram)), weights=histogram))
    axes.locator_params(axis="x", integer=True)
    axes.set(
        xlabel="L0: latents that fire on a row",
        ylabel="test rows",
        title=f"L0 (mean {mean:.1f} of at most {len(histogram) - 1})",
    )
    return figure


def plot_decoder_cosines(latents: pl.DataFrame, width: int) -> "Figure":
    """Plot how near the decoder rows of the latents that fire are to others, and to their start.

    Args:
        latents: as ``latents.latents_table`` makes it.
        width: D.
    """
    live = latents.filter(pl.col("density") > 0)
    figure, (left, right) = _panels(1, 2, width=7.6)
    largest, first = (live[name].drop_nulls() for name in ("max_decoder_cosine", "initial_cosine"))
    left.hist(largest, bins=40, color=BLUE)
    random = _nearest_of_random(len(largest), width)
    left.axvline(random, color=GREY, linestyle="--", label=f"random directions, {random:.2f}")
    left.set(xlabel="largest cosine with another latent", ylabel="latents", title="Decoder rows")
    add_legend(left)
    if len(first):
        right.hist(first, bins=40, color=BLUE)
    right.set(xlabel="cosine with the initial direction", ylabel="latents")
    right.set_title("Decoder rows before and after" if len(first) else "Initial directions unknown")
    return figure


def plot_subgroups(groups: pl.DataFrame, fvu: float) -> "Figure":
    """Plot FVU by taxon, of the 12 with most rows, and by protein length.

    Args:
        groups: as ``subgroups.SubgroupMeter.table`` makes it.
        fvu: of all rows.
    """
    taxa, lengths = (groups.filter(pl.col("kind") == kind) for kind in (TAXON, LENGTH))
    rest = pl.col("group").is_in([OTHER, UNKNOWN])
    named = taxa.filter(~rest)
    of_named = f", {_TAXA_SHOWN} of {len(named):,}" if len(named) > _TAXA_SHOWN else ""
    taxa = pl.concat([named.head(_TAXA_SHOWN), taxa.filter(rest)])
    bars = max(len(taxa), len(lengths))
    figure, panels = _panels(1, 2, width=8.4, height=1.5 + 0.26 * bars, sharex=True)
    titles = (f"By taxon (proteins){of_named}", "By length (proteins)")
    for axes, table, title in zip(panels, (taxa, lengths), titles, strict=True):
        names = [
            f"{shortened(name)} ({proteins:,})"
            for name, proteins in table.select("group", "proteins").iter_rows()
        ]
        places = np.arange(len(table))
        axes.barh(places, table["fvu"], color=BLUE, label="FVU of the group's test rows")
        own = table["fvu"] / table["relative_variance"]
        axes.plot(own, places, "D", color="black", markersize=3, label="over their own spread")
        axes.axvline(fvu, color=ORANGE, linestyle="--", label=f"FVU of all test rows, {fvu:.3g}")
        axes.set_yticks(places, names, fontsize="small")
        axes.set(ylim=(bars - 0.5, -0.5), title=title)
        axes.locator_params(axis="x", nbins=4)
    figure.legend(*panels[0].get_legend_handles_labels(), **_BELOW)
    return figure


def plot_comparison(table: pl.DataFrame) -> "Figure":
    """Plot FVU against L0 over k with its baselines, and dead and unfired latents over k.

    Args:
        table: ``comparison.parquet``, ascending in k.
    """
    figure, (left, right) = _panels(1, 2, width=9.6, height=4.0, ratios=(3, 2))
    for k, l0, fvu in table.select("k", "l0_mean", "fvu").iter_rows():
        left.annotate(f"k={k}", (l0, fvu), textcoords="offset points", xytext=(0, -14), ha="center")
    for at, column, style, colour, label in (
        ("l0_mean", "fvu", "o-", BLUE, "SAE"),
        ("k", "pca_fvu", "s--", GREY, "PCA, k components"),
        ("k", "random_dictionary_fvu", "x:", GREY, "random dictionary, k of L"),
        ("untrained_l0_mean", "untrained_fvu", "^-", ORANGE, "SAE, untrained encoder"),
    ):
        known = table.drop_nulls([at, column])
        if len(known):
            left.plot(known[at], known[column], style, color=colour, label=label)
    better = table.filter(pl.col("pca_fvu") < pl.col("fvu"))["k"].to_list()
    says = f"PCA better at k = {', '.join(map(str, better))}" if better else "SAE better than PCA"
    left.set(
        xlabel="latents on a row: L0 (SAE), k (the others)",
        ylabel="FVU on test rows",
        yscale="log",
        title=f"Reconstruction over k: {says}",
    )
    left.margins(x=0.1, y=0.1)
    add_legend(left)
    for column, style, colour, label in (
        ("dead_share", "o-", BLUE, "dead: in training's last pass"),
        ("unfired_share", "s-", ORANGE, "unfired on test rows"),
        ("unfired_share_expected", ":", GREY, "unfired if use were uniform"),
    ):
        known = table.drop_nulls(column)
        right.plot(known["k"], 100 * known[column], style, color=colour, label=label)
    right.set(xlabel="k", ylabel="share of the latents, %", title="Silent latents")
    add_legend(right)
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xticks(table["k"])
    return figure


def _panels(
    rows: int,
    columns: int,
    *,
    width: float = 6.4,
    height: float = 3.6,
    ratios: tuple[float, ...] | None = None,
    sharex: bool = False,
) -> "tuple[Figure, list[Axes]]":
    """Return a figure of several axes, with the heights or widths of ``ratios``."""
    figure, axes = new_figure(width, height)
    axes.remove()
    along: dict[str, Any] = {"height_ratios" if rows > 1 else "width_ratios": ratios}
    panels = list(figure.subplots(rows, columns, sharex=sharex, squeeze=False, **along).flat)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _nearest_of_random(count: int, width: int) -> float:
    """Return the median largest cosine of a random direction with ``count - 1`` others.

    A cosine of random directions is normal with variance 1 / D but for small D.
    """
    if count < 2:
        return 0.0
    return min(NormalDist().inv_cdf(0.5 ** (1 / (count - 1))) / math.sqrt(width), 1.0)
