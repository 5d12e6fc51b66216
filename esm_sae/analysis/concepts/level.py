"""Scoring the latents of a run at one level, proteins or residues."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae.analysis.concepts.intervals import hits_of, pooled_f1
from esm_sae.analysis.concepts.labels import (
    LabelledConcepts,
    concept_counts,
    only,
    pooled_concepts,
)
from esm_sae.analysis.concepts.scores import BestFeatures, Labels, Scores, f1_of
from esm_sae.analysis.concepts.units import RunProteins, Units, ranked_latents
from esm_sae.formats.analysis_tables import BASELINE_SCHEMA, CONCEPT_SCHEMA, FEATURE_CONCEPT_SCHEMA
from esm_sae.progress import progress


class LevelScores(NamedTuple):
    """What the latents of a run do at a level.

    Attributes:
        concepts: the rows of ``concepts.parquet``.
        pooled: a row of BASELINE_SCHEMA, the method is ``sae``.
        parts: files with the rows of ``feature_concepts.parquet``, in their order.
    """

    concepts: pl.DataFrame
    pooled: pl.DataFrame
    parts: list[Path]


def score_level(
    run: RunProteins, units: Units, parts: Path, *, k: int, min_positives: int, seed: int
) -> LevelScores:
    """Score all latents of a run on the eligible concepts of a level.

    Args:
        run: the proteins.
        units: the units of the level and their concepts.
        parts: folder that the rows of latents and concepts are written to, by the block.
        k: of the run.
        min_positives: see ``concept_counts``.
        seed: of the bootstrap.
    """
    validation, test = units.splits == "validation", units.splits == "test"
    counts = concept_counts(
        units.concepts, units.level, units.clusters, validation, test, min_positives
    )
    eligible = counts["eligible"].to_numpy()
    concepts = only(units.concepts, eligible)
    labels = concepts.labels
    best = BestFeatures(labels, validation, test)
    positives = labels.positives(validation), labels.positives(test)
    paths, latents = [], 0
    with progress(None, unit="latents", description=f"concepts, {units.level}") as shown:
        for first, ranked in ranked_latents(run, units._replace(concepts=concepts)):
            scores = best.add(ranked, first)
            paths.append(parts / f"{units.level}-{first:08d}.parquet")
            _rows(scores, first, concepts, units.level, positives).write_parquet(paths[-1])
            latents += len(ranked.starts) - 1
            shown.update(len(ranked.starts) - 1)
    hits, clusters = hits_of(best, labels, test, units.clusters)
    pooled = pooled_concepts(counts)[eligible]
    f1 = pooled_f1(hits, clusters, pooled, seed=seed)
    own = {
        "method": "sae",
        "k": k,
        "level": units.level,
        "candidates": latents,
        "concepts": int(pooled.sum()),
        "pooled_f1": f1.value,
        "pooled_f1_low": f1.low,
        "pooled_f1_high": f1.high,
        "mean_f1": _mean(f1.of_concept[pooled]),
        "mean_auroc": _mean(best.auroc[pooled]),
    }
    chosen = concepts.names.with_columns(
        pl.Series("latent", best.feature).replace(-1, None),
        pl.Series("threshold", best.threshold),
        pl.Series("validation_f1", best.validation_f1),
        pl.Series("test_f1", f1.of_concept),
        pl.Series("f1_low", f1.concept_low),
        pl.Series("f1_high", f1.concept_high),
        pl.Series("trivial_f1", _trivial_f1(labels, test, positives[1])),
        pl.Series("validation_trivial_f1", _trivial_f1(labels, validation, positives[0])),
        pl.Series("auroc", best.auroc),
    ).fill_nan(None)
    table = counts.join(chosen, on=["source", "concept"], how="left", maintain_order="left")
    return LevelScores(
        table.select(*CONCEPT_SCHEMA).cast(CONCEPT_SCHEMA),  # pyright: ignore[reportArgumentType]
        pl.DataFrame([own], schema=BASELINE_SCHEMA).fill_nan(None),
        paths,
    )


def _trivial_f1(labels: Labels, units: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return the F1 of calling every one of some units."""
    everything = labels.within(units).sum(axis=0)[labels.source_of]
    return f1_of(labels.bearers(units), everything, positives, positives)[2]


def _rows(
    scores: Scores,
    first: int,
    concepts: LabelledConcepts,
    level: str,
    positives: tuple[np.ndarray, np.ndarray],
) -> pl.DataFrame:
    feature, concept = np.nonzero(~np.isnan(scores.threshold))
    at = feature, concept
    columns = {
        "latent": first + feature,
        "source": concepts.names["source"].gather(concept),
        "concept": concepts.names["concept"].gather(concept),
        "threshold": scores.threshold[at],
        "auroc": scores.auroc[at],
    }
    for part, counted, there in (
        ("validation", scores[1:4], positives[0]),
        ("test", scores[4:7], positives[1]),
    ):
        true, called, found = (count[at] for count in counted)
        figures = f1_of(true, called, found, there[concept])
        names = (f"{part}_precision", f"{part}_recall", f"{part}_f1")
        columns |= dict(zip(names, figures, strict=True))
    table = pl.DataFrame(columns).with_columns(pl.lit(level).alias("level"), chosen=False)
    return table.select(*FEATURE_CONCEPT_SCHEMA).cast(FEATURE_CONCEPT_SCHEMA)  # pyright: ignore[reportArgumentType]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
