"""What a model loses by an SAE, as a figure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from esm_sae.analysis.model_fidelity.splicing import RUNS
from esm_sae.figures import BLUE, GREY, ORANGE, new_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {
    "clean": "model as it is",
    "spliced": "SAE spliced in",
    "mean": "mean ablation",
    "zero": "zero ablation",
}
_PLACES = (
    ("all", "states of all residues replaced", BLUE, "o", -0.12),
    ("unmasked", "of unmasked residues only", ORANGE, "s", 0.12),
)

# Of the spread of the other runs, how much further to the right is shown.
_MOST_BEYOND = 5


def fidelity_figure(
    found: Mapping[str, Mapping[str, Any]], by_residue: pl.DataFrame, counts: Mapping[str, Any]
) -> bytes:
    """Draw the cross-entropy of each run with its interval, and of each amino acid.

    Args:
        found: of ``loss_recovered``.
        by_residue: of ``by_amino_acid``.
        counts: proteins, masked_residues and k.
    """
    figure, axes = new_figure(9.2, 4.2)
    axes.remove()
    left, right = figure.subplots(1, 2, width_ratios=(5, 4))
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    _draw_runs(left, found)
    _draw_residues(right, by_residue)
    figure.suptitle(
        f"k = {counts['k']}, layer {counts['layer']}: {counts['masked_residues']:,} masked "
        f"residues of {counts['proteins']:,} held-out proteins",
        fontsize=11,
    )
    return png_bytes(figure)


def _draw_runs(axes: "Axes", found: Mapping[str, Mapping[str, Any]]) -> None:
    places = np.arange(len(RUNS))
    entropies = {
        place: np.array([figures[f"cross_entropy_{run}"] for run in RUNS])
        for place, figures in found.items()
    }
    # Zeros can lead so far astray that beside them all else would be one point.
    of_others = np.concatenate([values[:-1] for values in entropies.values()])
    edge = of_others.max() + _MOST_BEYOND * max(np.ptp(of_others), 0.01)
    for place, label, colour, marker, offset in _PLACES:
        figures, values = found[place], entropies[place]
        # A single cluster has no intervals.
        bounds = [
            [figures[f"cross_entropy_{run}_{side}"] for run in RUNS] for side in ("low", "high")
        ]
        low, high = np.array(bounds, dtype=float)
        errors = np.clip(np.nan_to_num(np.stack([values - low, high - values])), 0, None)
        inside = values <= edge
        axes.errorbar(
            values[inside],
            (places + offset)[inside],
            xerr=errors[:, inside],
            fmt=marker,
            color=colour,
            capsize=3,
            markersize=5,
            label=label,
        )
        for value, at in zip(values[~inside], (places + offset)[~inside], strict=True):
            axes.set_xlim(right=edge)
            axes.text(edge, at, f"{value:.1f} →", color=colour, ha="right", va="center")
    axes.axvline(found["all"]["cross_entropy_clean"], color=GREY, linestyle=":", linewidth=1)
    axes.set_yticks(places, [_NAMES[run] for run in RUNS])
    axes.set(
        ylim=(len(RUNS) - 0.4, -0.6),
        xlabel="cross-entropy of masked residues, nats (95% interval)",
        title="What the model loses",
    )
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _draw_residues(axes: "Axes", table: pl.DataFrame) -> None:
    known = table.filter(pl.col("masked_residues") > 0).sort("cross_entropy_clean")
    places = np.arange(len(known))
    clean, spliced = (known[f"cross_entropy_{run}"].to_numpy() for run in RUNS[:2])
    axes.hlines(places, clean, spliced, color=GREY, linewidth=1)
    axes.plot(clean, places, "o", color="black", markersize=4, label=_NAMES["clean"])
    axes.plot(spliced, places, "o", color=BLUE, markersize=4, label=_NAMES["spliced"])
    axes.set_yticks(places, known["residue"].to_list(), fontsize=8)
    axes.set(xlabel="cross-entropy, nats", title="By amino acid")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
