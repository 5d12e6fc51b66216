"""How well each latent marks each concept, with latent and threshold chosen on validation."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.analysis.concepts.comparison_figure import comparison_figure
from esm_sae.analysis.concepts.labels import universe_path
from esm_sae.analysis.concepts.level import score_level
from esm_sae.analysis.concepts.units import RunProteins, held_out_residues, open_run, proteins_of
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    CONCEPT_COMPARISON,
    CONCEPTS,
    FEATURE_CONCEPTS,
    concept_skill,
)
from esm_sae.formats.manifest import Product, identity_of, produce_folder, read_manifest
from esm_sae.split import identity_of_clusters

_ALGORITHM = "concepts-2"
_TOP = 10


def score_concepts(
    activations_folder: storage.PathLike,
    annotations: storage.PathLike,
    output_folder: storage.PathLike,
    *,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
    min_positives: int = 5,
    baselines: storage.PathLike | None = None,
    seed: int = 0,
) -> Product:
    """Score every latent as a detector of every concept that can be judged.

    Proteins are split by similarity cluster. For each latent and concept the threshold of best F1
    is chosen on validation proteins, for each concept the latent of best F1 there; what is
    reported is test (``score_features``). Level ``protein``: a unit is a protein, a latent's
    activation in it the maximum over its encoded rows. Level ``residue``, of residue runs: a unit
    is an encoded residue, for concepts with positions; precision is per residue, recall per
    domain. Eligible concepts and what is pooled: ``concept_counts``, ``pooled_concepts``.

    Files of the folder:

    - ``concepts.parquet``, sorted by level, source and concept: how many positives it has and in
      how many similarity clusters, eligible, and where it is the latent chosen, threshold,
      validation_f1, test_f1 with its 95% interval f1_low and f1_high (``pooled_f1``) and auroc; and
      trivial_f1, which calling every unit would have: of a common concept that is high
      (validation_trivial_f1: the same of validation).
      latent is null where none fires on a positive of validation; test_f1 is 0 then.
    - ``feature_concepts.parquet``, sorted by level, latent, source and concept: a row for each
      latent and eligible concept on whose validation positives the latent fires, with its
      threshold, precision, recall and F1 on both parts, auroc, and whether it is the concept's
      chosen latent. The best of a thousand latents on validation is no longer an unbiased figure:
      read test.
    - ``comparison.png``: F1 pooled over concepts, beside the baselines where they are given.

    Memory: activations of 16 million pairs and 4 million scores at a time, and the labels of all
    proteins and held-out residues, about 60 bytes an annotation or residue.

    Args:
        activations_folder: by ``compute_activations``.
        annotations: by ``annotate_concepts``.
        output_folder: replaced as a whole.
        similarity_clusters: table of similarity clusters, ``"bundled"``, or None where every
            protein is its own.
        split_seed: of the split.
        min_positives: fewest positives of an eligible concept in validation and in test each.
        baselines: folder by ``score_baselines``, drawn beside the latents.
        seed: of the bootstrap.

    Raises:
        InputError: a folder or table is not what it should be, the annotations say nothing of
            these proteins, or ``min_positives`` is below 1.
    """
    if min_positives < 1:
        raise InputError(f"min_positives is {min_positives}; give 1 or more")
    activations = Path(activations_folder)
    run = open_run(activations, similarity_clusters, split_seed=split_seed)
    determinants = {
        "activations": identity_of(activations),
        "annotations": identity_of(annotations),
        "universe": identity_of(universe_path(annotations)),
        "similarity_clusters": identity_of_clusters(similarity_clusters),
        "baselines": None if baselines is None else identity_of(baselines),
        "split_seed": split_seed,
        "min_positives": min_positives,
        "seed": seed,
        "algorithm": _ALGORITHM,
    }

    def build(folder: Path) -> dict[str, Any]:
        units = [proteins_of(run, annotations)]
        if run.residues:
            units.append(held_out_residues(run, annotations))
        parts = folder / "parts"
        parts.mkdir(exist_ok=True)
        levels = [
            score_level(
                run, of_level, parts, k=_k_of(activations), min_positives=min_positives, seed=seed
            )
            for of_level in units
        ]
        concepts = pl.concat(level.concepts for level in levels)
        concepts.write_parquet(folder / CONCEPTS)
        written = [path for level in levels for path in level.parts]
        _join_parts(written, concepts, folder / FEATURE_CONCEPTS)
        shutil.rmtree(parts)
        pooled = pl.concat(level.pooled for level in levels)
        (folder / CONCEPT_COMPARISON).write_bytes(comparison_figure(pooled, baselines))
        return {"proteins": _proteins(run), **_describe(concepts, pooled)}

    return produce_folder(
        output_folder, kind="feature_concepts", determinants=determinants, build=build
    )


def _k_of(activations: Path) -> int:
    manifest = read_manifest(activations)
    return int(manifest.determinants["config"]["k"]) if manifest else 0


def _join_parts(parts: list[Path], concepts: pl.DataFrame, path: Path) -> None:
    """Join blocks of rows into one table and mark the chosen latents."""
    on = ["level", "source", "concept"]
    chosen = concepts.lazy().select(*on, pl.col("latent").alias("chosen_latent"))
    (
        pl.scan_parquet(parts)
        .join(chosen, on=on, how="left", maintain_order="left")
        .with_columns(chosen=(pl.col("latent") == pl.col("chosen_latent")).fill_null(False))
        .drop("chosen_latent")
        .sink_parquet(path, maintain_order=True)
    )


def _proteins(run: RunProteins) -> dict[str, int]:
    return {part: int((run.splits == part).sum()) for part in ("train", "validation", "test")}


def _describe(concepts: pl.DataFrame, pooled: pl.DataFrame) -> dict[str, Any]:
    by = concepts.group_by("level", "source", maintain_order=True).agg(
        pl.len().alias("concepts"),
        pl.col("eligible").sum(),
        pl.col("latent").is_not_null().sum().alias("with_latent"),
        pl.col("test_f1", "trivial_f1").mean(),
        pl.col("auroc").mean(),
    )
    levels = pooled.drop("method", "k").to_dicts()
    # Those that are best on test would be those that were lucky there.
    best = concepts.filter("eligible").sort(
        [concept_skill(), "level", "source", "concept"],
        descending=[True, False, False, False],
        nulls_last=True,
    )
    return {
        "by_source": by.to_dicts(),
        "pooled": levels,
        "best_concepts": best.head(_TOP)
        .select(
            "level",
            "concept",
            "latent",
            "test_positives",
            "test_f1",
            "f1_low",
            "f1_high",
            "trivial_f1",
            "auroc",
        )
        .to_dicts(),
    }
