"""The heatmap of taxa against the latents that tell them apart."""

import numpy as np
import polars as pl

from esm_sae.figures import ORANGE, new_figure, png_bytes

_MAX_TAXA, _MAX_LATENTS = 40, 40
_LABEL_LENGTH = 42


def heatmap_png(table: pl.DataFrame, taxa: pl.DataFrame) -> bytes:
    """Draw the firing frequency of latents by taxon, and which of the cells are taxonomic.

    Shown are at most 40 latents: those that are taxonomic in a taxon shown, of more than 40 the
    ones with the least p-values, then those with the largest standard deviation of the frequency
    between the taxa. Of more than 40 taxa the largest are shown.

    Args:
        table: the table of ``feature_taxonomy``.
        taxa: taxon and proteins.
    """
    shown = taxa.sort("proteins", "taxon", descending=[True, False]).head(_MAX_TAXA)
    frequencies, called, latents = shown_cells(table, shown["taxon"].to_list())
    rows = _order_by_similarity(frequencies)
    frequencies, called = frequencies[rows], called[rows]
    peak = np.argmax(frequencies, axis=0)
    columns = np.lexsort((-frequencies.max(axis=0), peak))
    labels = [
        f"{_shorten(taxon)}  (n={proteins})"
        for taxon, proteins in shown[rows.tolist()].select("taxon", "proteins").iter_rows()
    ]
    return _draw(frequencies[:, columns], called[:, columns], labels, latents[columns])


def shown_cells(table: pl.DataFrame, taxa: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose latents to show.

    Returns:
        Firing frequency and whether the latent is taxonomic, each (taxa, latents), in the order
        of ``taxa``; and the latents.
    """
    row_of = {taxon: row for row, taxon in enumerate(taxa)}
    firing = table.filter(pl.col("taxon").is_in(taxa))
    latents, columns = np.unique(firing["latent"].to_numpy(), return_inverse=True)
    rows = [row_of[taxon] for taxon in firing["taxon"]]
    frequencies = np.zeros((len(taxa), len(latents)))
    frequencies[rows, columns] = firing["firing_frequency"].to_numpy()
    called = np.zeros(frequencies.shape, dtype=bool)
    called[rows, columns] = firing["taxonomic"].to_numpy()
    p_values = np.ones(frequencies.shape)
    p_values[rows, columns] = firing["p_value"].fill_null(1).to_numpy()
    least_p = np.where(called, p_values, 1).min(axis=0)
    chosen = np.lexsort((-frequencies.std(axis=0), least_p))[:_MAX_LATENTS]
    return frequencies[:, chosen], called[:, chosen], latents[chosen]


def _order_by_similarity(frequencies: np.ndarray) -> np.ndarray:
    if min(frequencies.shape) < 2:
        return np.arange(len(frequencies))
    centred = frequencies - frequencies.mean(axis=0)
    first = np.linalg.svd(centred, full_matrices=False)[0][:, 0]
    # The sign of a singular vector is arbitrary.
    return np.argsort(first * np.sign(first[np.argmax(np.abs(first))] or 1), kind="stable")


def _shorten(label: str) -> str:
    return label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - 1] + "…"


def _draw(
    frequencies: np.ndarray, called: np.ndarray, labels: list[str], latents: np.ndarray
) -> bytes:
    width = 4.6 + 0.19 * max(len(latents), 12)
    figure, axes = new_figure(width, 1.9 + 0.24 * max(len(labels), 3))
    if len(latents):
        image = axes.imshow(frequencies, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
        bar.set_label("share of the taxon's proteins\nin which the latent fires", fontsize=9)
        rows, columns = np.nonzero(called)
        axes.scatter(columns, rows, s=26, color=ORANGE, edgecolor="white", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axes.set_xticks(range(len(latents)), [str(latent) for latent in latents], fontsize=7)
    axes.tick_params(axis="x", rotation=90, length=2)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel(f"latent (the {len(latents)} that tell the taxa apart most)")
    told = "dots: taxonomic" if called.any() else "none is taxonomic"
    axes.set_title(
        f"Firing frequency by taxon; {told}\n"
        "(q < 5% within strata of length and composition, 3 similarity clusters or more)",
        fontsize=10,
    )
    return png_bytes(figure)
