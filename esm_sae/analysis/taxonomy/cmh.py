"""The Cochran-Mantel-Haenszel test of many 2 x 2 x S tables with common margins."""

from typing import NamedTuple

import numpy as np

_NORMAL_975 = 1.959963984540054


class StratifiedTables(NamedTuple):
    """For one taxon and L latents: S tables each of taxon or not by firing or not.

    Attributes:
        totals: units in each stratum, (S,) int64.
        sizes: those among them that are of the taxon, (S,) int64.
        firing: those among them on which each latent fires, (S, L) int64.
        hits: those that are both, (S, L) int64.
    """

    totals: np.ndarray
    sizes: np.ndarray
    firing: np.ndarray
    hits: np.ndarray


def null_tails(totals: np.ndarray, sizes: np.ndarray, firing: np.ndarray) -> np.ndarray:
    """Return P(T >= t) of the number T of the taxon's units that fire, given the margins.

    The exact, one-sided form of the test of Cochran (1954, Biometrics 10:417) and Mantel &
    Haenszel (1959, J. Natl. Cancer Inst. 22:719) that there is no association within any
    stratum: T, whose distance from its expectation is their statistic, is then a sum of
    independent hypergeometric counts (Gart 1970, Biometrika 57:471), here convolved. The normal
    approximation would be too small by orders of magnitude just where counts are small and only
    small p-values survive the number of tests.

    Args:
        totals: as of ``StratifiedTables``, (S,).
        sizes: the same, (S,).
        firing: the same, (S, L).

    Returns:
        (L, n + 1) float64 for t = 0 to n, the sum of sizes; p below 1e-25 are given as 1e-25.
    """
    from esm_sae.analysis.taxonomy.cmh_kernels import upper_tails

    tails = np.empty((firing.shape[1], int(sizes.sum()) + 1))
    upper_tails(totals, sizes, np.ascontiguousarray(firing), tails)
    return tails


def odds_ratios(tables: StratifiedTables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate the common odds ratio of each latent's tables, with a 95% interval.

    Mantel & Haenszel's estimate, sum of a d / N over sum of b c / N, and for its logarithm the
    variance of Robins, Breslow & Greenland (1986, Biometrics 42:311). Where one of the sums is 0,
    half a unit is added to each cell, spread over the strata in proportion to their sizes (with
    one stratum: Haldane's and Anscombe's correction), so that all three are finite.

    Returns:
        Estimate, low and high, each (L,) float64; NaN where no stratum has units of the taxon
        and others, firing ones and silent ones.
    """
    cells = _cells(tables)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate, variance = _mantel_haenszel(*cells)
        share = tables.totals[:, None] / max(tables.totals.sum(), 1)
        unbounded = ~np.isfinite(variance)
        corrected = [cell[:, unbounded] + 0.5 * share for cell in cells]
        estimate[unbounded], variance[unbounded] = _mantel_haenszel(*corrected)
        margin = np.exp(_NORMAL_975 * np.sqrt(variance))
    informative = (tables.firing > 0) & (tables.firing < tables.totals[:, None])
    informative &= ((tables.sizes > 0) & (tables.sizes < tables.totals))[:, None]
    silent = ~informative.any(axis=0)
    low, high = estimate / margin, estimate * margin
    for values in (estimate, low, high):
        values[silent] = np.nan
    return estimate, low, high


def _cells(tables: StratifiedTables) -> list[np.ndarray]:
    """Return of each table a (taxon, fires), b (taxon, silent), c (others, fire) and d."""
    a = tables.hits.astype(np.float64)
    b = tables.sizes[:, None] - a
    c = tables.firing - a
    return [a, b, c, tables.totals[:, None] - a - b - c]


def _mantel_haenszel(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the odds ratio and the variance of its logarithm."""
    total = a + b + c + d
    r, s = a * d / total, b * c / total
    p, q = (a + d) / total, (b + c) / total
    sum_r, sum_s = r.sum(axis=0), s.sum(axis=0)
    variance = (
        (p * r).sum(axis=0) / (2 * sum_r**2)
        + (p * s + q * r).sum(axis=0) / (2 * sum_r * sum_s)
        + (q * s).sum(axis=0) / (2 * sum_s**2)
    )
    return sum_r / sum_s, variance
