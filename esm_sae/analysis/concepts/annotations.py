"""What is known of proteins: families by name, motifs of the sequence, UniProt's annotations."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.analysis.concepts.labels import NAME, SEQUENCE, UNIPROT, WORD, universe_path
from esm_sae.analysis.concepts.motifs import find_motifs
from esm_sae.analysis.concepts.uniprot_export import ExportCounts, read_export
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import ANNOTATION_SCHEMA
from esm_sae.formats.fasta import read_fasta
from esm_sae.formats.headers import Header, parse_header
from esm_sae.formats.manifest import Product, identity_of, manifest_beside, produce_files
from esm_sae.formats.protein_names import family_of, words_of

_ALGORITHM = "annotations-1"
_AT_ONCE = 10_000
_FEWEST_BEARERS = 4


def annotate_concepts(
    fasta: storage.PathLike,
    output_parquet: storage.PathLike,
    *,
    annotations: storage.PathLike | None = None,
) -> Product:
    """Collect what is known of proteins, as one table.

    Sources:

    - ``name``: the family that the header's name tells (``family_of``). Proteins whose name tells
      none are not in this source's universe.
    - ``word``: the telling words of a name that tells a family (``words_of``), those of at least 4
      proteins: 'ribosomal' or 'kinase' are borne by many families. The universe is that of names.
    - ``sequence``: the motifs of ``find_motifs``, with positions. The universe is all proteins.
    - ``uniprot``: what an export of UniProtKB says, some of it with positions (``read_export``),
      of proteins whose accession, as in ``tr|ACC|ENTRY`` or ``UniRef50_ACC`` or alone, is in it.
      Only these are in the universe.

    Writes the table, sorted: source, concept, sequence_id, start, end (from 1, both inclusive;
    null where a concept has no position); and beside it ``<stem>.universe.parquet`` with source
    and sequence_id, the proteins of which a source says anything, if only that they bear none.

    Of records with the same id the first counts. Memory is that of the table, about 100 bytes a
    row, and of the ids and lengths.

    Args:
        fasta: the sequences.
        output_parquet: the table to write.
        annotations: a TSV export of UniProtKB, or None.

    Raises:
        InputError: a file cannot be used, or the export has none of the proteins.
    """
    output = Path(output_parquet)
    determinants = {
        "fasta": identity_of(fasta),
        "annotations": None if annotations is None else identity_of(annotations),
        "algorithm": _ALGORITHM,
    }

    def build(temporaries: list[Path]) -> dict[str, Any]:
        tables, proteins, counts = _of_sequences(fasta)
        if annotations is not None:
            table, known, of_export = _of_export(annotations, fasta, proteins)
            tables.append(table)
            counts |= of_export
            proteins = proteins.with_columns(uniprot=pl.col("sequence_id").is_in(known.implode()))
        table = pl.concat(tables).sort(*ANNOTATION_SCHEMA, nulls_last=False)
        sources = [name for name in (NAME, WORD, SEQUENCE, UNIPROT) if name in proteins.columns]
        universe = pl.concat(
            proteins.filter(name).select(pl.lit(name).alias("source"), "sequence_id")
            for name in sources
        ).sort("source", "sequence_id")
        table.write_parquet(temporaries[0])
        universe.write_parquet(temporaries[1])
        return counts | {
            "annotations": len(table),
            "sources": {
                name: {
                    "proteins": int(proteins[name].sum()),
                    "concepts": table.filter(pl.col("source") == name)["concept"].n_unique(),
                    "annotations": int((table["source"] == name).sum()),
                }
                for name in sources
            },
        }

    return produce_files(
        [output, universe_path(output)],
        manifest=manifest_beside(output),
        kind="concept_annotations",
        determinants=determinants,
        build=build,
    )


def _of_sequences(
    fasta: storage.PathLike,
) -> tuple[list[pl.DataFrame], pl.DataFrame, dict[str, Any]]:
    """Return the tables of names and motifs, the proteins, and what was counted."""
    counts = {"proteins": 0, "proteins_with_repeated_id": 0}
    tables, words, proteins = [], [], []
    reading = _distinct(fasta, counts)
    while chunk := list(islice(reading, _AT_ONCE)):
        headers, sequences = zip(*chunk, strict=True)
        ids = pl.Series("sequence_id", [header.sequence_id for header in headers])
        families = pl.Series("concept", [family_of(h.name) for h in headers], pl.String)
        named = _table(NAME, families, ids).filter(pl.col("concept").is_not_null())
        motifs = find_motifs(sequences)
        of_motif = ids.gather(motifs["number"])
        tables += [
            named,
            _table(SEQUENCE, motifs["concept"], of_motif, motifs["start"], motifs["end"]),
        ]
        words.append(_words(named))
        proteins.append(
            pl.DataFrame(
                {
                    "sequence_id": ids,
                    "accession": [h.accession or h.sequence_id for h in headers],
                    "length": [len(sequence) for sequence in sequences],
                    NAME: families.is_not_null(),
                    WORD: families.is_not_null(),
                    SEQUENCE: True,
                }
            )
        )
    tables.append(pl.concat(words).filter(pl.len().over("concept") >= _FEWEST_BEARERS))
    table = pl.concat(proteins)
    return tables, table, counts | {"proteins_without_family": len(table) - int(table[NAME].sum())}


def _distinct(fasta: storage.PathLike, counts: dict[str, int]) -> Iterator[tuple[Header, str]]:
    """Yield the header and sequence of each record whose id is new; count all."""
    seen: set[str] = set()
    for record in read_fasta(fasta):
        header = parse_header(record.header)
        if header.sequence_id in seen:
            counts["proteins_with_repeated_id"] += 1
            continue
        seen.add(header.sequence_id)
        counts["proteins"] += 1
        yield header, record.sequence


def _words(named: pl.DataFrame) -> pl.DataFrame:
    words = named.select(words_of(pl.col("concept")).alias("concept"), "sequence_id")
    words = words.explode("concept", empty_as_null=False)
    return _table(WORD, words["concept"], words["sequence_id"])


def _of_export(
    export: storage.PathLike, fasta: storage.PathLike, proteins: pl.DataFrame
) -> tuple[pl.DataFrame, pl.Series, dict[str, Any]]:
    """Return the table of an export, the ids that it knows, and what was counted."""
    counts = ExportCounts()
    rows: dict[str, list[Any]] = {"accession": [], "concept": [], "start": [], "end": []}
    used = []
    for accession, entries in read_export(export, proteins["accession"], counts):
        used.append(accession)
        for concept, start, end in entries:
            for name, value in zip(rows, (accession, concept, start, end), strict=True):
                rows[name].append(value)
    if not used:
        raise InputError(
            f"{os.fspath(export)}: none of its {counts.entries:,} entries is a protein of "
            f"{os.fspath(fasta)}; export the accessions of these sequences"
        )
    schema = {"accession": pl.String, "concept": pl.String, "start": pl.Int64, "end": pl.Int64}
    known = proteins.filter(pl.col("accession").is_in(used))
    placed = pl.DataFrame(rows, schema=schema).join(known, on="accession")
    beyond = pl.col("end") > pl.col("length")
    inside = placed.filter(~beyond.fill_null(False))
    table = _table(
        UNIPROT, inside["concept"], inside["sequence_id"], inside["start"], inside["end"]
    )
    return (
        table,
        known["sequence_id"],
        {
            **asdict(counts),
            "proteins_without_entry": len(proteins) - len(known),
            "features_beyond_the_sequence": len(placed) - len(inside),
        },
    )


def _table(
    source: str,
    concepts: pl.Series,
    ids: pl.Series,
    starts: pl.Series | None = None,
    ends: pl.Series | None = None,
) -> pl.DataFrame:
    columns = {"concept": concepts, "sequence_id": ids, "start": starts, "end": ends}
    table = pl.DataFrame(columns).select(pl.lit(source).alias("source"), *columns)
    return table.cast(ANNOTATION_SCHEMA)  # pyright: ignore[reportArgumentType]
