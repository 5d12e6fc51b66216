"""Plots of a training, of its latents and of several k."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from esm_sae.figures import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_training(log: pl.DataFrame) -> "Figure":
    """Plot loss by step and FVU by epoch on training and validation rows."""
    figure, axes = new_figure()
    axes.plot(log["step"], log["loss"], color=GREY, linewidth=1, label="loss, by step")
    ends = log.filter(pl.col("train_fvu").is_not_null())
    axes.plot(ends["step"], ends["train_fvu"], "o-", color=BLUE, label="FVU, training rows")
    held_out = ends.filter(pl.col("validation_fvu").is_not_null())
    if len(held_out):
        axes.plot(
            held_out["step"],
            held_out["validation_fvu"],
            "o-",
            color=ORANGE,
            label="FVU, validation rows",
        )
    axes.set(xlabel="step", ylabel="loss, FVU", yscale="log", title="Training")
    axes.legend(frameon=False)
    return figure


def plot_densities(densities: np.ndarray) -> "Figure":
    """Plot on how many of the test rows each latent fires, as a histogram of log10 shares."""
    figure, axes = new_figure()
    firing = densities[densities > 0]
    axes.hist(np.log10(firing), bins=40, color=BLUE)
    unfired = len(densities) - len(firing)
    axes.set(
        xlabel="log10 of the share of test rows a latent fires on",
        ylabel="latents",
        title=f"Firing density ({unfired} of {len(densities)} latents fire on no test row)",
    )
    return figure


def plot_l0(histogram: np.ndarray) -> "Figure":
    """Plot how many latents fire on a test row."""
    figure, axes = new_figure()
    axes.bar(np.arange(len(histogram)), histogram, width=0.9, color=BLUE)
    axes.set(xlabel="L0: latents that fire on a row", ylabel="test rows", title="L0")
    return figure


def plot_comparison(table: pl.DataFrame) -> "Figure":
    """Plot FVU against L0 over k, with PCA of k components beside it.

    Args:
        table: columns ``k``, ``fvu``, ``pca_fvu`` and ``l0_mean``, ascending in k.
    """
    figure, axes = new_figure()
    axes.plot(table["l0_mean"], table["fvu"], "o-", color=BLUE, label="SAE")
    for k, l0, fvu in table.select("k", "l0_mean", "fvu").iter_rows():
        axes.annotate(f"k={k}", (l0, fvu), textcoords="offset points", xytext=(5, 5))
    axes.plot(table["k"], table["pca_fvu"], "s--", color=GREY, label="PCA with k components")
    better = table.filter(pl.col("pca_fvu") < pl.col("fvu"))["k"].to_list()
    says = f"PCA is better at k = {', '.join(map(str, better))}" if better else "SAE is better"
    axes.set(
        xlabel="L0 (SAE), components (PCA)",
        ylabel="FVU on test rows",
        yscale="log",
        title=f"Reconstruction over k: {says}",
    )
    axes.legend(frameon=False)
    return figure
