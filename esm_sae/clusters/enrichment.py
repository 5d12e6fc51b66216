"""Terms that are commoner in a cluster than elsewhere: a hypergeometric test."""

from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae.multiple_testing import benjamini_hochberg

# A term that fewer proteins bear is not tested: it could be told of hardly any cluster.
_FEWEST = 3


class Enrichment(NamedTuple):
    """How much commoner terms are in clusters than elsewhere.

    Attributes:
        pairs: cluster, term, count, share, fold, p, q; by cluster, then largest count first, then
            least p, then by term.
        tests: number of pairs that were tested, those of which no protein is in the cluster too.
    """

    pairs: pl.DataFrame
    tests: int


def enrichment(bearers: pl.DataFrame, sizes: pl.DataFrame, population: int) -> Enrichment:
    """Test of every term whether a cluster holds more of its bearers than a random draw would.

    One-sided hypergeometric test: of ``population`` proteins K bear the term, n are in the
    cluster and k are both; p is the chance that k or more of n proteins drawn without replacement
    bear it. share is k / n, fold that over K / ``population``. q is p after Benjamini & Hochberg
    (1995, J. R. Stat. Soc. B 57:289) over all pairs of a cluster and a term that at least 3
    proteins bear; the pairs with k = 0 count as tested with p = 1.

    Args:
        bearers: cluster and term, a row per protein and term that it bears; cluster -1 is noise,
            which counts as elsewhere.
        sizes: cluster and size, its number of proteins; without noise.
        population: number of all proteins, noise and those without any term among them.
    """
    everywhere = bearers.group_by("term").len("bearers").filter(pl.col("bearers") >= _FEWEST)
    tests = len(sizes) * len(everywhere)
    pairs = (
        bearers.group_by("cluster", "term")
        .len("count")
        .join(everywhere, on="term")
        .join(sizes, on="cluster")
        .with_columns((pl.col("count") / pl.col("size")).alias("share"))
        .with_columns((pl.col("share") * population / pl.col("bearers")).alias("fold"))
    )
    p = _upper_tail(pairs, population)
    pairs = pairs.with_columns(
        pl.Series("p", p), pl.Series("q", benjamini_hochberg(p, tests))
    ).sort(["cluster", "count", "p", "term"], descending=[False, True, False, False])
    return Enrichment(pairs.select("cluster", "term", "count", "share", "fold", "p", "q"), tests)


def _upper_tail(pairs: pl.DataFrame, population: int) -> np.ndarray:
    from scipy.stats import hypergeom

    if pairs.is_empty():
        return np.empty(0)
    count, bearers, size = (
        pairs[name].cast(pl.Int64).to_numpy() for name in ("count", "bearers", "size")
    )
    return hypergeom.sf(count - 1, population, bearers, size)
