"""F1 pooled over concepts, with intervals of a bootstrap over similarity clusters."""

from typing import NamedTuple

import numpy as np

from esm_sae.analysis.concepts.scores import BestFeatures, Labels, f1_of

_SAMPLES = 1_000
_AT_ONCE = 50
_INTERVAL = (0.025, 0.975)


class Hits(NamedTuple):
    """What the chosen features call in test: (cluster, concept) of every single hit.

    Precision is ``true`` / ``called``, recall ``found`` / ``positives``. Clusters are numbered 0
    to G - 1. Each attribute is an array of (2, number of hits).

    Attributes:
        true: units that are called rightly.
        called: units that are called.
        found: instances with a called unit.
        positives: instances.
    """

    true: np.ndarray
    called: np.ndarray
    found: np.ndarray
    positives: np.ndarray


class PooledF1(NamedTuple):
    """F1 of all counts added up, and of each concept, with 95% bootstrap intervals.

    Attributes:
        value, low, high: pooled over the eligible concepts; NaN where there is none.
        of_concept: (C), each concept's own F1.
        concept_low, concept_high: (C).
    """

    value: float
    low: float
    high: float
    of_concept: np.ndarray
    concept_low: np.ndarray
    concept_high: np.ndarray


def hits_of(
    best: BestFeatures, labels: Labels, test: np.ndarray, clusters: np.ndarray
) -> tuple[Hits, int]:
    """Count by similarity cluster what the chosen features call among the units of test.

    Args:
        best: the chosen features.
        labels: which units bear which concepts.
        test: (U) bool.
        clusters: (U), the similarity cluster of each unit.

    Returns:
        The counts and the number of clusters in test.
    """
    names, number = np.unique(clusters[test], return_inverse=True)
    number_of = np.full(len(test), -1, dtype=np.int64)
    number_of[test] = number
    concepts = max(labels.concept_count, 1)
    unit = np.concatenate([np.empty(0, dtype=np.int32), *best.called]).astype(np.int64)
    concept = np.repeat(np.arange(labels.concept_count), [len(part) for part in best.called])
    called = unit * concepts + concept
    bearer, borne, instance = labels.entries(test)
    borne_keys = bearer * concepts + borne
    entry_called = np.isin(borne_keys, called)
    true = np.unique(borne_keys[entry_called])
    found = np.unique(instance[entry_called], return_index=True)[1]
    positives = np.unique(instance, return_index=True)[1]
    keys = (true, called, borne_keys[entry_called][found], borne_keys[positives])
    hits = (np.stack([number_of[key // concepts], key % concepts]) for key in keys)
    return Hits(*hits), len(names)


def pooled_f1(hits: Hits, clusters: int, eligible: np.ndarray, *, seed: int = 0) -> PooledF1:
    """Pool F1 over the eligible concepts and give the intervals of a bootstrap over clusters.

    The proteins of a similarity cluster are no independent draws, so whole clusters are drawn, as
    many as there are, with replacement, 1,000 times; the interval is of the 2.5% and 97.5%
    quantiles (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13). The choice
    of features and thresholds is not repeated: the intervals are of the chosen features. Methods
    that are given the same clusters and seed are drawn alike.

    Memory: 50 draws at a time, 8 bytes x 50 x (clusters + 8 x C), and the sums of 1,000 draws.

    Args:
        hits: the counts in test.
        clusters: G, the number of clusters in test.
        eligible: (C) bool, the concepts that are pooled.
        seed: of the draws.
    """
    from scipy import sparse

    concepts = len(eligible)
    shape = (max(clusters, 1), concepts)
    counts = [
        sparse.csr_array((np.ones(part.shape[1]), (part[0], part[1])), shape=shape) for part in hits
    ]
    totals = [part.sum(axis=0) for part in counts]
    pooled = _f1(*(total[eligible].sum() for total in totals))
    generator = np.random.default_rng(seed)
    drawn_concept = np.empty((_SAMPLES, concepts), dtype=np.float32)
    drawn_pooled = np.empty(_SAMPLES)
    for start in range(0, _SAMPLES, _AT_ONCE):
        weights = np.stack(
            [
                np.bincount(generator.integers(shape[0], size=shape[0]), minlength=shape[0])
                for _ in range(_AT_ONCE)
            ]
        )
        sums = [(part.T @ weights.T).T for part in counts]
        drawn_concept[start : start + _AT_ONCE] = _f1(*sums)
        drawn_pooled[start : start + _AT_ONCE] = _f1(*(s[:, eligible].sum(axis=1) for s in sums))
    # A draw with nothing to find has no F1; it is left out.
    low, high = _quantiles(drawn_concept)
    pooled_low, pooled_high = _quantiles(drawn_pooled[:, None])
    return PooledF1(
        float(pooled), float(pooled_low[0]), float(pooled_high[0]), _f1(*totals), low, high
    )


def _quantiles(drawn: np.ndarray) -> np.ndarray:
    bounds = np.full((2, drawn.shape[1]), np.nan)
    known = ~np.isnan(drawn).all(axis=0)
    if known.any():
        bounds[:, known] = np.nanquantile(drawn[:, known], _INTERVAL, axis=0)
    return bounds


def _f1(
    true: np.ndarray, called: np.ndarray, found: np.ndarray, positives: np.ndarray
) -> np.ndarray:
    return f1_of(true, called, found, positives)[2]
