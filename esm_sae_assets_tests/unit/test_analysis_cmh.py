import itertools
import math

import numpy as np
import pytest

from esm_sae.analysis.taxonomy.cmh import StratifiedTables, null_tails, odds_ratios

# Rabbits that a delayed injection of penicillin cured, by dose (Mantel 1963, the example of R's
# mantelhaen.test): cured and died of those injected at once, and of those after 1.5 hours.
RABBITS = [(0, 6, 0, 5), (3, 3, 0, 6), (6, 0, 2, 4), (5, 1, 6, 0), (2, 0, 5, 0)]


def tables_of(cells):
    """One latent's tables from (a, b, c, d) of each stratum."""
    a, b, c, d = np.array(cells).T
    return StratifiedTables(a + b + c + d, a + b, (a + c)[:, None], a[:, None])


def naive_tail(tables, latent, t):
    """P(T >= t) by going through all ways to choose the taxon's units within the strata."""
    strata = zip(tables.totals, tables.sizes, tables.firing[:, latent], strict=True)
    chances = []
    for total, size, firing in strata:
        ways = list(itertools.combinations([1] * firing + [0] * (total - firing), size))
        chances.append([sum(way) for way in ways])
    sums = [sum(counts) for counts in itertools.product(*chances)]
    return sum(value >= t for value in sums) / len(sums)


def test_tails_equal_going_through_all_permutations():
    generator = np.random.default_rng(2)
    totals = np.array([4, 1, 5, 3])
    sizes = np.array([2, 1, 2, 0])
    firing = np.stack([generator.integers(0, totals + 1) for _ in range(8)], axis=1)
    tables = StratifiedTables(totals, sizes, firing, firing)
    tails = null_tails(totals, sizes, firing)
    assert tails.shape == (8, 6)
    for latent, t in itertools.product(range(8), range(6)):
        expected = naive_tail(tables, latent, t)
        # Counts that cannot be are given the least p there is.
        assert tails[latent, t] == pytest.approx(max(expected, 1e-25), abs=0, rel=1e-12)


def test_one_stratum_is_fishers_exact_test():
    from scipy.stats import fisher_exact

    for a, b, c, d in [(3, 1, 1, 3), (10, 0, 2, 500), (7, 13, 900, 12_000), (40, 60, 200, 3_000)]:
        tails = null_tails(np.array([a + b + c + d]), np.array([a + b]), np.array([[a + c]]))
        expected = fisher_exact([[a, b], [c, d]], alternative="greater")[1]
        assert tails[0, a] == pytest.approx(max(expected, 1e-25), rel=1e-9)


def test_large_counts_approach_the_chi_square_statistic():
    """Mantel and Haenszel's statistic with its continuity correction, by hand."""
    generator = np.random.default_rng(4)
    totals = np.array([4_000, 3_000, 5_000])
    sizes = np.array([1_500, 1_400, 2_600])
    firing = np.array([[900], [1_300], [2_000]])
    expected = (sizes * firing[:, 0] / totals).sum()
    variance = sum(
        n * m * (total - n) * (total - m) / (total**2 * (total - 1))
        for total, n, m in zip(totals, sizes, firing[:, 0], strict=True)
    )
    tails = null_tails(totals, sizes, firing)
    for t in expected + np.sqrt(variance) * generator.uniform(0, 2.5, 20):
        z = (int(t) - expected - 0.5) / math.sqrt(variance)
        assert tails[0, int(t)] == pytest.approx(math.erfc(z / math.sqrt(2)) / 2, rel=0.03)


def test_tails_of_large_tables_fall_and_stay_chances():
    totals, sizes = np.full(30, 2_000), np.full(30, 700)
    tails = null_tails(totals, sizes, np.array([[0, 3, 1_999, 2_000]] * 30))
    assert (np.diff(tails, axis=1) <= 0).all()
    assert tails.min() >= 1e-25
    assert (tails[:, 0] == 1).all()
    # Of latents that never or always fire every count but one is impossible.
    assert tails[0].tolist() == [1.0] + [1e-25] * 21_000
    assert (tails[3] == 1).all()


def test_odds_ratio_of_the_rabbits():
    """R 4.3: mantelhaen.test(Rabbits) gives 7 and 1.026713 to 47.725133; exact p 0.01997."""
    tables = tables_of(RABBITS)
    found = [values[0] for values in odds_ratios(tables)]
    assert found == pytest.approx([7, 1.026713, 47.725133], rel=1e-6)
    tails = null_tails(tables.totals, tables.sizes, tables.firing)
    assert 2 * tails[0, 16] == pytest.approx(0.03994, abs=5e-6)


def naive_odds_ratio(cells):
    """The formulas as in statsmodels' StratifiedTable, one stratum after the other."""
    sums = dict.fromkeys(["r", "s", "pr", "psqr", "qs"], 0.0)
    for a, b, c, d in cells:
        n = a + b + c + d
        p, q, r, s = (a + d) / n, (b + c) / n, a * d / n, b * c / n
        for name, value in {
            "r": r,
            "s": s,
            "pr": p * r,
            "psqr": p * s + q * r,
            "qs": q * s,
        }.items():
            sums[name] += value
    variance = sums["pr"] / (2 * sums["r"] ** 2)
    variance += sums["psqr"] / (2 * sums["r"] * sums["s"]) + sums["qs"] / (2 * sums["s"] ** 2)
    ratio, margin = sums["r"] / sums["s"], math.exp(1.959964 * math.sqrt(variance))
    return ratio, ratio / margin, ratio * margin


def test_odds_ratios_of_many_latents_equal_a_loop():
    generator = np.random.default_rng(6)
    cells = generator.integers(1, 30, (50, 4, 4))
    tables = [tables_of(of_latent) for of_latent in cells]
    for latent, alone in enumerate(tables):
        expected = naive_odds_ratio(cells[latent].tolist())
        assert [values[0] for values in odds_ratios(alone)] == pytest.approx(expected, rel=1e-5)
    # Latents side by side share the taxon's margins.
    first = tables[0]
    hits = np.stack([generator.integers(0, first.sizes + 1) for _ in range(9)], axis=1)
    others = np.stack(
        [generator.integers(0, first.totals - first.sizes + 1) for _ in range(9)], axis=1
    )
    together = odds_ratios(first._replace(firing=hits + others, hits=hits))
    for latent in range(9):
        column = slice(latent, latent + 1)
        alone = odds_ratios(first._replace(firing=(hits + others)[:, column], hits=hits[:, column]))
        assert [values[latent] for values in together] == [values[0] for values in alone]


def test_without_a_silent_or_a_firing_unit_the_odds_ratio_is_still_finite():
    ratio, low, high = odds_ratios(tables_of([(5, 0, 10, 40), (3, 0, 2, 40)]))
    assert 0 < low[0] < ratio[0] < high[0] < np.inf
    assert ratio[0] > 1
    mirrored = odds_ratios(tables_of([(0, 5, 40, 10), (0, 3, 40, 2)]))
    assert [values[0] for values in mirrored] == pytest.approx(
        [1 / ratio[0], 1 / high[0], 1 / low[0]]
    )
    # With one stratum it is half a unit in every cell.
    corrected = odds_ratios(tables_of([(5, 0, 10, 40)]))[0][0]
    assert corrected == pytest.approx(5.5 * 40.5 / (0.5 * 10.5))


def test_tables_that_say_nothing_have_no_odds_ratio():
    cells = [(4, 0, 6, 0), (0, 3, 0, 9)]
    assert all(np.isnan(values[0]) for values in odds_ratios(tables_of(cells)))
