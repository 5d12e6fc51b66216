"""How often each latent fires in the proteins of each taxon: a description, not a test."""

from pathlib import Path

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
from esm_sae.analysis.taxonomy_heatmap import heatmap_png
from esm_sae.formats.checkpoint import require_same_embeddings
from esm_sae.formats.manifest import Product, produce_folder

TABLE, TAXA, HEATMAP, MAPPING = (
    "feature_taxonomy.parquet",
    "taxa.parquet",
    "heatmap.png",
    "feature_taxonomy_mapping.json",
)
NOTE = (
    "Frequencies by taxon describe these proteins; nothing here is a significance test. Proteins "
    "of one family resemble one another, so a latent of a family that was sampled mostly from one "
    "taxon looks like a latent of that taxon."
)

_ALGORITHM = "taxonomy-1"


def feature_taxonomy(
    sae: SparseEncoder,
    embedded_clusters_json: storage.PathLike,
    output_folder: storage.PathLike,
    *,
    batch_rows: int = BATCH_ROWS,
) -> Product:
    """Count in how many proteins of each taxon each latent fires.

    This is descriptive. There is no significance test, and no control for protein families,
    length or composition: a family sampled mostly from one taxon passes for that taxon.

    A residue SAE encodes the residue rows beside the JSON and a latent's activation in a protein
    is its maximum over the residues; any other SAE encodes the JSON's vectors.

    Files of the folder:

    - ``feature_taxonomy.parquet``, sorted by latent and taxon, a row for each pair that fires at
      least once: latent, taxon, proteins (of the taxon), firing_proteins, firing_frequency,
      mean_activation (over the firing proteins), normalized_frequency (firing_proteins over the
      sum of them over all latents: the latent's share of the slots the taxon's proteins fill),
      other_frequency (firing frequency in all other taxa), log2_ratio (of the two frequencies,
      each as (firing + 0.5) / (proteins + 1); null where there is no other taxon).
    - ``taxa.parquet``: taxon, proteins, filled_slots.
    - ``heatmap.png``: the latents whose frequencies differ most between taxa.
    - ``feature_taxonomy_mapping.json``: for each latent that fires the taxon of its highest
      normalized frequency (of equal ones the first by name).

    Raises:
        InputError: the JSON is not of embedded clusters, its vectors are not of the kind the SAE
            was trained on, or a residue SAE finds no residue rows.
    """
    rows = open_cluster_rows(embedded_clusters_json, pooling=sae.config.pooling)
    require_same_embeddings(sae.config, rows.provenance, rows.width, rows.directory)
    determinants = identity_of_encoding(sae, rows) | {
        "batch_rows": batch_rows,
        "algorithm": _ALGORITHM,
    }
    return produce_folder(
        output_folder,
        kind="feature_taxonomy",
        determinants=determinants,
        build=lambda folder: _build(sae, rows, folder, batch_rows),
    )


def taxonomy_table(pairs: pl.DataFrame, taxa: list[str]) -> pl.DataFrame:
    """Count firing proteins per latent and taxon.

    Args:
        pairs: one row per protein and latent that fires on it: protein, latent, activation.
        taxa: the taxon of each protein.

    Returns:
        The table of ``feature_taxonomy``.
    """
    of_protein = pl.Series("taxon", taxa, dtype=pl.String)
    sizes = of_protein.value_counts(name="proteins")
    counts = (
        pairs.with_columns(of_protein.gather(pairs["protein"]))
        .sort("latent", "taxon", "protein")
        .group_by("latent", "taxon", maintain_order=True)
        .agg(firing_proteins=pl.len(), mean_activation=pl.col("activation").mean())
        .join(sizes, on="taxon", how="left", maintain_order="left")
    )
    firing, size = pl.col("firing_proteins").cast(pl.Int64), pl.col("proteins").cast(pl.Int64)
    other_firing, other_size = firing.sum().over("latent") - firing, len(taxa) - size
    ratio = ((firing + 0.5) / (size + 1)) / ((other_firing + 0.5) / (other_size + 1))
    return counts.select(
        "latent",
        "taxon",
        "proteins",
        "firing_proteins",
        firing_frequency=firing / size,
        mean_activation="mean_activation",
        normalized_frequency=firing / firing.sum().over("taxon"),
        other_frequency=pl.when(other_size > 0).then(other_firing / other_size),
        log2_ratio=pl.when(other_size > 0).then(ratio.log(2)),
    )


def top_taxa(table: pl.DataFrame) -> pl.DataFrame:
    """Return for each latent that fires the row of its highest normalized frequency."""
    return (
        table.sort("latent", "normalized_frequency", "taxon", descending=[False, True, False])
        .group_by("latent", maintain_order=True)
        .first()
    )


def _build(sae: SparseEncoder, rows: ClusterRows, folder: Path, batch_rows: int) -> dict[str, int]:
    table = taxonomy_table(_encode_pairs(sae, rows, batch_rows), rows.taxa)
    taxa = pl.Series("taxon", rows.taxa).value_counts(name="proteins").sort("taxon")
    slots = table.group_by("taxon").agg(filled_slots=pl.col("firing_proteins").sum())
    taxa = taxa.join(slots, on="taxon", how="left", maintain_order="left").fill_null(0)
    table.write_parquet(folder / TABLE)
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
        "proteins": len(rows.taxa),
        "smallest_taxon": int(np.min(taxa["proteins"].to_numpy())),
        "latents": sae.config.latent_dim,
        "firing_latents": len(mapping),
        "silent_latents": sae.config.latent_dim - len(mapping),
    }


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
