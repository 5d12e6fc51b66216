"""In which taxa a latent fires more often than in others: tests, and their calibration."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae.analysis.taxonomy.cmh import StratifiedTables, null_tails, odds_ratios
from esm_sae.multiple_testing import benjamini_hochberg
from esm_sae.progress import progress

LEVEL = 0.05
"""The false discovery rate that is accepted."""

FEWEST_UNITS = 5
"""Units that a taxon must have to be tested."""

FEWEST_FIRING_UNITS = 3
"""Units on which a latent must fire to be tested."""

_NUMBERS_AT_ONCE = 1 << 24


class Firing(NamedTuple):
    """On which units each latent fires, in sparse rows.

    Attributes:
        starts: where the entries of each unit begin, and their number, (U + 1,) int64.
        latents: the latents that fire on one unit after the other.
        latent_count: L.
    """

    starts: np.ndarray
    latents: np.ndarray
    latent_count: int

    @property
    def units(self) -> int:
        """U, the number of units."""
        return len(self.starts) - 1

    def of(self, units: np.ndarray) -> "Firing":
        """Return the rows of some units."""
        first, sizes = self.starts[units], np.diff(self.starts)[units]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        entries = np.repeat(first - starts[:-1], sizes) + np.arange(starts[-1])
        return Firing(starts, self.latents[entries], self.latent_count)


class Enrichment(NamedTuple):
    """Tests of all taxa and latents.

    Attributes:
        pairs: a row per taxon and latent: taxon (its number), latent, clusters (units of the
            taxon), firing_clusters, specificity (share of the other taxa's units that are silent;
            null where there are none), and odds_ratio, odds_ratio_low, odds_ratio_high, p_value,
            which are null where the pair was not tested.
        tests: how many were.
        with_discovery: of each permutation of the taxa, whether any pair had q < 5%.
    """

    pairs: pl.DataFrame
    tests: int
    with_discovery: np.ndarray


def enrichment(
    firing: Firing, taxa: np.ndarray, strata: np.ndarray, *, permutations: int, seed: int
) -> Enrichment:
    """Test of each taxon and latent whether the latent fires more often in the taxon's units.

    One-sided Cochran-Mantel-Haenszel test; see ``null_tails`` and ``odds_ratios``. Tested are the
    pairs of a taxon with at least 5 units and a latent that fires on at least 3 units, where the
    margins allow some p of at most 5% (Tarone 1990, Biometrics 46:515). Margins alone decide, so
    that choosing the tests does not bias them.

    Taxa are permuted over the units within the strata. That leaves all margins as they are, so
    the same distribution gives the p-values of the permuted units; what is calibrated is the
    correction for many tests that depend on each other.

    Memory: 4 bytes for each permutation and unit, 16 for each permuted p of at most 5%, about 120
    for each taxon and latent, and some 200 MB for the distributions of a taxon.

    Args:
        firing: the units' latents.
        taxa: the taxon of each unit, (U,), numbered from 0.
        strata: the stratum of each unit, (U,), numbered from 0.
        permutations: B, how many permutations; 0 for none.
        seed: of the permutations.
    """
    draws = _permuted_units(strata, permutations, seed)
    taxa_in_order = taxa[np.argsort(strata, kind="stable")]
    pairs, chance = [], [_no_values()]
    tests = 0
    with progress(int(taxa.max(initial=-1)) + 1, unit="taxa", description="testing") as shown:
        for taxon, tables in _tables_by_taxon(firing, taxa, strata):
            counts = _counts_in(firing, draws[:, taxa_in_order == taxon])
            p_value, permuted = _p_values(tables, counts)
            tests += int(np.isfinite(p_value).sum())
            pairs.append(_describe(taxon, tables, p_value))
            chance.append(permuted)
            shown.update(1)
    number, p = (np.concatenate(parts) for parts in zip(*chance, strict=True))
    return Enrichment(pl.concat(pairs), tests, _with_discovery(number, p, permutations, tests))


def _permuted_units(strata: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """Return (B, U) numbers of units, ordered by stratum and within it at random."""
    generator = np.random.default_rng(seed)
    draws = np.empty((permutations, len(strata)), dtype=np.int32)
    for draw in draws:
        draw[:] = np.argsort(strata + generator.random(len(strata)))
    return draws


def _tables_by_taxon(
    firing: Firing, taxa: np.ndarray, strata: np.ndarray
) -> Iterator[tuple[int, StratifiedTables]]:
    from esm_sae.analysis.taxonomy.cmh_kernels import count_by_stratum

    shape = (int(strata.max(initial=-1)) + 1, firing.latent_count)

    def count(units: np.ndarray) -> np.ndarray:
        counts = np.zeros(shape, dtype=np.int64)
        count_by_stratum(firing.starts, firing.latents, units, strata, counts)
        return counts

    totals, all_firing = np.bincount(strata), count(np.arange(firing.units))
    by_taxon = np.argsort(taxa, kind="stable")
    ends = np.cumsum(np.bincount(taxa))
    for taxon, units in enumerate(np.split(by_taxon, ends[:-1])):
        sizes = np.bincount(strata[units], minlength=shape[0])
        yield taxon, StratifiedTables(totals, sizes, all_firing, count(units))


def _counts_in(firing: Firing, draws: np.ndarray) -> np.ndarray:
    """Return in how many units of each draw, (B, n), each latent fires, (B, L)."""
    from esm_sae.analysis.taxonomy.cmh_kernels import count_in_draws

    counts = np.zeros((len(draws), firing.latent_count), dtype=np.int32)
    count_in_draws(firing.starts, firing.latents, np.ascontiguousarray(draws), counts)
    return counts


def _p_values(
    tables: StratifiedTables, permuted: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the p of each latent, NaN where it is not tested, and the small ones of chance.

    The latter as number of the permutation and p, of those at most 5%: no other is a discovery.
    """
    size = int(tables.sizes.sum())
    observed = np.full(tables.firing.shape[1], np.nan)
    if size < FEWEST_UNITS or size == tables.totals.sum():
        return observed, _no_values()
    most = np.minimum(tables.sizes[:, None], tables.firing).sum(axis=0)
    hits = tables.hits.sum(axis=0)
    common = np.flatnonzero(tables.firing.sum(axis=0) >= FEWEST_FIRING_UNITS)
    parts = [_no_values()]
    step = max(_NUMBERS_AT_ONCE // (size + 1 + len(permuted)), 1)
    for latents in np.split(common, np.arange(step, len(common), step)):
        tails = null_tails(tables.totals, tables.sizes, tables.firing[:, latents])
        row = np.arange(len(latents))
        tested = tails[row, most[latents]] <= LEVEL
        observed[latents[tested]] = tails[row, hits[latents]][tested]
        p = tails[row, permuted[:, latents]]
        number, at = np.nonzero((p <= LEVEL) & tested)
        parts.append((number, p[number, at]))
    numbers, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return observed, (numbers, values)


def _no_values() -> tuple[np.ndarray, np.ndarray]:
    return np.empty(0, dtype=np.int64), np.empty(0)


def _describe(taxon: int, tables: StratifiedTables, p_value: np.ndarray) -> pl.DataFrame:
    size, total = int(tables.sizes.sum()), int(tables.totals.sum())
    hits, firing = tables.hits.sum(axis=0), tables.firing.sum(axis=0)
    tested = np.isfinite(p_value)
    ratios = np.full((3, len(p_value)), np.nan)
    if tested.any():
        ratios[:, tested] = odds_ratios(
            tables._replace(firing=tables.firing[:, tested], hits=tables.hits[:, tested])
        )
    others = total - size
    specificity = 1 - (firing - hits) / others if others else np.full(len(hits), np.nan)
    columns = {
        "taxon": np.full(len(hits), taxon, dtype=np.uint32),
        "latent": np.arange(len(hits), dtype=np.uint32),
        "clusters": np.full(len(hits), size, dtype=np.uint32),
        "firing_clusters": hits.astype(np.uint32),
        "specificity": specificity,
        "odds_ratio": ratios[0],
        "odds_ratio_low": ratios[1],
        "odds_ratio_high": ratios[2],
        "p_value": p_value,
    }
    return pl.DataFrame(columns, nan_to_null=True)


def _with_discovery(number: np.ndarray, p: np.ndarray, permutations: int, tests: int) -> np.ndarray:
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=permutations))
    return np.array(
        [
            bool((benjamini_hochberg(values, tests) < LEVEL).any())
            for values in np.split(p[order], ends[:-1])[:permutations]
        ],
        dtype=bool,
    )
