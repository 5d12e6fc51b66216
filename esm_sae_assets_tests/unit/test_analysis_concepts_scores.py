import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_sae.analysis.concepts.intervals import hits_of, pooled_f1
from esm_sae.analysis.concepts.scores import (
    BestFeatures,
    make_labels,
    rank_dense,
    rank_pairs,
    score_features,
)

FEATURES, CONCEPTS, SOURCES = 5, 4, 2


def made_up(seed, *, domains, units=60):
    """Labels, values with ties and zeros, and the two masks."""
    generator = np.random.default_rng(seed)
    universe = generator.random((units, SOURCES)) < 0.8
    source_of = generator.integers(0, SOURCES, CONCEPTS)
    if domains:
        instance = np.arange(24)
        start = generator.integers(0, units - 6, len(instance))
        span = generator.integers(1, 6, len(instance))
        concept = generator.integers(0, CONCEPTS, len(instance))
        instance = np.repeat(instance, span)
        unit = start[instance] + np.arange(len(instance)) - (np.cumsum(span) - span)[instance]
        concept = concept[instance]
    else:
        unit, concept = np.nonzero(generator.random((units, CONCEPTS)) < 0.2)
        instance = None
    labels = make_labels(unit, concept, source_of, universe, instances=instance)
    fires = generator.random((units, FEATURES)) < 0.5
    values = (generator.integers(1, 8, (units, FEATURES)) * fires / 8).astype(np.float32)
    validation = generator.random(units) < 0.5
    return labels, values, validation, ~validation & (generator.random(units) < 0.8)


def entries_of(labels, concept, mask):
    counted = mask & labels.universe[:, labels.source_of[concept]]
    return [
        (unit, labels.instances[place])
        for unit in np.flatnonzero(counted)
        for place in range(labels.starts[unit], labels.starts[unit + 1])
        if labels.concepts[place] == concept
    ]


def naive_counts(labels, concept, called, mask):
    """Units rightly called, units called, instances found, instances."""
    entries = entries_of(labels, concept, mask)
    counted = mask & labels.universe[:, labels.source_of[concept]]
    return (
        len({unit for unit, _ in entries if called[unit]}),
        int((called & counted).sum()),
        len({instance for unit, instance in entries if called[unit]}),
        len({instance for _, instance in entries}),
    )


def naive_f1(true, called, found, positives):
    precision = true / called if called else 0.0
    recall = found / positives
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def naive_auroc(labels, concept, values, mask):
    counted = mask & labels.universe[:, labels.source_of[concept]]
    bearers = {unit for unit, _ in entries_of(labels, concept, mask)}
    high = [values[unit] for unit in bearers]
    low = [values[unit] for unit in np.flatnonzero(counted) if unit not in bearers]
    if not high or not low:
        return np.nan
    return np.mean([(h > x) + (h == x) / 2 for h in high for x in low])


@pytest.mark.parametrize("domains", [False, True])
@pytest.mark.parametrize("dense", [False, True])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scores_are_those_of_trying_every_threshold(seed, dense, domains):
    labels, values, validation, test = made_up(seed, domains=domains)
    if dense:
        values = values - np.float32(0.5)
        ranked = rank_dense(values)
    else:
        unit, feature = np.nonzero(values)
        ranked = rank_pairs(feature, unit, values[unit, feature], FEATURES)
    scores = score_features(ranked, labels, validation, test)
    for feature in range(FEATURES):
        of_feature = values[:, feature]
        tried = sorted({x for x in of_feature[validation] if dense or x > 0}, reverse=True)
        for concept in range(CONCEPTS):
            pair = feature, concept
            best, threshold = 0.0, None
            for x in tried:
                counts = naive_counts(labels, concept, of_feature >= x, validation)
                if counts[0] and naive_f1(*counts) > best:
                    best, threshold = naive_f1(*counts), x
            if threshold is None:
                assert np.isnan(scores.threshold[pair])
                continue
            assert scores.threshold[pair] == threshold
            called = of_feature >= threshold
            for part, mask in (("validation", validation), ("test", test)):
                found = tuple(
                    getattr(scores, f"{part}_{name}")[pair] for name in ("true", "called", "found")
                )
                assert found == naive_counts(labels, concept, called, mask)[:3]
            expected = naive_auroc(labels, concept, of_feature, test)
            assert scores.auroc[pair] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_the_best_feature_is_the_same_over_blocks_and_does_not_see_test():
    labels, values, validation, test = made_up(3, domains=False)
    whole = BestFeatures(labels, validation, test)
    whole.add(rank_dense(values), 0)
    blocks = BestFeatures(labels, validation, test)
    for first in range(FEATURES):
        blocks.add(rank_dense(values[:, first : first + 1]), first)
    for name in ("feature", "threshold", "validation_f1", "test_f1", "auroc"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(blocks, name))
    assert [a.tolist() for a in whole.called] == [a.tolist() for a in blocks.called]
    scrambled = values.copy()
    scrambled[test] = np.random.default_rng(0).permutation(values[test])
    other = BestFeatures(labels, validation, test)
    other.add(rank_dense(scrambled), 0)
    assert other.feature.tolist() == whole.feature.tolist()
    assert other.threshold.tolist() == whole.threshold.tolist()


