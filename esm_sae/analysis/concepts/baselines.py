"""What concepts can be read from without a trained SAE, by the rules its latents are judged by."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.analysis.concepts.baseline_features import Block
from esm_sae.analysis.concepts.baseline_methods import Candidates, encoder_methods, fitted_methods
from esm_sae.analysis.concepts.judged import (
    Held,
    JudgedConcepts,
    Method,
    judge_proteins,
    judge_residues,
)
from esm_sae.analysis.concepts.labels import RESIDUE, universe_path
from esm_sae.analysis.concepts.probe import PENALTIES
from esm_sae.analysis.concepts.probe_scores import best_probes
from esm_sae.analysis.concepts.protein_rows import RowUnits, name_of, proteins_in
from esm_sae.analysis.concepts.scores import BestFeatures
from esm_sae.analysis.concepts.sequence_features import (
    COMPOSITION_FEATURES,
    LETTER_FEATURES,
    composition,
    letters,
)
from esm_sae.analysis.encoder import EmbeddingRows, SparseEncoder
from esm_sae.analysis.residues import sequences_of
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    BASELINE_CONCEPT_SCHEMA,
    BASELINE_CONCEPTS,
    BASELINE_SCHEMA,
    BASELINES,
)
from esm_sae.formats.checkpoint import require_same_embeddings
from esm_sae.formats.manifest import Product, identity_of, produce_folder
from esm_sae.progress import progress
from esm_sae.recorded_split import require_held_out
from esm_sae.split import (
    cluster_numbers_of,
    identity_of_clusters,
    read_similarity_clusters,
    splits_of,
)

_ALGORITHM = "concept-baselines-1"
_MOST_RESIDUES = 1 << 18
_INDEX_ROWS = 262_144

_Untrained = tuple[EmbeddingRows, Mapping[int, SparseEncoder]]


def score_baselines(
    rows: EmbeddingRows,
    annotations: storage.PathLike,
    output_folder: storage.PathLike,
    *,
    fasta: storage.PathLike,
    latent_dim: int,
    random: Mapping[int, SparseEncoder],
    untrained: _Untrained | None,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
    min_positives: int = 5,
    seed: int = 0,
) -> Product:
    """Score what concepts can be read from without a trained SAE.

    By the rules of ``score_concepts``: the same concepts are eligible, each chooses one feature
    and its threshold by F1 on validation, and test only measures. A protein's value of a feature
    is the largest over its rows. The methods:

    - ``raw``: the dimensions of the embedding, with both signs.
    - ``pca``: all principal components of the training rows, with both signs.
    - ``kmeans``: minus the squared distance to each of ``latent_dim`` centroids of them.
    - ``random``: TopK on directions that were never trained, for each k.
    - ``untrained``: an SAE trained on the rows of an untrained encoder, for each k.
    - ``composition``: 20 amino acids and 400 pairs of neighbours, with both signs: their shares of
      the whole sequence, or of a residue what it is and what it neighbours.
    - ``probe``: a logistic regression of all dimensions (of a protein of many rows, their largest,
      smallest and mean values) for each concept, fitted on training: a ceiling, not a rival.

    Files of the folder:

    - ``baselines.parquet``, a row per method, k and level: method, k (null where there is none),
      level, candidates (features that a concept chooses among; of the probe, penalties), concepts
      (that are pooled), pooled_f1 with its 95% bootstrap interval over similarity clusters, and
      the means over the pooled concepts, mean_f1 and mean_auroc.
    - ``baseline_concepts.parquet``, a row per method, k, level and eligible concept: the feature
      chosen (of n features with both signs, n + i is the negative of i; of the probe, the
      penalty), its threshold, validation_f1, test_f1 with interval, auroc, and whether the concept
      is pooled.

    Residues are judged where the rows are residues and at most 262,144 of them held out. PCA,
    k-means and probe are fitted to at most 65,536 evenly spaced training rows or proteins.

    Memory: 1 GiB of features of the held-out proteins at a time, 0.4 GiB to rank them, the fitted
    rows, the sequences, the annotations, 32 bytes for each feature of a block and concept, and
    what ``best_probes`` says. Time is that of a pass over the rows for each block of each method.

    Args:
        rows: the embedding rows.
        annotations: a table by ``annotate_concepts``.
        output_folder: replaced as a whole.
        fasta: the sequences that were embedded.
        latent_dim: L of the SAEs that these stand beside: the number of centroids.
        random: for each k, TopK on directions that were never trained.
        untrained: rows of an untrained encoder of the same proteins and residues, and for each k an
            SAE of them; None leaves the method out.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"``, or None
            where each protein is its own.
        split_seed: of the split into training, validation and test.
        min_positives: fewest positives of an eligible concept in validation and in test.
        seed: of k-means and the bootstrap.

    Raises:
        InputError: an SAE is not of these rows' kind or trained with another split, the untrained
            encoder's rows are of other proteins, the annotations say nothing of these proteins,
            the FASTA file lacks one, no protein is in training, a row holds NaN or infinity, or
            ``min_positives`` is below 1.
    """
    if min_positives < 1:
        raise InputError(f"min_positives is {min_positives}; give 1 or more")
    for given, encoders in [(rows, random), *([untrained] if untrained else [])]:
        for k, sae in encoders.items():
            require_same_embeddings(sae.config, given.provenance, given.width, name_of(given))
            training = sae.config.training
            require_held_out(f"the SAE of k = {k}", training, similarity_clusters, split_seed)
    if untrained is not None:
        _require_same_rows(rows, untrained[0])
    clusters = similarity_clusters
    determinants = {
        "rows": rows.fingerprint,
        "annotations": [identity_of(annotations), identity_of(universe_path(annotations))],
        "fasta": identity_of(fasta),
        "random": _identities(random),
        "untrained": None
        if untrained is None
        else {"rows": untrained[0].fingerprint, "saes": _identities(untrained[1])},
        "similarity_clusters": identity_of_clusters(clusters),
        "latent_dim": latent_dim,
        "split_seed": split_seed,
        "min_positives": min_positives,
        "seed": seed,
        "algorithm": _ALGORITHM,
    }

    def build(folder: Path) -> dict[str, Any]:
        proteins = proteins_in(rows)
        known = None if clusters is None else read_similarity_clusters(clusters)
        ids = proteins.ids.to_list()
        held = Held(splits_of(ids, known, seed=split_seed), cluster_numbers_of(ids, known))
        _require_training(rows, held)
        levels = [judge_proteins(annotations, proteins, held, min_positives)]
        residues = int(proteins.sizes[held.splits != "train"].sum())
        if rows.provenance.pooling == RESIDUE and residues <= _MOST_RESIDUES:
            levels.append(judge_residues(rows, annotations, proteins, held, min_positives))
        methods = [
            *fitted_methods(rows, proteins, held.splits == "train", latent_dim, seed=seed),
            *encoder_methods("random", rows, random),
            *(encoder_methods("untrained", *untrained) if untrained else []),
        ]
        table, concepts = _tables(levels, methods, rows, fasta, seed)
        table.write_parquet(folder / BASELINES)
        concepts.write_parquet(folder / BASELINE_CONCEPTS)
        return _summary(levels, held, table)

    return produce_folder(
        output_folder, kind="concept_baselines", determinants=determinants, build=build
    )


def choose_features(
    judged: JudgedConcepts,
    methods: Sequence[Candidates],
    rows: EmbeddingRows,
    fasta: storage.PathLike,
) -> Iterator[tuple[Method, BestFeatures]]:
    """Yield each method, the composition and the probe with the feature that each concept chooses.

    Args:
        judged: the concepts, one or more.
        methods: the methods of embedding rows.
        rows: the embedding rows.
        fasta: their sequences.
    """
    units = judged.units(rows)
    for method in methods:
        own, features = replace(units, rows=method.rows), method.features
        best = judged.best_of(features.blocks(own), own, sparse=features.sparse)
        yield Method(method.name, method.k, features.candidates), best
    best = judged.best_of(_of_sequence(units, fasta), units, sparse=False)
    candidates = LETTER_FEATURES if units.by_row else COMPOSITION_FEATURES
    yield Method("composition", None, candidates), best
    yield Method("probe", None, len(PENALTIES)), best_probes(judged, units)


def _tables(
    levels: Sequence[JudgedConcepts],
    methods: Sequence[Candidates],
    rows: EmbeddingRows,
    fasta: storage.PathLike,
    seed: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    table = pl.DataFrame(schema=BASELINE_SCHEMA)
    concepts = pl.DataFrame(schema=BASELINE_CONCEPT_SCHEMA)
    judged = [level for level in levels if len(level.counts)]
    total = len(judged) * (len(methods) + 2)
    with progress(total, unit="methods", description="concept baselines") as shown:
        for level in judged:
            for method, best in choose_features(level, methods, rows, fasta):
                scored = level.scored(method, best, seed=seed)
                table, concepts = table.extend(scored.table), concepts.extend(scored.concepts)
                shown.update(1)
    return table, concepts


def _of_sequence(units: RowUnits, fasta: storage.PathLike) -> Iterator[Block]:
    proteins = units.proteins
    table = pl.DataFrame({"sequence_id": proteins.ids, "length": proteins.lengths})
    sequences = sequences_of(table.filter(units.chosen), fasta).to_list()
    if not units.by_row:
        yield composition(sequences)
        return
    positions = units.rows.index.select("position").collect()["position"].to_numpy()[units.mask]
    number = np.repeat(np.arange(len(sequences)), proteins.sizes[units.chosen])
    yield from letters(sequences, number, positions)


def _identities(encoders: Mapping[int, SparseEncoder]) -> dict[str, Any]:
    return {str(k): [sae.fingerprint, asdict(sae.config)] for k, sae in sorted(encoders.items())}


def _require_same_rows(rows: EmbeddingRows, others: EmbeddingRows) -> None:
    same = rows.rows == others.rows
    for start in range(0, rows.rows if same else 0, _INDEX_ROWS):
        one, other = (
            of.index.select("sequence_id", "position").slice(start, _INDEX_ROWS).collect()
            for of in (rows, others)
        )
        same = same and one.equals(other)
    if not same:
        raise InputError(
            f"{name_of(others)}: its rows are not the proteins and residues of {name_of(rows)}; "
            "embed the same sequences with the same options"
        )


def _require_training(rows: EmbeddingRows, held: Held) -> None:
    if not (held.splits == "train").any():
        raise InputError(
            f"{name_of(rows)}: none of its proteins falls into the training split; embed more "
            "proteins or give another split seed"
        )


def _summary(levels: Sequence[JudgedConcepts], held: Held, table: pl.DataFrame) -> dict[str, Any]:
    proteins = levels[0]
    return {
        "proteins": len(held.splits),
        "validation_proteins": int((held.splits == "validation").sum()),
        "test_proteins": int((held.splits == "test").sum()),
        "test_clusters": len(np.unique(held.clusters[held.splits == "test"])),
        "judged_proteins": int(proteins.held_out.sum()),
        "levels": {
            judged.level: {
                "eligible_concepts": len(judged.counts),
                "pooled_concepts": int(judged.pooled.sum()),
            }
            for judged in levels
        },
        "scores": table.select("method", "k", "level", "candidates", "pooled_f1").to_dicts(),
    }
