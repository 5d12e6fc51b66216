"""One row per latent: what is known of it, from the activation and taxonomy tables."""

import re
from collections import Counter
from pathlib import Path

import polars as pl

from esm_sae import storage
from esm_sae.analysis.activations import LATENTS, PROTEINS, SEQUENCES, activation_parts
from esm_sae.analysis.residues import residue_table
from esm_sae.analysis.taxonomy import TABLE, top_taxa
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import Product, identity_of, manifest_beside, produce_files

TOP_PROTEINS = 10

_ALGORITHM = "summary-1"
_SAYS_NOTHING = re.compile(r"uncharacteri[sz]ed|hypothetical|unknown|predicted protein", re.I)
_FRAGMENT = re.compile(r"\s*\(Fragment\)$")


def summarise_latents(
    activations_folder: storage.PathLike,
    taxonomy_folder: storage.PathLike,
    output_parquet: storage.PathLike,
) -> Product:
    """Join the tables of a run into one row per latent, 0 to L - 1, silent ones too.

    Columns: those of ``latents.parquet`` of ``compute_activations``, and

    - top_proteins: the 10 proteins with the highest activation, each with protein (its number in
      ``sequences.parquet``), sequence_id, name, taxon, activation, position.
    - common_name, common_name_count: the name that most of these top proteins bear, and how many
      do; names such as 'Uncharacterized protein' do not count. Null where no name is left.
    - top_taxon, top_taxon_normalized_frequency, top_taxon_firing_frequency,
      top_taxon_log2_ratio: as in the taxonomy mapping; null where it fires in no taxon.
    - top_residue, top_residue_share, top_residue_background: the amino acid that most of its
      firing residues are, its share of them, and of all residues where a latent fires; and
      residues: all 26 shares, A to Z. Null without residue rows whose sequences are known.
    """
    activations, taxonomy = Path(activations_folder), Path(taxonomy_folder)
    output = Path(output_parquet)
    determinants = {
        "activations": identity_of(activations),
        "taxonomy": identity_of(taxonomy),
        "algorithm": _ALGORITHM,
    }

    def build(temporaries: list[Path]) -> dict[str, int]:
        summary = _summary_table(activations, taxonomy)
        summary.write_parquet(temporaries[0])
        return {
            "latents": len(summary),
            "firing_latents": int((summary["firing_rows"] > 0).sum()),
            "latents_with_taxon": len(summary) - summary["top_taxon"].null_count(),
        }

    return produce_files(
        [output],
        manifest=manifest_beside(output),
        kind="feature_summary",
        determinants=determinants,
        build=build,
    )


def _summary_table(activations: Path, taxonomy: Path) -> pl.DataFrame:
    latents = pl.read_parquet(activations / LATENTS)
    sequences = pl.read_parquet(activations / SEQUENCES)
    prefix = "top_taxon_"
    taxa = top_taxa(pl.read_parquet(taxonomy / TABLE)).select(
        "latent",
        pl.col("taxon").alias("top_taxon"),
        pl.col("normalized_frequency", "firing_frequency", "log2_ratio").name.prefix(prefix),
    )
    residues = residue_table(activation_parts(activations), sequences, len(latents))
    summary = latents
    for table in (_top_proteins(activations, sequences), taxa, residues):
        summary = summary.join(table, on="latent", how="left", maintain_order="left")
    return summary.with_columns(pl.col("top_proteins").fill_null([]))


def _top_proteins(activations: Path, sequences: pl.DataFrame) -> pl.DataFrame:
    top = (
        pl.scan_parquet(activations / PROTEINS)
        .group_by("latent", maintain_order=True)
        .head(TOP_PROTEINS)
        .collect()
    )
    names = _names(sequences, top["protein"].unique().sort())
    top = top.join(names, on="protein", how="left", maintain_order="left")
    grouped = top.group_by("latent", maintain_order=True).agg(
        pl.struct("protein", "sequence_id", "name", "taxon", "activation", "position").alias(
            "top_proteins"
        ),
        pl.col("name"),
    )
    commonest = [_commonest(names) for names in grouped["name"].to_list()]
    return grouped.drop("name").with_columns(
        pl.Series("common_name", [name for name, _ in commonest], dtype=pl.String),
        pl.Series("common_name_count", [count for _, count in commonest], dtype=pl.UInt32),
    )


def _names(sequences: pl.DataFrame, wanted: pl.Series) -> pl.DataFrame:
    chosen = sequences[wanted.to_numpy()]
    names = [parse_header(header or "").name or None for header in chosen["header"]]
    return chosen.select("protein", pl.Series("name", names, dtype=pl.String), "taxon")


def _commonest(names: list[str | None]) -> tuple[str | None, int | None]:
    telling = [name for name in names if name and not _SAYS_NOTHING.search(name)]
    counts = Counter(_FRAGMENT.sub("", name) for name in telling)
    # Of equally common names the one of the strongest protein: Counter keeps the order.
    return counts.most_common(1)[0] if counts else (None, None)