def test_of_equal_features_the_first_counts_and_none_where_none_fires():
    labels = make_labels(
        np.array([0, 1, 3]), np.array([0, 0, 1]), np.array([0, 0]), np.ones((4, 1), dtype=bool)
    )
    values = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], dtype=np.float32)
    unit, feature = np.nonzero(values)
    everything = np.ones(4, dtype=bool)
    best = BestFeatures(labels, everything, everything)
    best.add(rank_pairs(feature, unit, values[unit, feature], 2), 0)
    assert best.feature.tolist() == [0, -1]
    assert best.test_f1[0] == 1.0
    assert np.isnan(best.test_f1[1])
    assert best.called[0].tolist() == [0, 1]


def sums_of(labels, best, concepts, mask):
    sums = np.zeros(4)
    for concept in concepts:
        called = np.isin(np.arange(len(mask)), best.called[concept])
        sums += naive_counts(labels, concept, called, mask)
    return sums


@pytest.mark.parametrize("domains", [False, True])
def test_pooled_f1_is_that_of_all_counts_added_up(domains):
    labels, values, validation, test = made_up(8, domains=domains, units=200)
    best = BestFeatures(labels, validation, test)
    best.add(rank_dense(values), 0)
    eligible = np.array([True, True, False, True])
    pooled = pooled_f1(*hits_of(best, labels, test, np.arange(200).astype(str)), eligible)
    assert pooled.value == pytest.approx(naive_f1(*sums_of(labels, best, [0, 1, 3], test)))
    assert pooled.low < pooled.value < pooled.high
    np.testing.assert_allclose(pooled.of_concept, best.test_f1)


def test_the_interval_is_that_of_drawing_whole_clusters():
    labels, values, validation, test = made_up(8, domains=False, units=200)
    best = BestFeatures(labels, validation, test)
    best.add(rank_dense(values), 0)
    clusters = np.array([f"cluster {unit // 9}" for unit in range(200)], dtype=object)
    hits, count = hits_of(best, labels, test, clusters)
    eligible = np.array([True, True, False, True])
    pooled = pooled_f1(hits, count, eligible, seed=1)
    of_cluster = [
        sums_of(labels, best, [0, 1, 3], test & (clusters == name))
        for name in sorted(set(clusters[test]))
    ]
    assert count == len(of_cluster)
    generator = np.random.default_rng(1)
    drawn = [
        naive_f1(*np.sum([of_cluster[n] for n in generator.integers(count, size=count)], axis=0))
        for _ in range(1_000)
    ]
    np.testing.assert_allclose([pooled.low, pooled.high], np.quantile(drawn, [0.025, 0.975]))
    again = pooled_f1(hits, count, eligible, seed=1)
    np.testing.assert_array_equal(again.concept_low, pooled.concept_low)


def test_an_interval_is_wider_where_the_units_are_of_fewer_clusters():
    # Every unit has three relatives with its labels and values, which are no further draws.
    generator = np.random.default_rng(0)
    unit, concept = np.nonzero(np.repeat(generator.random((100, CONCEPTS)) < 0.3, 4, axis=0))
    values = np.repeat(generator.random((100, FEATURES)), 4, axis=0)
    universe = np.ones((400, 1), dtype=bool)
    labels = make_labels(unit, concept, np.zeros(CONCEPTS, dtype=int), universe)
    validation, test = (np.arange(400) // 4 % 2 == part for part in (0, 1))
    best = BestFeatures(labels, validation, test)
    best.add(rank_dense(values), 0)

    def width(size):
        clusters = np.array([f"{unit // size}" for unit in range(400)], dtype=object)
        pooled = pooled_f1(*hits_of(best, labels, test, clusters), np.ones(CONCEPTS, dtype=bool))
        return pooled.high - pooled.low

    assert width(4) > 1.5 * width(1)


def test_nothing_eligible_has_no_f1():
    labels, values, validation, test = made_up(1, domains=False)
    best = BestFeatures(labels, validation, test)
    best.add(rank_dense(values), 0)
    pooled = pooled_f1(
        *hits_of(best, labels, test, np.arange(60).astype(str)), np.zeros(CONCEPTS, dtype=bool)
    )
    assert np.isnan([pooled.value, pooled.low, pooled.high]).all()
