"""Latents of one SAE whose work several latents of another SAE share."""

import numpy as np
import polars as pl

from esm_sae.analysis.latents.correlation import LatentColumns
from esm_sae.analysis.latents.pair_matches import MATCHED, PairMatch
from esm_sae.formats.analysis_tables import SPLIT_SCHEMA

_FEWEST_PARTS = 2
_PART_CORRELATION = 0.3
_PART_INSIDE = 0.5
# How much more than the best single part the parts together correlate with the whole.
_GAIN = 0.05
_PART = dict(list(SPLIT_SCHEMA.items())[4:])


def split_latents(pair: PairMatch) -> pl.DataFrame:
    """List the latents of an SAE that latents of the other one divide among them.

    A part of a latent is one that correlates with no latent of the first SAE more, by at least
    0.3, and that in at least half of the rows it fires on fires together with the latent. A latent
    is split where it has two parts or more, the sum of their activations correlates with its own
    by more than 0.7, and by at least 0.05 more than any of them: two copies of it are no split.

    Args:
        pair: the SAE whose latents may be split, and the nearest of each in the other.

    Returns:
        A row per part, sorted by latent and part: sae, other, k, other_k, latent, other_latent,
        correlation, inside (share of the part's firing rows on which the latent fires), covered
        (share of the latent's firing rows on which the part fires), parts (how many the latent
        has), joint_correlation (of their sum with the latent).
    """
    whole, parts, nearest = pair.one, pair.other, pair.nearest_of_other
    near = np.flatnonzero(nearest.value >= _PART_CORRELATION)
    near = near[np.argsort(nearest.place[near], kind="stable")]
    latents, starts = np.unique(nearest.place[near], return_index=True)
    groups = np.split(near, starts[1:])
    found = [pl.DataFrame(schema=_PART)]
    for latent, group in zip(latents.tolist(), groups, strict=False):
        inside, covered = _overlaps(whole.columns, parts.columns, latent, group)
        kept = inside >= _PART_INSIDE
        group, values = group[kept], nearest.value[group[kept]]
        if len(group) < _FEWEST_PARTS:
            continue
        joint = _joint_correlation(whole.columns, parts.columns, latent, group)
        if joint > MATCHED and joint >= values.max() + _GAIN:
            columns = {
                "latent": np.full(len(group), whole.numbers[latent]),
                "other_latent": parts.numbers[group],
                "correlation": values,
                "inside": inside[kept],
                "covered": covered[kept],
                "parts": np.full(len(group), len(group)),
                "joint_correlation": np.full(len(group), joint),
            }
            found.append(pl.DataFrame(columns).cast(pl.Schema(_PART)))
    names = {"sae": whole.sae, "other": parts.sae, "k": whole.k, "other_k": parts.k}
    table = pl.concat(found).with_columns(pl.lit(of).alias(name) for name, of in names.items())
    return table.select(list(SPLIT_SCHEMA)).cast(pl.Schema(SPLIT_SCHEMA))


def _overlaps(
    whole: LatentColumns, parts: LatentColumns, latent: int, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    fires = np.zeros(whole.rows, dtype=bool)
    fires[whole.of_latent(latent)[0]] = True
    shared = np.array([int(fires[parts.of_latent(int(part))[0]].sum()) for part in group])
    return shared / parts.firing_rows[group], shared / fires.sum()


def _joint_correlation(
    whole: LatentColumns, parts: LatentColumns, latent: int, group: np.ndarray
) -> float:
    total = np.zeros(parts.rows)
    for part in group:
        rows, values = parts.of_latent(int(part))
        total[rows] += values
    total -= total.mean()
    rows, values = whole.of_latent(latent)
    # The whole's mean drops out, as the sum has been centred.
    product = float(total[rows] @ values.astype(np.float64))
    norms = float(np.sqrt(total @ total)) * float(whole.norms[latent])
    return product / norms if norms > 0 else 0.0
