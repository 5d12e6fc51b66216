"""Clusters by taxon, from the headers of a FASTA file."""

import os
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.clusters.tables import recorded_source
from esm_sae.clusters.taxa_statistics import (
    cluster_statistics,
    left_out_by_members,
    size_statistics,
    write_statistics,
)
from esm_sae.clusters.taxon_choice import KEYS, Organism, TaxonChoice
from esm_sae.clusters.taxonomy import Rank
from esm_sae.errors import InputError
from esm_sae.formats.manifest import (
    Product,
    manifest_beside,
    produce_files,
    require_unclaimed,
)
from esm_sae.formats.sequence_index import scan_index
from esm_sae.progress import progress

STATISTICS_NAME = "cluster_statistics.json"

_ALGORITHM = "taxa-2"
_TOP = 10
_ROWS_PER_GROUP = 1 << 17


def cluster_taxa(
    fasta: storage.PathLike,
    output_parquet: storage.PathLike,
    *,
    statistics_path: storage.PathLike | None = None,
    taxonomy: storage.PathLike | None = None,
    rank: Rank | None = None,
    organism: Organism = "common_ancestor",
    species_list: storage.PathLike | None = None,
) -> Product:
    """Cluster the records of a FASTA file by the taxon that their headers name.

    A taxon is its TaxID. A header with a name and no TaxID belongs to the one TaxID that bears
    the name in this file; where none or several do, the name is a taxon of its own. A cluster
    is called by its taxon's commonest name; taxa of one name and different TaxIDs stay apart as
    ``Name (taxid)``. Records without name and TaxID are left out and counted.

    With a taxonomy, TaxIDs are brought up to date, names without TaxID are looked up in it, and
    clusters have its scientific names; what it does not know stays as it is given. With a rank,
    the clusters are the taxa of that rank, and records whose taxon lies above it, or is not
    known, are left out and counted by the member count of their UniRef cluster.

    A UniRef header names the common ancestor of the cluster's members. With ``organism`` set to
    ``representative`` its taxon is that of the representative's organism code: a TaxID by the
    species list, else the code as a name. Where with a rank the code gives none (codes that
    begin with 9 stand for groups of organisms), the common ancestor does if it has one, which
    then is the representative's too.

    Writes a table with one row per clustered record in file order (sequence_id, header,
    cluster, taxid, length, offset), with the path, relative to the table, and the sha256 of the
    FASTA in the parquet's metadata, and ``cluster_statistics.json``.

    The records are streamed from the FASTA's index; in memory are the distinct taxa, the
    taxonomy, and 4 bytes per record: for 10 M records of 600,000 taxa 1.2 GB, at a rank of NCBI's
    taxonomy 1.4 GB. A FASTA without an index beside it is indexed in memory first.

    Args:
        fasta: FASTA file, plain or compressed.
        output_parquet: the table to write.
        statistics_path: where the statistics go, in the table's folder; by default
            ``cluster_statistics.json``.
        taxonomy: NCBI's taxdump: a folder, or a .tar, .tar.gz, .tar.zst or .zip.
        rank: the rank of the clusters; needs a taxonomy.
        organism: what a UniRef header's taxon is: of the members' common ancestor, or of the
            representative.
        species_list: UniProt's ``speclist.txt``, the TaxIDs of organism codes.

    Raises:
        InputError: as ``read_fasta``, ``read_taxonomy`` and ``read_species_list``; options do
            not go together; no header names a taxon, or none one of this rank.
    """
    table = Path(output_parquet)
    statistics = table.with_name(STATISTICS_NAME) if statistics_path is None else statistics_path
    statistics = Path(statistics)
    if statistics.resolve().parent != table.resolve().parent or statistics.name == table.name:
        raise InputError(
            f"{statistics}: the statistics go into the table's folder, {table.parent}, "
            "under another name"
        )
    require_unclaimed([table, statistics], manifest_beside(table))
    choice = TaxonChoice(taxonomy, rank, organism, species_list)
    source = recorded_source(fasta, table)

    def build(temporaries: list[Path]) -> dict[str, Any]:
        with progress(4, unit="steps", description="clustering by taxon") as shown:
            index = scan_index(fasta).with_columns(**choice.columns())
            counted = index.group_by(*KEYS, "member_class").len("records").collect()
            shown.update(1)
            taxa, states = choice.assign(counted.group_by(KEYS).agg(pl.col("records").sum()))
            _require_some(taxa, fasta, rank)
            shown.update(1)
            _write_table(index, taxa, temporaries[0], source)
            shown.update(1)
            clusters = cluster_statistics(temporaries[0])
            totals = _totals(taxa, choice.reasons, len(clusters))
            facts = {"totals": totals, "sizes": size_statistics(clusters["size"])}
            if rank is not None:
                fates = counted.join(
                    taxa.select(*KEYS, "left_out"), on=KEYS, how="left", nulls_equal=True
                )
                facts["rank"] = rank
                facts["left_out"] = left_out_by_members(fates, choice.reasons)
            write_statistics(temporaries[1], facts, clusters)
            shown.update(1)
        top = clusters.head(_TOP).select("cluster", "taxid", "size").to_dicts()
        return {**facts.pop("totals"), **facts, **states, "top_taxa": top}

    return produce_files(
        [table, statistics],
        manifest=manifest_beside(table),
        kind="taxonomy_clusters",
        determinants={"source": source, "algorithm": _ALGORITHM, **choice.determinants()},
        build=build,
    )


def _require_some(taxa: pl.DataFrame, fasta: storage.PathLike, rank: Rank | None) -> None:
    if taxa["cluster"].null_count() < len(taxa):
        return
    if rank is None:
        raise InputError(
            f"{os.fspath(fasta)}: no header names a taxon; expected Tax=, TaxID=, OS= or OX="
        )
    raise InputError(
        f"{os.fspath(fasta)}: no header names a taxon that belongs to one of rank {rank} in this "
        "taxonomy; take a higher rank, or the taxonomy of the file's time"
    )


def _write_table(
    index: pl.LazyFrame, taxa: pl.DataFrame, target: Path, source: dict[str, str]
) -> None:
    named = taxa.select(*KEYS, "key", "cluster")
    # A left join and a filter stream faster than an inner join that keeps the order.
    index.join(named.lazy(), on=KEYS, how="left", nulls_equal=True, maintain_order="left").filter(
        pl.col("cluster").is_not_null()
    ).select(
        "sequence_id", "header", "cluster", pl.col("key").alias("taxid"), "length", "offset"
    ).sink_parquet(
        target,
        metadata=source,
        row_group_size=_ROWS_PER_GROUP,
        compression="zstd",
        compression_level=1,
    )


def _totals(taxa: pl.DataFrame, reasons: list[str], clusters: int) -> dict[str, int]:
    """Count records, and those left out for each reason; clustered ones are the rest."""
    records = pl.col("records")
    counts = taxa.select(
        records.sum(),
        records.filter(pl.col("left_out").is_null()).sum().alias("clustered"),
        *(records.filter(pl.col("left_out") == reason).sum().alias(reason) for reason in reasons),
    ).row(0, named=True)
    return {**counts, "clusters": clusters}
