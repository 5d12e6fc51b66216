"""Damages of sequences, embeddings and clusters, and what the checks say of them."""

import json

import polars as pl

from damaged_outputs import (
    AS_RECORDED,
    Case,
    Output,
    change_matrix,
    cut_off,
    drop_first,
    flip_bit,
    put_nan,
    put_zero,
    set_rows,
    summarise,
)
from looks import SHARD


def _swap_proteins(output: Output) -> None:
    """Exchange the first two proteins of a shard in the table of means."""
    path = output.path.with_name(f"means_{SHARD}.parquet")
    table = pl.read_parquet(path)
    pl.concat([table[1:2], table[:1], table[2:]]).write_parquet(path)
    output.record_again()


def _record_other_size(output: Output) -> None:
    """Let the manifest of all shards tell another size of a file than it has."""
    content = json.loads(output.manifest_path.read_bytes())
    content["files"][f"means_{SHARD}.npy"]["bytes"] = 7
    output.manifest_path.write_text(json.dumps(content))


def _move_member(content: dict) -> None:
    first_name, second_name = list(content)[:2]
    content[first_name][0], content[second_name][0] = (
        content[second_name][0],
        content[first_name][0],
    )


def _shorten(content: dict) -> None:
    next(iter(content.values()))[0][0] = "M" * 300


CASES = [
    Case(
        "uniref50_fasta",
        "source_is_as_recorded",
        lambda output: output.change_json(
            "", lambda content: content.update(path=str(output.path), bytes=1)
        ),
        "changed since it was made known; provide the source again",
    ),
    Case(
        "uniref50_1M_sample",
        "index_fits_fasta",
        lambda output: flip_bit(output.path),
        f"uniref50_1M_sample.fasta: {AS_RECORDED}",
    ),
    Case(
        "uniref50_1M_sample",
        "index_fits_fasta",
        summarise(not_drawn=3),
        "records that pass: found .*, expected .*; make it again",
    ),
    Case(
        "uniref50_1M_sample",
        "index_fits_fasta",
        lambda output: output.change_rows(
            "uniref50_1M_sample.index.parquet", header=pl.col("header") + "x"
        ),
        "says .* residues where uniref50_1M_sample.fasta has another record",
    ),
    Case(
        "uniref50_1M_sample",
        "taxa_are_known",
        summarise(without_taxon=100),
        r"100 of 200 records \(50.0%\) tell no taxon, more than 10%; give headers",
    ),
    Case(
        "embedding_shards",
        "rows_are_sound",
        change_matrix(f"embeddings_{SHARD}.npy", put_nan),
        f"shard = {SHARD}: .*rows are not finite: .* at residue",
    ),
    Case(
        "embedding_shards",
        "rows_are_sound",
        change_matrix(f"means_{SHARD}.npy", put_zero),
        f"shard = {SHARD}: .*means_{SHARD}.npy: rows are zero: ",
    ),
    Case(
        "embedding_shards",
        "proteins_are_the_samples",
        _swap_proteins,
        "does not stand there in uniref50_1M_sample.fasta, which was embedded; embed it again",
    ),
    Case(
        "embedding_manifest",
        "shards_are_complete",
        lambda output: (output.path / f"embeddings_{SHARD}.parquet").unlink(),
        "incomplete, its manifest or row table is missing; embed this shard again",
    ),
    Case(
        "embedding_manifest",
        "shards_are_complete",
        _record_other_size,
        "is gone or not of the 7 bytes that the manifest says; embed that shard again",
    ),
    Case(
        "embedding_manifest",
        "shards_are_complete",
        summarise(proteins=199),
        "has 200 proteins, expected 199; embed it again",
    ),
    Case(
        "embedding_manifest",
        "proteins_are_whole",
        summarise(truncated=40, skipped=0),
        r"40 proteins were cut off and 0 left out of 200 \(20.0%\), more than 10%; raise ESM_SAE",
    ),
    Case(
        "taxonomy_clusters",
        "taxa_fit_sample",
        drop_first(),
        "proteins with a taxon: found .*, expected",
    ),
    Case(
        "taxonomy_clusters",
        "taxa_fit_sample",
        set_rows("", "cluster", None),
        "1 of .* rows have no cluster, such as sequence_id .*, cluster None",
    ),
    Case(
        "taxonomy_clusters",
        "few_are_left_out",
        summarise(clustered=100),
        "are of no taxon, more than 10%; take a higher ESM_SAE_CLUSTERS_RANK",
    ),
    Case(
        "sampled_sequences",
        "samples_are_whole",
        lambda output: output.change_json("", _shorten),
        "entry 1 of .* has 300 residues, expected 1 to 256",
    ),
    Case(
        "sampled_sequences",
        "samples_are_whole",
        lambda output: output.change_json("", lambda content: content.popitem() and None),
        "taxa: found .*, expected",
    ),
    Case(
        "sampled_sequences",
        "taxa_can_be_compared",
        summarise(clusters=1),
        "1 taxon is large enough, .* are too small: nothing can be compared; lower ESM_SAE",
    ),
    Case(
        "embedded_clusters",
        "vectors_are_the_samples",
        lambda output: output.change_text("", '"header": "', '"header": "x'),
        "entry 1 of .* differs from row 0 of embedded_clusters.parquet",
    ),
    Case(
        "embedded_clusters",
        "vectors_are_the_samples",
        change_matrix("embedded_clusters.residues.npy", put_nan),
        "embedded_clusters.residues.npy: row 5 is zero or not finite",
    ),
    Case(
        "embedded_clusters",
        "proteins_are_whole",
        summarise(truncated=5000),
        "5,000 proteins were cut off",
    ),
    Case(
        "embedding_clusters",
        "every_protein_has_a_row",
        set_rows("", "probability", 1.5),
        "1 of 200 rows have a probability outside 0 to 1, such as sequence_id",
    ),
    Case(
        "embedding_clusters",
        "every_protein_has_a_row",
        lambda output: output.drop_rows(keep=lambda table: table.reverse()),
        "row 0 is .*, another protein than in the embeddings",
    ),
    Case(
        "embedding_clusters",
        "every_protein_has_a_row",
        change_matrix("embedding_clusters.points.npy", put_nan),
        "the point of row 5 is not finite",
    ),
    Case(
        "embedding_clusters",
        "proteins_cluster",
        summarise(noise_share=0.95),
        r"95.0% of the proteins are noise \(at most 90% is expected\)",
    ),
    Case(
        "embedding_clusters_json",
        "json_fits_table",
        lambda output: output.change_json("", _move_member),
        "is not of cluster .* in embedding_clusters.parquet",
    ),
    Case(
        "embedding_clusters_json",
        "json_fits_table",
        summarise(sequences=7),
        "proteins: found 7, expected 200",
    ),
    Case(
        "embedding_cluster_summary",
        "every_cluster_has_a_row",
        drop_first(),
        "clusters: found .*, expected",
    ),
    Case(
        "embedding_cluster_summary",
        "every_cluster_has_a_row",
        set_rows("", "share", 2.0),
        "have a share outside 0 to 1, such as cluster 0",
    ),
    Case(
        "embedding_cluster_summary",
        "clusters_mean_something",
        summarise(clusters_with_enriched_word=0, clusters_with_enriched_taxon=0),
        "none of .* clusters has a word or a taxon that is commoner in it",
    ),
    Case(
        "embedding_cluster_report",
        "page_is_whole",
        cut_off,
        "embedding_clusters.html: does not end as a page does",
    ),
]
