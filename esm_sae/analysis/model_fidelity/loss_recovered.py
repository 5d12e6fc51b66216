"""From the outcomes at masked residues to cross-entropies and the share of the loss recovered."""

import math
from typing import Any

import numpy as np
import polars as pl

from esm_sae.analysis.model_fidelity.hidden_residues import AMINO_ACIDS
from esm_sae.analysis.model_fidelity.splicing import PASSES, PLACES, RUNS, Outcome

ABLATIONS = ("zero", "mean")

_DRAWS = 1_000
_AT_ONCE = 50
_INTERVAL = (0.025, 0.975)


class Tally:
    """Sums over masked residues by group, such as by protein.

    Attributes:
        count: masked residues of each group, (G,) float64.
        cross_entropy: sums over them, (G, passes) float64.
        hits: likewise.
        divergence: likewise.
    """

    def __init__(self, groups: int) -> None:
        self.count = np.zeros(groups)
        self.cross_entropy, self.hits, self.divergence = np.zeros((3, groups, len(PASSES)))

    def add(self, groups: np.ndarray, outcome: Outcome) -> None:
        """Count masked residues in: the group of each, (M,), and what became of it."""
        np.add.at(self.count, groups, 1)
        np.add.at(self.cross_entropy, groups, outcome.cross_entropy)
        np.add.at(self.hits, groups, outcome.hit)
        np.add.at(self.divergence, groups, outcome.divergence)


def loss_recovered(tally: Tally, clusters: np.ndarray, *, seed: int) -> dict[str, dict[str, Any]]:
    """Return the figures of both choices of places, with 95% bootstrap intervals.

    CE is the mean cross-entropy of the masked residues, accuracy the share of them that has the
    largest logit, KL the mean of KL(clean || run). The share of the loss recovered is
    (CE_ablated - CE_spliced) / (CE_ablated - CE_clean) (Bricken et al. 2023, Towards
    Monosemanticity), against zero and mean ablation. It is None where the interval of its
    denominator does not lie above 0: then there is no loss to speak of that could be recovered.

    Whole similarity clusters are drawn with replacement, as many as there are, 1,000 times, the
    same ones for all figures (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter
    13); the interval is of the 2.5% and 97.5% quantiles. Of a single cluster there is none.

    Args:
        tally: by protein, (P,) groups.
        clusters: number of each protein's similarity cluster, (P,).
        seed: of the draws.

    Returns:
        By place, ``"all"`` and ``"unmasked"``, the figures by name.
    """
    draws = _draws(tally, clusters, seed)
    totals = {name: sums[None].sum(axis=1) for name, sums in _sums(tally).items()}
    return {place: _figures(totals, draws, place) for place in PLACES}


def by_amino_acid(tally: Tally) -> pl.DataFrame:
    """Return one row per amino acid, with the states of all residues replaced.

    Columns: residue, masked_residues, cross_entropy of each run (nats), accuracy of the clean and
    the spliced run, kl_spliced (nats); null where none of its residues was hidden.

    Args:
        tally: by number in ``AMINO_ACIDS``, 20 groups.
    """
    with np.errstate(invalid="ignore"):
        means = {name: sums / tally.count[:, None] for name, sums in _sums(tally).items()}
    columns = {
        **{f"cross_entropy_{run}": means["cross_entropy"][:, _column(run)] for run in RUNS},
        **{f"accuracy_{run}": means["hits"][:, _column(run)] for run in RUNS[:2]},
        "kl_spliced": means["divergence"][:, _column("spliced")],
    }
    return pl.DataFrame(
        {"residue": list(AMINO_ACIDS), "masked_residues": tally.count.astype(np.int64), **columns}
    ).with_columns(pl.col(list(columns)).fill_nan(None))


def _sums(tally: Tally) -> dict[str, np.ndarray]:
    return {
        "cross_entropy": tally.cross_entropy,
        "hits": tally.hits,
        "divergence": tally.divergence,
        "count": tally.count[:, None],
    }


def _draws(tally: Tally, clusters: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the sums of each draw, (1,000, ..)."""
    count = int(clusters.max()) + 1
    by_cluster = {}
    for name, sums in _sums(tally).items():
        by_cluster[name] = np.zeros((count, sums.shape[1]))
        np.add.at(by_cluster[name], clusters, sums)
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in by_cluster}
    for _ in range(_DRAWS // _AT_ONCE):
        weights = np.stack(
            [
                np.bincount(generator.integers(count, size=count), minlength=count)
                for _ in range(_AT_ONCE)
            ]
        )
        for name, sums in by_cluster.items():
            drawn[name].append(weights @ sums)
    if count == 1:
        return {name: np.full((1, sums.shape[1]), np.nan) for name, sums in by_cluster.items()}
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def _figures(
    totals: dict[str, np.ndarray], draws: dict[str, np.ndarray], place: str
) -> dict[str, Any]:
    def means(name: str, run: str) -> tuple[float, np.ndarray]:
        column = _column(run, place)
        value, drawn = (sums[name][:, column] / sums["count"][:, 0] for sums in (totals, draws))
        return float(value[0]), drawn

    entropies = {run: means("cross_entropy", run) for run in RUNS}
    figures: dict[str, Any] = {}
    for run, (value, drawn) in entropies.items():
        figures |= _with_interval(f"cross_entropy_{run}", value, drawn)
        figures[f"perplexity_{run}"] = math.exp(value)
        figures[f"accuracy_{run}"] = means("hits", run)[0]
    for run in RUNS[1:]:
        figures |= _with_interval(f"kl_{run}", *means("divergence", run))
    for ablation in ABLATIONS:
        figures |= _recovered(entropies, ablation)
    return figures


def _recovered(
    entropies: dict[str, tuple[float, np.ndarray]], ablation: str
) -> dict[str, float | str | None]:
    name = f"recovered_of_{ablation}"
    (clean, *_), (spliced, *_), (ablated, *_) = (
        entropies[run] for run in ("clean", "spliced", ablation)
    )
    drawn = {run: entropies[run][1] for run in ("clean", "spliced", ablation)}
    lost = drawn[ablation] - drawn["clean"]
    low, high = _quantiles(lost)
    # Not 'low <= 0': a single cluster has no interval, which is NaN.
    if not low > 0:
        interval = "no interval" if math.isnan(low) else f"95% interval {low:.3g} to {high:.3g}"
        reason = f"the {ablation} ablation costs {ablated - clean:.3g} nats ({interval})"
        return {name: None, f"{name}_low": None, f"{name}_high": None, f"{name}_reason": reason}
    shares = np.divide(
        drawn[ablation] - drawn["spliced"], lost, out=np.full(len(lost), np.nan), where=lost > 0
    )
    return {**_with_interval(name, (ablated - spliced) / (ablated - clean), shares)}


def _with_interval(name: str, value: float, drawn: np.ndarray) -> dict[str, float | None]:
    low, high = _quantiles(drawn)
    if math.isnan(low):
        return {name: value, f"{name}_low": None, f"{name}_high": None}
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _quantiles(drawn: np.ndarray) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, _INTERVAL)
    return float(low), float(high)


def _column(run: str, place: str = "all") -> int:
    return PASSES.index(run if run == "clean" else f"{run}:{place}")
