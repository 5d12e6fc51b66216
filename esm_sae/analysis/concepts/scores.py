"""How well features tell what bears a concept: thresholds, precision, recall, F1 and AUROC.

Pure arrays: nothing here knows where features come from. What bears concepts is a unit, a protein
or a residue. Shapes: U units, F features, C concepts, S sources of annotations.
"""

from typing import NamedTuple

import numpy as np


class Labels(NamedTuple):
    """Which units bear which concepts.

    A concept is borne in instances. Of proteins every pair of a protein and a concept is an
    instance of its own; an instance of a residue's concept is a domain, of many residues.

    Attributes:
        starts: (U + 1) int64, where the entries of each unit start.
        concepts: the concept of each entry, int32.
        instances: the instance of each entry, int64.
        source_of: (C) int64, the number of each concept's source.
        universe: (U, S) bool, whether a source says anything of a unit. Only these count for a
            concept: where nothing is known of a protein, its lack of a concept means nothing.
    """

    starts: np.ndarray
    concepts: np.ndarray
    instances: np.ndarray
    source_of: np.ndarray
    universe: np.ndarray

    @property
    def concept_count(self) -> int:
        """C, the number of concepts."""
        return len(self.source_of)

    def within(self, units: np.ndarray) -> np.ndarray:
        """Return the universe among the units of a mask (U), (U, S) bool."""
        return self.universe & units[:, None]

    def entries(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return unit, concept and instance of the entries of a mask (U) that count."""
        bearer = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        counted = self.within(units)[bearer, self.source_of[self.concepts]]
        return bearer[counted], self.concepts[counted].astype(np.int64), self.instances[counted]

    def bearers(self, units: np.ndarray) -> np.ndarray:
        """Return how many units of a mask (U) bear each concept, (C) int64."""
        bearer, concept, _ = self.entries(units)
        keys = np.unique(bearer * max(self.concept_count, 1) + concept)
        return np.bincount(keys % max(self.concept_count, 1), minlength=self.concept_count)

    def positives(self, units: np.ndarray) -> np.ndarray:
        """Return of how many instances of each concept units of a mask (U) are, (C) int64."""
        _, concept, instance = self.entries(units)
        first = np.unique(instance, return_index=True)[1]
        return np.bincount(concept[first], minlength=self.concept_count)


class Ranked(NamedTuple):
    """The values of features, each feature's from the highest to the lowest.

    Units that a feature has no entry for rank equal, below all of its entries, and no threshold
    calls them: so sparse activations need no zeros.

    Attributes:
        starts: (F + 1) int64, where the entries of each feature start.
        units: numbers of units, int32; at most one entry for each feature and unit.
        values: float32.
    """

    starts: np.ndarray
    units: np.ndarray
    values: np.ndarray

    def called(self, feature: int, threshold: float) -> np.ndarray:
        """Return the units whose value of a feature is at least a threshold."""
        part = slice(self.starts[feature], self.starts[feature + 1])
        return self.units[part][self.values[part] >= np.float32(threshold)]


class Scores(NamedTuple):
    """Features as detectors of concepts, arrays of (F, C), int32 where nothing else is said.

    Attributes:
        threshold: float32, the best of validation; NaN where a feature has no value on any bearer.
        validation_true: bearers in validation at or above the threshold.
        validation_called: all units there at or above it.
        validation_found: instances there with a bearer at or above it.
        test_true: the same in test.
        test_called: the same in test.
        test_found: the same in test.
        auroc: float32, of the raw values in test; NaN without a bearer or without another unit.
    """

    threshold: np.ndarray
    validation_true: np.ndarray
    validation_called: np.ndarray
    validation_found: np.ndarray
    test_true: np.ndarray
    test_called: np.ndarray
    test_found: np.ndarray
    auroc: np.ndarray


def make_labels(
    units: np.ndarray,
    concepts: np.ndarray,
    source_of: np.ndarray,
    universe: np.ndarray,
    *,
    instances: np.ndarray | None = None,
) -> Labels:
    """Sort entries of a unit and a concept that it bears.

    Args:
        units: number of the unit of each entry.
        concepts: number of the concept of each entry.
        source_of: (C), the number of each concept's source.
        universe: (U, S) bool.
        instances: number of the instance of each entry, 0 and up, each of one concept and one
            protein; None where every pair of a unit and a concept is one (pairs given twice count
            once).
    """
    units, concepts = np.asarray(units, dtype=np.int64), np.asarray(concepts, dtype=np.int64)
    if instances is None:
        keys = np.unique(units * max(len(source_of), 1) + concepts)
        units, concepts = np.divmod(keys, max(len(source_of), 1))
        instances = np.arange(len(keys))
    order = np.lexsort((instances, concepts, units))
    return Labels(
        np.searchsorted(units[order], np.arange(len(universe) + 1)).astype(np.int64),
        concepts[order].astype(np.int32),
        np.asarray(instances, dtype=np.int64)[order],
        np.asarray(source_of, dtype=np.int64),
        np.ascontiguousarray(universe, dtype=bool),
    )


def rank_dense(values: np.ndarray) -> Ranked:
    """Rank a block of features that have a value on every unit.

    Memory: about 24 bytes x U x F. Give columns by the block, and held-out units only.

    Args:
        values: (U, F), finite; compared as float32.
    """
    units, features = values.shape
    columns = np.ascontiguousarray(values.T, dtype=np.float32)
    order = np.argsort(-columns, axis=1, kind="stable")
    return Ranked(
        np.arange(features + 1, dtype=np.int64) * units,
        order.ravel().astype(np.int32),
        np.take_along_axis(columns, order, axis=1).ravel(),
    )


def rank_pairs(features: np.ndarray, units: np.ndarray, values: np.ndarray, count: int) -> Ranked:
    """Rank features that have a value on some units, as activations that are above 0.

    Args:
        features: number of the feature of each value, 0 to ``count`` - 1, N of them.
        units: number of the unit of each value, N.
        values: N; a unit has at most one of a feature.
        count: F.
    """
    order = np.lexsort((units, -np.asarray(values, dtype=np.float32), features))
    starts = np.searchsorted(features[order], np.arange(count + 1)).astype(np.int64)
    return Ranked(starts, units[order].astype(np.int32), values[order].astype(np.float32))


def score_features(
    ranked: Ranked, labels: Labels, validation: np.ndarray, test: np.ndarray
) -> Scores:
    """Choose a threshold for each feature and concept on validation and measure it on test.

    A feature calls the units whose value is at least the threshold. Precision is the share of
    called units that bear the concept, recall the share of its instances with a called unit, F1
    their harmonic mean. Of proteins that is the usual F1; of residues it is the per-residue
    precision and per-domain recall of InterPLM (Simon & Zou 2025, Nature Methods 22:2107). Every
    distinct value on validation is tried and the one of the best F1 kept, of equal ones the
    highest. Test is only measured. AUROC needs no threshold: the Mann-Whitney statistic of the
    raw values of test units, equal ones counting half (Hanley & McNeil 1982, Radiology 143:29).

    Time is that of a walk over all entries and the concepts of their units; memory 32 bytes x F x
    C for the scores, and 8 x S x the longest feature.

    Args:
        ranked: the values of F features.
        labels: which units bear which of C concepts.
        validation: (U) bool, the units of validation.
        test: (U) bool, those of test.
    """
    from esm_sae.analysis.concepts.kernels import apply_thresholds, find_thresholds

    shape = (len(ranked.starts) - 1, labels.concept_count)
    threshold, auroc = np.full((2, *shape), np.nan, dtype=np.float32)
    counts = np.zeros((6, *shape), dtype=np.int32)
    label = labels[:4]
    on_validation = (labels.within(validation), labels.positives(validation))
    find_thresholds(*ranked, *label, *on_validation, threshold, *counts[:3])
    on_test = (labels.within(test), labels.bearers(test))
    apply_thresholds(*ranked, *label, *on_test, threshold, *counts[3:], auroc)
    return Scores._make([threshold, *counts, auroc])


def f1_of(
    true: np.ndarray, called: np.ndarray, found: np.ndarray, positives: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision true / called, recall found / positives and their harmonic mean.

    Precision is 0 where nothing is called, recall and F1 are NaN where there is nothing to find.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, true / called, 0.0)
        recall = np.where(positives > 0, found / positives, np.nan)
        total = precision + recall
        f1 = np.where(total == 0, 0.0, 2.0 * precision * recall / total)
    return precision, recall, f1


class BestFeatures:
    """The feature of best validation F1 for each concept, over blocks of features.

    Of equal features the first counts. Attributes are arrays of (C): ``feature`` (-1 where none
    has a value on a bearer in validation), ``threshold``, ``validation_f1``, ``test_f1`` and
    ``auroc`` of the chosen one (NaN where none is), and ``called``, for each concept the units of
    test that it calls, int32 each. Test plays no part in the choice.
    """

    def __init__(self, labels: Labels, validation: np.ndarray, test: np.ndarray) -> None:
        self._labels, self._validation, self._test = labels, validation, test
        self._positives = labels.positives(validation), labels.positives(test)
        concepts = labels.concept_count
        self.feature = np.full(concepts, -1, dtype=np.int64)
        self.threshold = np.full(concepts, np.nan, dtype=np.float32)
        self.validation_f1, self.test_f1, self.auroc = np.full((3, concepts), np.nan)
        self.called = [np.empty(0, dtype=np.int32) for _ in range(concepts)]

    def add(self, ranked: Ranked, first: int, *, only: np.ndarray | None = None) -> Scores:
        """Score a block of features and keep those that beat the ones before.

        Args:
            ranked: the values of the block.
            first: number of the block's first feature.
            only: (F), the one concept that may choose each feature; None where any may.

        Returns:
            The scores of the block.
        """
        scores = score_features(ranked, self._labels, self._validation, self._test)
        of_validation = f1_of(*scores[1:4], self._positives[0])[2]
        of_test = f1_of(*scores[4:7], self._positives[1])[2]
        reached = np.nan_to_num(of_validation)
        if only is not None:
            reached[only[:, None] != np.arange(reached.shape[1])] = 0
        best = reached.argmax(axis=0) if len(reached) else np.empty(0, dtype=np.int64)
        in_test = self._labels.within(self._test)
        for concept, feature in enumerate(best):
            of_pair = feature, concept
            if reached[of_pair] <= np.nan_to_num(self.validation_f1[concept]):
                continue
            self.feature[concept] = first + feature
            self.threshold[concept] = scores.threshold[of_pair]
            self.validation_f1[concept] = of_validation[of_pair]
            self.test_f1[concept] = of_test[of_pair]
            self.auroc[concept] = scores.auroc[of_pair]
            units = ranked.called(int(feature), float(self.threshold[concept]))
            counted = in_test[units, self._labels.source_of[concept]]
            self.called[concept] = np.sort(units[counted])
        return scores
