"""The concepts that features are compared by: the eligible ones, on held-out units."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.analysis.concepts.baseline_features import Block
from esm_sae.analysis.concepts.intervals import PooledF1, hits_of, pooled_f1
from esm_sae.analysis.concepts.labels import (
    PROTEIN,
    RESIDUE,
    LabelledConcepts,
    concept_counts,
    only,
    pooled_concepts,
    protein_labels,
    residue_labels,
)
from esm_sae.analysis.concepts.protein_rows import ProteinRows, RowUnits
from esm_sae.analysis.concepts.scores import (
    BestFeatures,
    Labels,
    Ranked,
    rank_dense,
    rank_pairs,
)
from esm_sae.analysis.encoder import EmbeddingRows
from esm_sae.formats.analysis_tables import BASELINE_CONCEPT_SCHEMA, BASELINE_SCHEMA

# Ranking takes about 24 bytes a value.
_VALUES_RANKED_AT_ONCE = 1 << 24


class Method(NamedTuple):
    """What concepts are read from.

    Attributes:
        name: such as ``"raw"``.
        k: of an SAE, else None.
        candidates: how many features a concept chooses among.
    """

    name: str
    k: int | None
    candidates: int


@dataclass(frozen=True)
class JudgedConcepts:
    """Eligible concepts and the units that bear them.

    Attributes:
        level: ``"protein"`` or ``"residue"``.
        counts: a row for each eligible concept, by ``concept_counts``.
        pooled: over which of them F1 is pooled, (C,) bool.
        labels: theirs, on all units.
        splits: train, validation or test, of each unit.
        clusters: similarity cluster of each unit.
        proteins: the proteins, and their rows.
        known: which proteins any of these concepts' sources speaks of, (P,) bool.
        train: which proteins are training's, (P,) bool.
    """

    level: str
    counts: pl.DataFrame
    pooled: np.ndarray
    labels: Labels
    splits: np.ndarray
    clusters: np.ndarray
    proteins: ProteinRows
    known: np.ndarray
    train: np.ndarray

    @property
    def held_out(self) -> np.ndarray:
        """The proteins whose units are judged, (P,) bool."""
        return self.known & ~self.train

    def units(self, rows: EmbeddingRows) -> RowUnits:
        """Return the units that are judged."""
        return RowUnits(rows, self.proteins, self.held_out, by_row=self.level == RESIDUE)

    def best_of(self, blocks: Iterable[Block], units: RowUnits, *, sparse: bool) -> BestFeatures:
        """Choose a feature for each concept.

        Args:
            blocks: features of the held-out units.
            units: these units.
            sparse: whether 0 means that a feature does not fire.
        """
        best, places = self.undecided(), np.flatnonzero(units.mask)
        numbers = np.empty(0, dtype=np.int64)
        for block in blocks:
            step = max(_VALUES_RANKED_AT_ONCE // max(len(block.values), 1), 1)
            for start in range(0, len(block.numbers), step):
                ranked = _ranked(block.values[:, start : start + step], places, sparse=sparse)
                best.add(ranked, len(numbers) + start)
            numbers = np.concatenate([numbers, block.numbers])
        found = best.feature >= 0
        best.feature[found] = numbers[best.feature[found]]
        return best

    def undecided(self) -> BestFeatures:
        """Return the choice among no features yet."""
        return BestFeatures(self.labels, self.splits == "validation", self.splits == "test")

    def scored(self, method: Method, best: BestFeatures, *, seed: int) -> "Scored":
        """Return the tables of a method whose features have been chosen.

        Args:
            method: what was chosen from.
            best: the choice.
            seed: of the bootstrap.
        """
        test = self.splits == "test"
        hits, clusters = hits_of(best, self.labels, test, self.clusters)
        pooled = pooled_f1(hits, clusters, self.pooled, seed=seed)
        return Scored(self._table(method, best, pooled), self._concept_table(method, best, pooled))

    def _table(self, method: Method, best: BestFeatures, pooled: PooledF1) -> pl.DataFrame:
        row = {
            **method._asdict(),
            "level": self.level,
            "concepts": int(self.pooled.sum()),
            "pooled_f1": pooled.value,
            "pooled_f1_low": pooled.low,
            "pooled_f1_high": pooled.high,
            "mean_f1": _mean(pooled.of_concept[self.pooled]),
            "mean_auroc": _mean(best.auroc[self.pooled]),
        }
        columns = {"method" if name == "name" else name: [value] for name, value in row.items()}
        return pl.DataFrame(columns, schema=BASELINE_SCHEMA).fill_nan(None)

    def _concept_table(self, method: Method, best: BestFeatures, pooled: PooledF1) -> pl.DataFrame:
        columns = {
            "method": pl.repeat(method.name, len(self.counts), eager=True),
            "k": pl.repeat(method.k, len(self.counts), dtype=pl.UInt32, eager=True),
            "source": self.counts["source"],
            "concept": self.counts["concept"],
            "level": self.counts["level"],
            "pooled": self.pooled,
            "feature": pl.Series([number if number >= 0 else None for number in best.feature]),
            "threshold": best.threshold,
            "validation_f1": best.validation_f1,
            "test_f1": pooled.of_concept,
            "f1_low": pooled.concept_low,
            "f1_high": pooled.concept_high,
            "auroc": best.auroc,
        }
        return pl.DataFrame(columns).cast(pl.Schema(BASELINE_CONCEPT_SCHEMA)).fill_nan(None)


class Scored(NamedTuple):
    """How well a method finds the concepts.

    Attributes:
        table: one row of ``BASELINE_SCHEMA``.
        concepts: a row of ``BASELINE_CONCEPT_SCHEMA`` for each eligible concept.
    """

    table: pl.DataFrame
    concepts: pl.DataFrame


class Held(NamedTuple):
    """Which proteins are held out.

    Attributes:
        splits: train, validation or test, (P,).
        clusters: similarity cluster of each protein, (P,).
    """

    splits: np.ndarray
    clusters: np.ndarray


def judge_proteins(
    annotations: storage.PathLike, proteins: ProteinRows, held: Held, min_positives: int
) -> JudgedConcepts:
    """Read which proteins bear which of the eligible concepts, by ``concept_counts``.

    Args:
        annotations: a table by ``annotate_concepts``.
        proteins: the proteins, and their rows.
        held: which of them are held out.
        min_positives: fewest positives in validation and in test.

    Raises:
        InputError: it is no such table, or says nothing of any of the proteins.
    """
    concepts = protein_labels(annotations, proteins.ids)
    return _judged(concepts, PROTEIN, proteins, held, np.arange(len(proteins.ids)), min_positives)


def judge_residues(
    rows: EmbeddingRows,
    annotations: storage.PathLike,
    proteins: ProteinRows,
    held: Held,
    min_positives: int,
) -> JudgedConcepts:
    """Read which residue rows bear which of the eligible concepts that have positions.

    Args:
        rows: residue rows; the others as ``judge_proteins``.
        annotations: a table by ``annotate_concepts``.
        proteins: the proteins, and their rows.
        held: which of them are held out.
        min_positives: fewest positives in validation and in test.
    """
    protein = proteins.protein_of_row
    positions = rows.index.select("position").collect()["position"].to_numpy()
    concepts = residue_labels(annotations, proteins.ids, protein, positions)
    return _judged(concepts, RESIDUE, proteins, held, protein, min_positives)


def _judged(
    concepts: LabelledConcepts,
    level: str,
    proteins: ProteinRows,
    held: Held,
    protein_of_unit: np.ndarray,
    min_positives: int,
) -> JudgedConcepts:
    splits, clusters = (values[protein_of_unit] for values in held)
    validation, test = splits == "validation", splits == "test"
    counts = concept_counts(concepts, level, clusters, validation, test, min_positives)
    eligible = counts["eligible"].to_numpy()
    labels = only(concepts, eligible).labels
    known = np.zeros(len(held.splits), dtype=bool)
    known[protein_of_unit[labels.universe[:, np.unique(labels.source_of)].any(axis=1)]] = True
    return JudgedConcepts(
        level,
        counts.filter(eligible),
        pooled_concepts(counts)[eligible],
        labels,
        splits,
        clusters,
        proteins,
        known,
        held.splits == "train",
    )


def _ranked(block: np.ndarray, numbers: np.ndarray, *, sparse: bool) -> Ranked:
    if not sparse:
        ranked = rank_dense(block)
        return ranked._replace(units=numbers[ranked.units].astype(np.int32))
    unit, feature = np.nonzero(block)
    return rank_pairs(feature, numbers[unit], block[unit, feature], block.shape[1])


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
