"""A dense probe as a ceiling: how well all dimensions together tell each concept."""

from dataclasses import replace

import numpy as np

from esm_sae.analysis.concepts.judged import JudgedConcepts
from esm_sae.analysis.concepts.probe import Standardised, fit_probes
from esm_sae.analysis.concepts.protein_rows import RowUnits
from esm_sae.analysis.concepts.scores import BestFeatures, rank_dense

_UNITS_FITTED = 65_536
_CONCEPTS_AT_ONCE = 64


def probe_vectors(units: RowUnits) -> np.ndarray:
    """Return the vector of each unit that a probe sees, (U, D) or (U, 3D) float32.

    A unit of one row is that row. A protein of many is the largest, the negated smallest and the
    mean value of each dimension over its rows.
    """
    by_row = units.by_row or len(units.proteins.protein_of_row) == len(units.proteins.ids)
    extremes = units.extremes(lambda x: x, signed=not by_row)
    return extremes if by_row else np.concatenate([extremes, units.means()], axis=1)


def best_probes(judged: JudgedConcepts, units: RowUnits) -> BestFeatures:
    """Fit a probe to each concept on training units; choose penalty and threshold on validation.

    The ``feature`` chosen is the number of the penalty. It is fitted to at most 65,536 units of
    evenly spaced training proteins. Memory: their vectors and those of the held-out units, both
    twice, and the scores of all held-out units and concepts.

    Args:
        judged: the concepts, one or more.
        units: the held-out units.
    """
    best = judged.undecided()
    train = replace(units, chosen=_evenly_spaced(judged, units))
    if not train.count:
        return best
    vectors = probe_vectors(train)
    standardised = Standardised(vectors)
    x, held_out = standardised(vectors), standardised(probe_vectors(units))
    bears, counts = _targets(judged, np.flatnonzero(train.mask))
    places = np.flatnonzero(units.mask)
    concepts = np.arange(judged.labels.concept_count)
    for number, weights in enumerate(fit_probes(x, bears, counts)):
        scores = held_out @ weights
        for start in range(0, len(concepts), _CONCEPTS_AT_ONCE):
            part = slice(start, start + _CONCEPTS_AT_ONCE)
            ranked = rank_dense(scores[:, part])
            ranked = ranked._replace(units=places[ranked.units].astype(np.int32))
            best.add(ranked, number * len(concepts) + start, only=concepts[part])
    best.feature[best.feature >= 0] //= len(concepts)
    return best


def _evenly_spaced(judged: JudgedConcepts, units: RowUnits) -> np.ndarray:
    """Choose evenly spaced training proteins, of about 65,536 units at most."""
    known = np.flatnonzero(judged.known & judged.train)
    of_proteins = units.proteins.sizes[known] if units.by_row else np.ones(len(known), dtype=int)
    fitting = max(int(len(known) * min(_UNITS_FITTED / max(of_proteins.sum(), 1), 1)), 1)
    chosen = np.zeros(len(judged.known), dtype=bool)
    if len(known):
        chosen[known[np.linspace(0, len(known) - 1, fitting).astype(np.int64)]] = True
    return chosen


def _targets(judged: JudgedConcepts, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which units bear, and which count for, which concepts, (U, C) float32 each."""
    labels = judged.labels
    mask = np.zeros(len(labels.universe), dtype=bool)
    mask[places] = True
    unit, concept, _ = labels.entries(mask)
    bears = np.zeros((len(places), labels.concept_count), dtype=np.float32)
    bears[(np.cumsum(mask) - 1)[unit], concept] = 1
    return bears, labels.universe[places][:, labels.source_of].astype(np.float32)
