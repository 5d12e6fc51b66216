"""The loops of scoring features as detectors of concepts, compiled.

Shapes: U units, F features, C concepts, S sources, I instances. ``starts`` (F + 1), ``units`` and
``values`` are the ranking of ``concept_scores.Ranked``; ``label_starts`` (U + 1),
``label_concepts`` and ``label_instances`` those of ``concept_scores.Labels``; ``source_of`` (C)
and ``population`` (U, S) say which units count for a concept; ``bearers`` (C) how many of these
bear it and ``instances`` (C) how many instances they are of.
"""

import numpy as np

from esm_sae.compiled import compiled


@compiled()
def find_thresholds(
    starts: np.ndarray,
    units: np.ndarray,
    values: np.ndarray,
    label_starts: np.ndarray,
    label_concepts: np.ndarray,
    label_instances: np.ndarray,
    source_of: np.ndarray,
    population: np.ndarray,
    instances: np.ndarray,
    threshold: np.ndarray,
    true: np.ndarray,
    called: np.ndarray,
    found: np.ndarray,
) -> None:
    """Find for each feature and concept the value with the best F1 for 'at least this value'.

    Every distinct value of the feature is tried; F1 can only rise where a bearer comes in, so
    that only those are looked at. Of equal F1 the highest value.

    Args:
        threshold: (F, C) float32, written where the feature has a value on a bearer.
        true: (F, C) int32, written: bearers at or above the threshold.
        called: (F, C) int32, written: all units of the population at or above it.
        found: (F, C) int32, written: instances with a bearer at or above it.
    """
    concepts, sources = len(source_of), population.shape[1]
    hits, hit_instances = np.empty(concepts, np.int64), np.empty(concepts, np.int64)
    best, count = np.empty(concepts, np.float64), np.empty(sources, np.int64)
    touched, touched_at = np.empty(concepts, np.int64), np.empty(concepts, np.int64)
    last_unit = np.empty(concepts, np.int64)
    seen_by = np.full(label_instances.max() + 1 if len(label_instances) else 0, -1, np.int64)
    for feature in range(len(starts) - 1):
        hits[:], hit_instances[:], best[:], count[:] = 0, 0, 0.0, 0
        touched_at[:], last_unit[:] = -1, -1
        first, end = starts[feature], starts[feature + 1]
        while first < end:
            after, marked = first, 0
            while after < end and values[after] == values[first]:
                unit = units[after]
                for source in range(sources):
                    count[source] += population[unit, source]
                for place in range(label_starts[unit], label_starts[unit + 1]):
                    concept = label_concepts[place]
                    if not population[unit, source_of[concept]]:
                        continue
                    if last_unit[concept] != unit:
                        last_unit[concept] = unit
                        hits[concept] += 1
                    if seen_by[label_instances[place]] != feature:
                        seen_by[label_instances[place]] = feature
                        hit_instances[concept] += 1
                    if touched_at[concept] != first:
                        touched_at[concept] = first
                        touched[marked] = concept
                        marked += 1
                after += 1
            for place in range(marked):
                concept = touched[place]
                everything = count[source_of[concept]]
                precision = hits[concept] / everything
                recall = hit_instances[concept] / instances[concept]
                f1 = 2.0 * precision * recall / (precision + recall)
                if f1 > best[concept]:
                    best[concept] = f1
                    threshold[feature, concept] = values[first]
                    true[feature, concept] = hits[concept]
                    called[feature, concept] = everything
                    found[feature, concept] = hit_instances[concept]
            first = after


@compiled()
def apply_thresholds(
    starts: np.ndarray,
    units: np.ndarray,
    values: np.ndarray,
    label_starts: np.ndarray,
    label_concepts: np.ndarray,
    label_instances: np.ndarray,
    source_of: np.ndarray,
    population: np.ndarray,
    bearers: np.ndarray,
    threshold: np.ndarray,
    true: np.ndarray,
    called: np.ndarray,
    found: np.ndarray,
    auroc: np.ndarray,
) -> None:
    """Count what thresholds call, and compute the area under the ROC curve of the raw values.

    Units without a value of a feature rank equal, below all that have one.

    Args:
        threshold: (F, C) float32; NaN calls none.
        true: (F, C) int32, written, as ``called`` and ``found``: see ``find_thresholds``.
        called: (F, C) int32, written.
        found: (F, C) int32, written.
        auroc: (F, C) float32, written: the Mann-Whitney statistic over the pairs of a bearer and
            another unit, equal values counting half; NaN where there are none of either.
    """
    concepts, sources = len(source_of), population.shape[1]
    size = population.sum(axis=0)
    fired, ranks = np.empty(concepts, np.int64), np.empty(concepts, np.float64)
    last_unit = np.empty(concepts, np.int64)
    seen_by = np.full(label_instances.max() + 1 if len(label_instances) else 0, -1, np.int64)
    longest = 0
    for feature in range(len(starts) - 1):
        longest = max(longest, starts[feature + 1] - starts[feature])
    above = np.zeros((longest + 1, sources), np.int64)
    for feature in range(len(starts) - 1):
        fired[:], ranks[:], last_unit[:] = 0, 0.0, -1
        begin, end = starts[feature], starts[feature + 1]
        for place in range(begin, end):
            row = place - begin
            for source in range(sources):
                above[row + 1, source] = above[row, source] + population[units[place], source]
        first = begin
        while first < end:
            after = first
            while after < end and values[after] == values[first]:
                after += 1
            for entry in range(first, after):
                unit = units[entry]
                for place in range(label_starts[unit], label_starts[unit + 1]):
                    concept = label_concepts[place]
                    source = source_of[concept]
                    if not population[unit, source]:
                        continue
                    is_called = values[first] >= threshold[feature, concept]
                    if last_unit[concept] != unit:
                        last_unit[concept] = unit
                        fired[concept] += 1
                        higher = above[first - begin, source]
                        ranks[concept] += (higher + 1 + above[after - begin, source]) / 2.0
                        true[feature, concept] += is_called
                    if is_called and seen_by[label_instances[place]] != feature:
                        seen_by[label_instances[place]] = feature
                        found[feature, concept] += 1
            first = after
        for concept in range(concepts):
            source = source_of[concept]
            others = size[source] - bearers[concept]
            if bearers[concept] > 0 and others > 0:
                silent = bearers[concept] - fired[concept]
                last = above[end - begin, source]
                total = ranks[concept] + silent * (last + 1 + size[source]) / 2.0
                lost = total - bearers[concept] * (bearers[concept] + 1) / 2.0
                auroc[feature, concept] = 1.0 - lost / (bearers[concept] * others)
            low, high = begin, end
            while low < high:
                middle = (low + high) // 2
                if values[middle] >= threshold[feature, concept]:
                    low = middle + 1
                else:
                    high = middle
            called[feature, concept] = above[low - begin, source]
