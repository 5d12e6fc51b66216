"""A second look at concepts: annotations, baselines, and what latents mark."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from esm_sae.analysis.concepts.labels import universe_path
from esm_sae.formats.analysis_tables import (
    ANNOTATION_SCHEMA,
    BASELINE_CONCEPT_SCHEMA,
    BASELINE_CONCEPTS,
    BASELINE_SCHEMA,
    BASELINES,
    CONCEPT_SCHEMA,
    CONCEPTS,
    FEATURE_CONCEPT_SCHEMA,
    FEATURE_CONCEPTS,
    LEAST_SKILL,
    concept_skill,
)
from esm_sae.formats.manifest import Product
from esm_sae.formats.sequence_index import scan_index
from esm_sae.formats.verification import (
    lacking,
    out_of_order,
    outside,
    refuse_rows,
    require_equal,
    require_files,
    scan_table,
)

_CONCEPT = ["level", "source", "concept"]


class SoundAnnotations(NamedTuple):
    """What is known of annotations that are all of sampled proteins.

    Attributes:
        annotations: rows of the table.
        concepts: their number.
        proteins: of the sample.
        annotated_proteins: that have any annotation.
    """

    annotations: int
    concepts: int
    proteins: int
    annotated_proteins: int


class SoundBaselines(NamedTuple):
    """What is known of baselines in which every figure can be one.

    Attributes:
        rows: methods, for each k that they have, and level.
        methods: their number.
        eligible_concepts: of all levels.
    """

    rows: int
    methods: int
    eligible_concepts: int


class SoundConcepts(NamedTuple):
    """What is known of concepts in which every figure can be one.

    Attributes:
        pairs: latents and concepts that were scored.
        eligible_concepts: that can be judged.
        marked_concepts: that a latent marks, by validation.
        best_skill: how far the best one's F1 there goes from that of calling everything, to 1.
    """

    pairs: int
    eligible_concepts: int
    marked_concepts: int
    best_skill: float


def verify_annotations(product: Product, fasta: Path) -> SoundAnnotations:
    """Check that each annotation is of a sampled protein and lies within it.

    Args:
        product: as ``annotate_concepts`` made it.
        fasta: the sample.

    Raises:
        InputError: one is not or does not.
    """
    require_files(product)
    path, summary = product.path, product.manifest.summary
    lengths = scan_index(fasta).select("sequence_id", "length").unique("sequence_id", keep="first")
    table = scan_table(path, ANNOTATION_SCHEMA).join(lengths, on="sequence_id", how="left")
    start, end, length = pl.col("start"), pl.col("end"), pl.col("length")
    wrong = {
        **lacking("source", "concept", "sequence_id"),
        f"are of a protein that {fasta.name} has not": length.is_null(),
        "begin behind their end": start > end,
        "lie outside their protein": (start < 1) | (end > length),
    }
    rows = refuse_rows(path, table, wrong, named_by=["sequence_id", "concept"])
    counts = table.select(
        pl.struct("source", "concept").n_unique().alias("concepts"),
        pl.col("sequence_id").n_unique().alias("proteins"),
    )
    found = counts.collect(engine="streaming").row(0, named=True)
    universe = scan_table(universe_path(path), ("source", "sequence_id"))
    known = dict(universe.group_by("source").len().collect(engine="streaming").iter_rows())
    sources = summary["sources"]
    require_equal(
        path,
        {
            "annotations": (rows, summary["annotations"]),
            "concepts": (found["concepts"], sum(of["concepts"] for of in sources.values())),
            **{
                f"proteins that the source {name} tells of": (known.get(name, 0), of["proteins"])
                for name, of in sources.items()
            },
        },
    )
    return SoundAnnotations(rows, found["concepts"], summary["proteins"], found["proteins"])


def verify_baselines(product: Product) -> SoundBaselines:
    """Check the baselines' figures, and that every method has the same concepts.

    Args:
        product: as ``score_baselines`` made it.

    Raises:
        InputError: a figure cannot be one, or a method lacks concepts.
    """
    require_files(product)
    path, concepts = product.path / BASELINES, product.path / BASELINE_CONCEPTS
    table = scan_table(path, BASELINE_SCHEMA)
    wrong = {
        **lacking("method", "level"),
        **outside(0, 1, "pooled_f1", "pooled_f1_low", "pooled_f1_high", "mean_f1", "mean_auroc"),
        **out_of_order("pooled_f1_low", "pooled_f1", "pooled_f1_high"),
    }
    rows = refuse_rows(path, table, wrong, named_by=["method", "k", "level"])
    judged = scan_table(concepts, BASELINE_CONCEPT_SCHEMA)
    refuse_rows(concepts, judged, _scores("test_f1"), named_by=["method", "k", "concept"])
    key = ["method", "k", "level"]
    eligible = {
        level: counts["eligible_concepts"]
        for level, counts in product.manifest.summary["levels"].items()
    }
    per_method = judged.group_by(key).len("concepts").collect()
    found = table.select(
        pl.struct(key).is_duplicated().sum().alias("twice"),
        pl.col("method").n_unique().alias("methods"),
    )
    counted = found.collect().row(0, named=True)
    require_equal(
        path,
        {
            "methods that stand there twice": (counted["twice"], 0),
            **{
                f"concepts of {method} ({level})": (number, eligible.get(level))
                for method, _, level, number in per_method.iter_rows()
            },
        },
    )
    return SoundBaselines(rows, counted["methods"], sum(eligible.values()))


def verify_concepts(product: Product) -> SoundConcepts:
    """Check that the scores of latents and concepts are such, and that each concept chose one.

    Args:
        product: as ``score_concepts`` made it.

    Raises:
        InputError: they are not, or one chose none or two.
    """
    require_files(product)
    path, pairs = product.path / CONCEPTS, product.path / FEATURE_CONCEPTS
    least = product.manifest.determinants["min_positives"]
    table = scan_table(path, CONCEPT_SCHEMA)
    positives = pl.col("validation_positives", "test_positives")
    wrong = {
        **lacking(*_CONCEPT),
        **_scores("test_f1", "trivial_f1", "validation_trivial_f1"),
        f"are eligible with fewer than {least} positives": pl.col("eligible")
        & pl.any_horizontal(positives < least),
        "have a latent and are not eligible": pl.col("latent").is_not_null() & ~pl.col("eligible"),
    }
    refuse_rows(path, table, wrong, named_by=_CONCEPT)
    scored = scan_table(pairs, FEATURE_CONCEPT_SCHEMA)
    figures = [name for name in FEATURE_CONCEPT_SCHEMA if name.startswith(("validation", "test"))]
    rows = refuse_rows(
        pairs,
        scored,
        lacking("latent") | outside(0, 1, *figures, "auroc"),
        named_by=["latent", "concept"],
    )
    eligible = table.filter("eligible").with_columns(skill=concept_skill()).collect()
    chosen = scored.filter("chosen").select(pl.struct(_CONCEPT)).collect()
    require_equal(
        pairs,
        {
            "concepts with a chosen latent": (
                chosen.n_unique(),
                len(eligible) - eligible["latent"].null_count(),
            ),
            "chosen latents of the same concept": (len(chosen) - chosen.n_unique(), 0),
        },
    )
    skills = eligible.filter(pl.col("latent").is_not_null())["skill"]
    best = 0.0 if skills.is_empty() else float(skills.max())  # pyright: ignore[reportArgumentType]
    return SoundConcepts(rows, len(eligible), int((skills >= LEAST_SKILL).sum()), round(best, 4))


def _scores(*names: str) -> dict[str, pl.Expr]:
    every: Sequence[str] = (*names, "validation_f1", "f1_low", "f1_high", "auroc")
    return outside(0, 1, *every) | out_of_order("f1_low", "test_f1", "f1_high")
