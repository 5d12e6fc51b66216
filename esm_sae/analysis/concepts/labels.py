"""Which proteins and residues of a run bear which concepts, and which concepts can be judged."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.analysis.concepts.scores import Labels, make_labels
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import ANNOTATION_SCHEMA

NAME, WORD, SEQUENCE, UNIPROT = "name", "word", "sequence", "uniprot"
PROTEIN, RESIDUE = "protein", "residue"

_FEWEST_CLUSTERS = 3
UNIVERSE_SCHEMA = {"source": pl.String, "sequence_id": pl.String}


class LabelledConcepts(NamedTuple):
    """Concepts by number and the units that bear them.

    Attributes:
        names: source and concept, a row for each; the row's number is the concept's.
        labels: the same concepts' labels.
    """

    names: pl.DataFrame
    labels: Labels


def universe_path(annotations: storage.PathLike) -> Path:
    """Return the path of the table of what each source speaks of: ``x.universe.parquet``."""
    path = Path(annotations)
    return path.with_name(f"{path.stem}.universe.parquet")


def protein_labels(annotations: storage.PathLike, sequence_ids: pl.Series) -> LabelledConcepts:
    """Return which proteins bear which concepts, those with positions too.

    Args:
        annotations: a table by ``annotate_concepts``, with its universe beside it.
        sequence_ids: id of each protein, U of them; an id may occur twice.

    Raises:
        InputError: it is no such table, or says nothing of any of the proteins.
    """
    borne, universe, sources = _read(annotations, sequence_ids)
    pairs = borne.select("source", "concept", "unit").unique()
    names, numbered = _numbered(pairs)
    labels = make_labels(
        numbered["unit"].to_numpy(),
        numbered["number"].to_numpy(),
        _sources_of(names, sources),
        universe,
    )
    return LabelledConcepts(names, labels)


def residue_labels(
    annotations: storage.PathLike,
    sequence_ids: pl.Series,
    proteins: np.ndarray,
    positions: np.ndarray,
) -> LabelledConcepts:
    """Return which residues bear which concepts, of those that have positions.

    An instance is a domain, an entry of the table with its start and end, of which at least one
    residue is given.

    Args:
        annotations: a table by ``annotate_concepts``, with its universe beside it.
        sequence_ids: id of each protein.
        proteins: number of each residue's protein, (U), ascending.
        positions: of each residue in its protein from 1, (U), ascending within a protein.

    Raises:
        InputError: it is no such table, or says nothing of any of the proteins.
    """
    borne, universe, sources = _read(annotations, sequence_ids)
    placed = borne.filter(pl.col("start").is_not_null())
    protein = placed["unit"].to_numpy().astype(np.int64)
    keys = (proteins.astype(np.int64) << 32) | positions.astype(np.int64)
    begin = np.searchsorted(keys, (protein << 32) | placed["start"].to_numpy())
    end = np.searchsorted(keys, (protein << 32) | placed["end"].to_numpy(), side="right")
    seen = end > begin
    names, numbered = _numbered(placed.filter(pl.Series(seen)))
    begin, length = begin[seen], (end - begin)[seen]
    instance = np.repeat(np.arange(len(begin)), length)
    within = np.arange(len(instance)) - np.repeat(np.cumsum(length) - length, length)
    labels = make_labels(
        begin[instance] + within,
        numbered["number"].to_numpy()[instance],
        _sources_of(names, sources),
        universe[proteins],
        instances=instance,
    )
    return LabelledConcepts(names, labels)


def only(concepts: LabelledConcepts, kept: np.ndarray) -> LabelledConcepts:
    """Return the concepts of a mask (C), numbered anew, with their labels."""
    labels = concepts.labels
    entry = kept[labels.concepts]
    before = np.concatenate([[0], np.cumsum(entry)])
    labels = labels._replace(
        starts=before[labels.starts],
        concepts=(np.cumsum(kept) - 1)[labels.concepts[entry]].astype(np.int32),
        instances=np.unique(labels.instances[entry], return_inverse=True)[1],
        source_of=labels.source_of[kept],
    )
    return LabelledConcepts(concepts.names.filter(pl.Series(kept)), labels)


def concept_counts(
    concepts: LabelledConcepts,
    level: str,
    clusters: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    min_positives: int,
) -> pl.DataFrame:
    """Count each concept's positives and say which concepts are eligible.

    A positive is a protein or, of residues, a domain. Eligible: at least ``min_positives`` in
    validation and in test each and, unless the concept is a family by name, in at least 3
    similarity clusters in each, since a family is hardly more than one cluster by its nature.

    Args:
        concepts: C concepts and their labels.
        level: ``"protein"`` or ``"residue"``.
        clusters: (U), the similarity cluster of each unit.
        validation: (U) bool, the units of validation.
        test: (U) bool, those of test.
        min_positives: fewest positives.

    Returns:
        C rows: source, concept, level, positives, validation_positives, test_positives,
        validation_clusters, test_clusters, eligible.
    """
    labels = concepts.labels
    number_of_cluster = np.unique(clusters, return_inverse=True)[1]

    def spanned(units: np.ndarray) -> np.ndarray:
        unit, concept, _ = labels.entries(units)
        count = max(labels.concept_count, 1)
        pairs = np.unique(number_of_cluster[unit] * count + concept)
        return np.bincount(pairs % count, minlength=labels.concept_count)

    counts = {
        "positives": labels.positives(np.ones(len(clusters), dtype=bool)),
        "validation_positives": labels.positives(validation),
        "test_positives": labels.positives(test),
        "validation_clusters": spanned(validation),
        "test_clusters": spanned(test),
    }
    enough = pl.min_horizontal("validation_positives", "test_positives") >= max(min_positives, 1)
    spread = pl.min_horizontal("validation_clusters", "test_clusters") >= _FEWEST_CLUSTERS
    return concepts.names.with_columns(
        pl.lit(level).alias("level"),
        *(pl.Series(name, count, dtype=pl.UInt32) for name, count in counts.items()),
    ).with_columns(eligible=enough & (spread | (pl.col("source") == NAME)))


def pooled_concepts(counts: pl.DataFrame) -> np.ndarray:
    """Say which concepts F1 is pooled over, (C) bool: the eligible ones of what is known.

    Whether a protein has a motif anywhere is a matter of its length and composition, and half of
    all proteins have the commonest ones: of proteins, concepts computed from the sequence stay
    out of the pool.
    """
    pooled = pl.col("eligible") & ((pl.col("level") == RESIDUE) | (pl.col("source") != SEQUENCE))
    return counts.select(pooled).to_series().to_numpy()


def scan_annotations(
    source: storage.PathLike, schema: Mapping[str, type[pl.DataType]]
) -> pl.LazyFrame:
    """Return a table of annotations or of their universe, lazily.

    Raises:
        InputError: it is no such table.
    """
    path = Path(source)
    remedy = "name a table that annotate_concepts wrote"
    try:
        found = pl.read_parquet_schema(path)
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; {remedy}") from None
    except (pl.exceptions.PolarsError, OSError):
        raise InputError(f"{path}: not a parquet table; {remedy}") from None
    if any(found.get(name) != kind for name, kind in schema.items()):
        raise InputError(f"{path}: lacks the columns {', '.join(schema)}; {remedy}")
    return pl.scan_parquet(path)


def _read(
    annotations: storage.PathLike, sequence_ids: pl.Series
) -> tuple[pl.DataFrame, np.ndarray, list[str]]:
    """Return the annotations with the number of the protein, the universe and its sources."""
    units = pl.LazyFrame(
        {"sequence_id": sequence_ids, "unit": np.arange(len(sequence_ids), dtype=np.uint32)}
    )
    known = scan_annotations(universe_path(annotations), UNIVERSE_SCHEMA).join(
        units, on="sequence_id"
    )
    known = known.select("source", "unit").collect()
    if known.is_empty():
        raise InputError(
            f"{os.fspath(annotations)}: says nothing of any of these proteins; annotate the "
            "sequences that were embedded"
        )
    sources = known["source"].unique().sort().to_list()
    universe = np.zeros((len(sequence_ids), len(sources)), dtype=bool)
    for number, source in enumerate(sources):
        universe[known.filter(pl.col("source") == source)["unit"].to_numpy(), number] = True
    borne = scan_annotations(annotations, ANNOTATION_SCHEMA).join(units, on="sequence_id")
    borne = borne.select("source", "concept", "unit", "start", "end")
    borne = borne.filter(pl.col("source").is_in(sources)).collect()
    return borne.sort("source", "concept", "unit", "start", "end"), universe, sources


def _numbered(borne: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    names = borne.select("source", "concept").unique().sort("source", "concept")
    numbers = names.with_row_index("number")
    return names, borne.join(
        numbers, on=["source", "concept"], how="left", maintain_order="left"
    ).select("unit", "number")


def _sources_of(names: pl.DataFrame, sources: list[str]) -> np.ndarray:
    number_of = {source: number for number, source in enumerate(sources)}
    return np.array([number_of[source] for source in names["source"]], dtype=np.int64)
