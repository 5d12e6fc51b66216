"""Proteins that may bear a concept they are not annotated with."""

import math
from pathlib import Path

import polars as pl

from esm_sae.analysis.concepts.labels import SEQUENCE, UNIPROT, WORD, universe_path
from esm_sae.analysis.queries import scan_activations
from esm_sae.formats.analysis_tables import CANDIDATE_SCHEMA, CONCEPTS, FEATURE_CONCEPTS
from esm_sae.formats.headers import parse_header
from esm_sae.formats.protein_names import family_of, words_of

# More likely than not to fire on as many residues as the threshold was chosen on.
MIN_CHANCE = 0.5


def concepts_to_look_for(concepts: Path, min_test_f1: float) -> pl.DataFrame:
    """Return the concepts whose chosen latent is good enough to propose proteins.

    Those that are eligible, scored per protein and not computed from the sequence (that is never
    missing), and whose latent on the test proteins reaches ``min_test_f1``, with an interval that
    lies above what calling every protein would have.

    Args:
        concepts: folder of ``score_concepts``.
        min_test_f1: least F1 on test proteins.

    Returns:
        source, concept, latent, threshold, test_precision, test_f1, f1_low, f1_high.
    """
    on = ["latent", "source", "concept", "level"]
    precision = pl.scan_parquet(concepts / FEATURE_CONCEPTS).select(*on, "test_precision")
    return (
        pl.scan_parquet(concepts / CONCEPTS)
        .filter(
            pl.col("eligible"),
            pl.col("level") == "protein",
            pl.col("source") != SEQUENCE,
            pl.col("test_f1") >= min_test_f1,
            pl.col("f1_low") > pl.col("trivial_f1"),
            pl.col("latent").is_not_null(),
        )
        .join(precision, on=on, how="left")
        .select(
            "source",
            "concept",
            "latent",
            "threshold",
            "test_precision",
            "test_f1",
            "f1_low",
            "f1_high",
        )
        .sort("source", "concept")
        .collect()
    )


def candidates_of(
    activations: Path,
    sequences: pl.DataFrame,
    sought: pl.DataFrame,
    annotations: Path,
    *,
    drawn: int | None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the proteins on which a concept's latent fires, and which are not annotated with it.

    A concept of names is lacked by a protein whose header does not have it, be it that the header
    tells no name. One of UniProt is lacked only by a protein that was looked up there: one in the
    universe of that source.

    The threshold was chosen on the maximum over the residues that the analysis encoded. Where
    those were n drawn from each protein, the maximum over all m residues of a protein passes it
    more easily: a candidate is a protein on which n residues drawn at random would pass it in at
    least half of all draws. With f residues at or above the threshold that chance is
    1 - C(m - f, n) / C(m, n) (hypergeometric).

    Args:
        activations: folder of ``compute_activations``.
        sequences: its table of proteins.
        sought: what ``concepts_to_look_for`` returns.
        annotations: table of ``annotate_concepts`` on these proteins, with its universe beside
            it.
        drawn: n, the rows of a protein that the analysis encoded; None: all of them.

    Returns:
        The candidates, and likewise those that were not looked up, which are none. Columns:
        protein, sequence_id, name (by its header, null where it tells none), source, concept,
        latent, threshold, activation (the latent's maximum), position (of the maximum),
        firing_rows (rows at or above the threshold), firing_chance, and of the concept
        test_precision, test_f1, f1_low, f1_high; the concepts of best test F1 first, then the
        highest activation.
    """
    strongest = pl.col("activation") == pl.col("activation").max()
    firing = (
        scan_activations(activations)
        .join(sought.lazy(), on="latent")
        .filter(pl.col("activation") >= pl.col("threshold"))
        .group_by("protein", "source", "concept")
        .agg(
            pl.col("activation").max(),
            pl.col("position").filter(strongest).min(),
            firing_rows=pl.len(),
        )
        .collect(engine="streaming")
        .join(sequences.select("protein", "sequence_id", "header", "rows"), on="protein")
        .join(sought, on=["source", "concept"])
    )
    names = [parse_header(header or "").name for header in firing["header"]]
    chances = [
        chance_of_firing(rows, fired, drawn)
        for rows, fired in firing.select("rows", "firing_rows").iter_rows()
    ]
    known = pl.read_parquet(annotations, columns=["source", "concept", "sequence_id"]).unique()
    lacking = (
        firing.with_columns(
            pl.Series("name", [name or None for name in names], dtype=pl.String),
            pl.Series("family", [family_of(name) for name in names], dtype=pl.String),
            pl.Series("firing_chance", chances, dtype=pl.Float64),
        )
        .filter(pl.col("firing_chance") >= MIN_CHANCE)
        .join(known, on=["source", "concept", "sequence_id"], how="anti")
        # Annotations leave out words that few of the proteins bear.
        .filter(~((pl.col("source") == WORD) & _has_word()))
        .sort(
            "test_f1",
            "source",
            "concept",
            "activation",
            "protein",
            descending=[True, False, False, True, False],
        )
        .select(pl.col(name).cast(kind) for name, kind in CANDIDATE_SCHEMA.items())
    )
    looked_up = (pl.col("source") != UNIPROT) | pl.col("sequence_id").is_in(
        _in_uniprot(annotations)
    )
    return lacking.filter(looked_up), lacking.filter(~looked_up)


def _in_uniprot(annotations: Path) -> list[str]:
    universe = pl.read_parquet(universe_path(annotations))
    return universe.filter(pl.col("source") == UNIPROT)["sequence_id"].to_list()


def _has_word() -> pl.Expr:
    words = words_of(pl.col("family").fill_null(""))
    return words.list.contains(pl.col("concept"))


def chance_of_firing(rows: int, firing: int, drawn: int | None) -> float:
    """Return the chance that rows drawn without replacement hold one that fires.

    Args:
        rows: number of rows.
        firing: how many of them fire.
        drawn: how many are drawn; None: all.
    """
    if drawn is None or drawn >= rows:
        return float(firing > 0)
    if firing > rows - drawn:
        return 1.0
    # log of C(rows - firing, drawn) / C(rows, drawn)
    silent = sum(
        sign * math.lgamma(n + 1)
        for sign, n in (
            (1, rows - firing),
            (1, rows - drawn),
            (-1, rows),
            (-1, rows - firing - drawn),
        )
    )
    return -math.expm1(silent)
