"""Where labels come from: names in the headers, annotations, taxa that passed the test."""

from pathlib import Path

import numpy as np
import polars as pl

from esm_sae.analysis.concepts.labels import (
    NAME,
    UNIVERSE_SCHEMA,
    scan_annotations,
    universe_path,
)
from esm_sae.analysis.summary.label_scores import FEWEST_HITS
from esm_sae.analysis.summary.protein_statements import Statements
from esm_sae.analysis.summary.residue_statements import Intervals
from esm_sae.formats.analysis_tables import ANNOTATION_SCHEMA, TAXONOMY
from esm_sae.formats.headers import parse_headers
from esm_sae.formats.protein_names import family_of

_MOST_CONCEPTS = 1_000
_FRAGMENT = r"\s*\(Fragments?\)$"


def families(headers: pl.Series, training: np.ndarray) -> Statements:
    """Return the families that the names in headers tell, those of at least 5 training proteins.

    The universe is the proteins whose name tells a family. A family is called by its commonest
    name in training, of equally common ones the first by letters.
    """
    names = parse_headers(headers.fill_null("")).select("name").collect()["name"]
    family_of_name = {name: family_of(name) for name in names.unique()}
    table = pl.DataFrame(
        {
            "protein": np.arange(len(names)),
            "training": training,
            "name": names.str.replace(_FRAGMENT, ""),
            "family": names.replace_strict(family_of_name, return_dtype=pl.String),
        }
    ).drop_nulls("family")
    texts = (
        table.filter("training")
        .group_by("family", "name")
        .len()
        .filter(pl.col("len").sum().over("family") >= FEWEST_HITS)
        .sort("family", "len", "name", descending=[False, True, False])
        .group_by("family", maintain_order=True)
        .first()
        .with_row_index("statement")
    )
    borne = table.join(texts, on="family", maintain_order="left")
    universe = np.zeros(len(names), dtype=bool)
    universe[table["protein"].to_numpy()] = True
    return _statements("family", texts["name"].to_list(), borne, universe)


def taxa(of_protein: pl.Series, taxonomy: Path) -> Statements:
    """Return the taxa that the test found latents to be of, each only for its own latents.

    The universe is the proteins of known taxon. The test looked at training and held-out
    proteins alike.
    """
    found = (
        pl.scan_parquet(taxonomy / TAXONOMY)
        .filter("taxonomic")
        .select("latent", "taxon")
        .sort("latent", "taxon")
        .collect()
    )
    texts = found["taxon"].unique().sort()
    numbers = pl.DataFrame({"taxon": texts}).with_row_index("statement")
    table = pl.DataFrame({"taxon": of_protein}).with_row_index("protein")
    borne = table.join(numbers, on="taxon", maintain_order="left")
    allowed = found.join(numbers, on="taxon").select(
        key=pl.col("latent").cast(pl.Int64) * len(texts) + pl.col("statement")
    )
    universe = of_protein.is_not_null().to_numpy()
    return _statements(
        "taxon", texts.to_list(), borne, universe, np.sort(allowed["key"].to_numpy())
    )


def protein_concepts(
    annotations: Path, sequence_ids: pl.Series, *, positions: bool
) -> list[Statements]:
    """Return the concepts of each source of annotations, as statements about proteins.

    Args:
        annotations: table of ``annotate_concepts``.
        sequence_ids: id of each protein.
        positions: also those that tell where in a protein they are.
    """
    table = _annotations(annotations, sequence_ids)
    table = table if positions else table.filter(pl.col("start").is_null())
    universe = _universes(annotations, sequence_ids)
    found = []
    for source in table["source"].unique().sort():
        own = table.filter(pl.col("source") == source)
        concepts = own["concept"].unique().sort()
        numbers = pl.DataFrame({"concept": concepts}).with_row_index("statement")
        borne = own.join(numbers, on="concept", maintain_order="left")
        known = _bearing(universe, source, len(sequence_ids))
        found.append(_statements("concept", concepts.to_list(), borne, known))
    return found


def residue_concepts(
    annotations: Path, sequence_ids: pl.Series, training: np.ndarray
) -> Intervals | None:
    """Return the concepts that tell where in a protein they are; None where there are none.

    At most 1,000, those on most training proteins, and on at least 5 of them.
    """
    table = _annotations(annotations, sequence_ids).filter(pl.col("start").is_not_null())
    commonest = (
        table.filter(pl.Series(training).gather(table["protein"]))
        .group_by("source", "concept")
        .agg(proteins=pl.col("protein").n_unique())
        .filter(pl.col("proteins") >= FEWEST_HITS)
        .sort("proteins", "source", "concept", descending=[True, False, False])
        .head(_MOST_CONCEPTS)
        .sort("source", "concept")
        .with_row_index("number")
    )
    if commonest.is_empty():
        return None
    sources = commonest["source"].unique().sort()
    universe = _universes(annotations, sequence_ids)
    own = table.join(commonest, on=("source", "concept"), maintain_order="left")
    return Intervals(
        concepts=commonest["concept"].to_list(),
        source_of=sources.search_sorted(commonest["source"]).to_numpy().astype(np.int64),
        protein=own["protein"].to_numpy(),
        start=own["start"].to_numpy(),
        end=own["end"].to_numpy(),
        concept=own["number"].to_numpy(),
        universe=np.stack([_bearing(universe, name, len(sequence_ids)) for name in sources], 1),
    )


def _statements(
    kind: str,
    texts: list[str],
    borne: pl.DataFrame,
    universe: np.ndarray,
    allowed: np.ndarray | None = None,
) -> Statements:
    protein, statement = (
        borne[name].to_numpy().astype(np.int64) for name in ("protein", "statement")
    )
    return Statements(kind, texts, protein, statement, universe, allowed)


def _annotations(annotations: Path, sequence_ids: pl.Series) -> pl.DataFrame:
    """Return source, concept, protein, start and end of what is annotated of these proteins."""
    table = scan_annotations(annotations, ANNOTATION_SCHEMA).filter(pl.col("source") != NAME)
    return table.join(_numbers(sequence_ids), on="sequence_id", maintain_order="left").collect()


def _universes(annotations: Path, sequence_ids: pl.Series) -> pl.DataFrame:
    """Return source and protein of each protein of which a source says something."""
    table = scan_annotations(universe_path(annotations), UNIVERSE_SCHEMA)
    return table.join(_numbers(sequence_ids), on="sequence_id", maintain_order="left").collect()


def _numbers(sequence_ids: pl.Series) -> pl.LazyFrame:
    return pl.LazyFrame({"sequence_id": sequence_ids}).with_row_index("protein")


def _bearing(universe: pl.DataFrame, source: str, proteins: int) -> np.ndarray:
    known = np.zeros(proteins, dtype=bool)
    known[universe.filter(pl.col("source") == source)["protein"].to_numpy()] = True
    return known
