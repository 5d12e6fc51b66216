"""How often each latent fires in the proteins of each taxon, and where more than by chance."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.analysis.cluster_rows import ClusterRows, open_cluster_rows
from esm_sae.analysis.encoder import SparseEncoder, identity_of_encoding
from esm_sae.analysis.entries import (
    BATCH_ROWS,
    ProteinCounter,
    encode_entries,
    max_per_protein,
)
from esm_sae.analysis.taxonomy.enrichment import Firing
from esm_sae.analysis.taxonomy.frequencies import taxon_frequencies
from esm_sae.analysis.taxonomy.heatmap import heatmap_png
from esm_sae.analysis.taxonomy.taxon_tests import ProteinsOfTaxa, taxon_tests
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import HEATMAP, MAPPING, TAXA, TAXONOMY, TAXONOMY_SCHEMA
from esm_sae.formats.checkpoint import require_same_embeddings
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import Product, produce_folder
from esm_sae.split import cluster_ids_of, identity_of_clusters, read_similarity_clusters

_ALGORITHM = "taxonomy-2"


def feature_taxonomy(
    sae: SparseEncoder,
    embedded_clusters: storage.PathLike,
    output_folder: storage.PathLike,
    *,
    similarity_clusters: storage.PathLike | None = None,
    permutations: int = 200,
    seed: int = 0,
    batch_rows: int = BATCH_ROWS,
) -> Product:
    """Count in how many proteins of each taxon each latent fires, and test where it is more.

    A residue SAE encodes the residue rows beside the JSON and a latent's activation in a protein
    is its maximum over the residues; any other SAE encodes the JSON's vectors.

    Tests count each similarity cluster once per taxon, by a protein drawn of it (see
    ``cluster_units``), and compare taxa within strata of length and composition (see
    ``strata_of``) by a Cochran-Mantel-Haenszel test (see ``taxon_tests`` and ``enrichment``).

    Files of the folder:

    - ``feature_taxonomy.parquet``, sorted by latent and taxon, a row for each pair that fires at
      least once. Of all proteins: proteins (of the taxon), firing_proteins, firing_frequency with
      its 95% interval frequency_low and frequency_high (Wilson 1927), mean_activation (over the
      firing proteins), normalized_frequency (firing_proteins over the sum of them over all
      latents: the latent's share of the slots the taxon's proteins fill), other_frequency (firing
      frequency in all other taxa), log2_ratio (of the two frequencies, each as (firing + 0.5) /
      (proteins + 1)); the last two null where there is no other taxon. Of the proteins drawn:
      clusters (of the taxon), firing_clusters, specificity (share of the other taxa's that are
      silent), odds_ratio with odds_ratio_low and odds_ratio_high (95%), p_value, q_value
      (Benjamini and Hochberg over all tested pairs of the table and those that never fire),
      q_value_dependent (Benjamini and Yekutieli: whatever the dependence, such as of nested
      taxa); the last six null where the pair was not tested. taxonomic: q_value < 5%, an odds
      ratio above 1 and at least 3 firing_clusters.
    - ``taxa.parquet``: taxon, proteins, filled_slots.
    - ``heatmap.png``: the taxonomic latents and those whose frequencies differ most.
    - ``feature_taxonomy_mapping.json``: for each latent that fires the taxon of its highest
      normalized frequency (of equal ones the first by name): a description, not a finding.

    The summary tells how many pairs were tested, in what share of the permutations of the taxa
    within strata any pair has q < 5%, and what a test of proteins as if they were independent
    would have called.

    Memory: that of the rows, about 40 bytes for each pair of a protein and a latent that fires on
    it, and that of ``taxon_tests``.

    Args:
        sae: the SAE.
        embedded_clusters: proteins by taxon, the JSON or the table beside it.
        output_folder: where to write.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"``, or None
            where they are not known; a protein with none is its own cluster, and families are
            then not controlled for.
        permutations: of the calibration; 0 switches it off.
        seed: of the proteins drawn and the permutations.
        batch_rows: rows encoded at once.

    Raises:
        InputError: the JSON is not of embedded clusters, its vectors are not of the kind the SAE
            was trained on, a residue SAE finds no residue rows, the table of similarity
            clusters cannot be read, or the number of permutations is negative.
    """
    if permutations < 0:
        raise InputError(f"permutations: {permutations} is none; give 0 or more")
    rows = open_cluster_rows(embedded_clusters, pooling=sae.config.pooling)
    require_same_embeddings(sae.config, rows.provenance, rows.width, rows.directory)
    determinants = identity_of_encoding(sae, rows) | {
        "batch_rows": batch_rows,
        "similarity_clusters": identity_of_clusters(similarity_clusters),
        "permutations": permutations,
        "seed": seed,
        "algorithm": _ALGORITHM,
    }

    def build(folder: Path) -> dict[str, Any]:
        pairs = _encode_pairs(sae, rows, batch_rows)
        proteins, unknown = _proteins_of_taxa(rows, similarity_clusters)
        firing = _firing(pairs, len(rows.taxa), sae.config.latent_dim)
        tests, tested = taxon_tests(firing, proteins, permutations=permutations, seed=seed)
        table = (
            taxon_frequencies(pairs, rows.taxa)
            .join(tests, on=["latent", "taxon"], how="left", maintain_order="left")
            .select(pl.col(name).cast(kind) for name, kind in TAXONOMY_SCHEMA.items())
        )
        written = _write(table, rows.taxa, sae.config.latent_dim, folder)
        return {**written, "proteins_without_similarity_cluster": unknown, **tested}

    return produce_folder(
        output_folder, kind="feature_taxonomy", determinants=determinants, build=build
    )


def top_taxa(table: pl.DataFrame) -> pl.DataFrame:
    """Return for each latent that fires the row of its highest normalized frequency."""
    return (
        table.sort("latent", "normalized_frequency", "taxon", descending=[False, True, False])
        .group_by("latent", maintain_order=True)
        .first()
    )


def _encode_pairs(sae: SparseEncoder, rows: ClusterRows, batch_rows: int) -> pl.DataFrame:
    counter = ProteinCounter(residues=rows.table["position"].null_count() == 0)
    parts = []
    for first, x in rows.batches(batch_rows):
        entries = encode_entries(sae, x, first)
        protein, _ = counter.number(rows.table.slice(first, len(x)))
        numbers = pl.Series("protein", protein[entries["row"].to_numpy() - first], dtype=pl.UInt32)
        parts.append(max_per_protein(entries.select(numbers, "latent", "activation")))
    # A protein can lie across two batches.
    return max_per_protein(pl.concat(parts))


def _proteins_of_taxa(
    rows: ClusterRows, similarity_clusters: storage.PathLike | None
) -> tuple[ProteinsOfTaxa, int]:
    """Return the proteins, and how many of them are in no known similarity cluster."""
    ids = [parse_header(header).sequence_id for header in rows.headers]
    known = {} if similarity_clusters is None else read_similarity_clusters(similarity_clusters)
    proteins = ProteinsOfTaxa(rows.taxa, ids, cluster_ids_of(ids, known), rows.sequences)
    return proteins, sum(sequence_id not in known for sequence_id in ids)


def _firing(pairs: pl.DataFrame, proteins: int, latents: int) -> Firing:
    """Take over pairs that are sorted by protein and latent."""
    sizes = np.bincount(pairs["protein"].to_numpy(), minlength=proteins)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return Firing(starts, pairs["latent"].to_numpy().astype(np.int32), latents)


def _write(
    table: pl.DataFrame, of_protein: list[str], latents: int, folder: Path
) -> dict[str, int]:
    taxa = pl.Series("taxon", of_protein).value_counts(name="proteins").sort("taxon")
    slots = table.group_by("taxon").agg(filled_slots=pl.col("firing_proteins").sum())
    taxa = taxa.join(slots, on="taxon", how="left", maintain_order="left").fill_null(0)
    table.write_parquet(folder / TAXONOMY)
    taxa.write_parquet(folder / TAXA)
    (folder / HEATMAP).write_bytes(heatmap_png(table, taxa))
    mapping = {
        str(row["latent"]): {
            "taxon": row["taxon"],
            "normalized_frequency": row["normalized_frequency"],
        }
        for row in top_taxa(table).iter_rows(named=True)
    }
    storage.publish_json(folder / MAPPING, mapping)
    return {
        "taxa": len(taxa),
        "proteins": len(of_protein),
        "smallest_taxon": int(np.min(taxa["proteins"].to_numpy())),
        "latents": latents,
        "firing_latents": len(mapping),
        "silent_latents": latents - len(mapping),
    }
