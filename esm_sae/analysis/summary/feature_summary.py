"""One row per latent: what is known of it, from all tables of the analysis."""

import re
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.analysis.concepts.labels import universe_path
from esm_sae.analysis.held_out import require_held_out_activations
from esm_sae.analysis.latent_blocks import latent_blocks
from esm_sae.analysis.queries import activation_parts
from esm_sae.analysis.residues import residue_table
from esm_sae.analysis.summary import family_entropy, findings, labels
from esm_sae.analysis.taxonomy.feature_taxonomy import top_taxa
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import LATENTS, SEQUENCES, SUMMARY_ADDITIONS, TAXONOMY
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import (
    Product,
    identity_of,
    manifest_beside,
    produce_files,
    read_manifest,
)
from esm_sae.split import (
    cluster_ids_of,
    identity_of_clusters,
    read_similarity_clusters,
    splits_of,
)

TOP_PROTEINS = 10

_ALGORITHM = "summary-3"
_SAYS_NOTHING = re.compile(r"uncharacteri[sz]ed|hypothetical|unknown|predicted protein", re.I)
_FRAGMENT = re.compile(r"\s*\(Fragment\)$")


def summarise_latents(
    activations: storage.PathLike,
    taxonomy: storage.PathLike,
    output_parquet: storage.PathLike,
    *,
    concepts: storage.PathLike | None = None,
    clusters: storage.PathLike | None = None,
    matches: storage.PathLike | None = None,
    k: int | None = None,
    annotations: storage.PathLike | None = None,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
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
    - SUMMARY_ADDITIONS of ``formats.analysis_tables``: best_taxon and so on, the finding of each
      table that ``findings`` chooses, null where there is none or the table is not given;
      similarity_clusters, similarity_entropy and memory of ``family_entropies``, null without
      similarity clusters; label and so on of ``label_latents``.

    Memory: 4 million pairs of a protein and a latent at a time (some 400 MB), the headers and,
    of residues, the sequences, and what ``residue_drafts`` tells.

    Args:
        activations: folder of ``compute_activations``.
        taxonomy: folder of ``feature_taxonomy``.
        output_parquet: the table to write.
        concepts: folder of ``score_concepts``.
        clusters: folder of ``cluster_latents``.
        matches: folder of ``match_latents``.
        k: of the SAE whose stability is told; None for the k that the activations record.
        annotations: table of ``annotate_concepts``, for labels.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"``, or None
            where they are not known; they decide which proteins labels are drafted from.
        split_seed: of the split.

    Raises:
        InputError: a folder is incomplete, the SAE was trained with another split, or a table of
            similarity clusters cannot be read.
    """
    inputs = _Inputs(
        Path(activations),
        Path(taxonomy),
        *(None if path is None else Path(path) for path in (concepts, clusters, matches)),
        annotations=None if annotations is None else Path(annotations),
    )
    require_held_out_activations(inputs.activations, similarity_clusters, split_seed)
    output = Path(output_parquet)
    own_k = _recorded_k(inputs.activations) if k is None else k
    determinants = inputs.identities() | {
        "similarity_clusters": identity_of_clusters(similarity_clusters),
        "k": own_k,
        "split_seed": split_seed,
        "algorithm": _ALGORITHM,
    }

    def build(temporaries: list[Path]) -> dict[str, Any]:
        known = None
        if similarity_clusters is not None:
            known = read_similarity_clusters(similarity_clusters)
        summary = _summary_table(inputs, own_k, known, split_seed)
        summary.write_parquet(temporaries[0])
        return _describe(summary)

    return produce_files(
        [output],
        manifest=manifest_beside(output),
        kind="feature_summary",
        determinants=determinants,
        build=build,
    )


@dataclass(frozen=True)
class _Inputs:
    """Where the tables of a run are."""

    activations: Path
    taxonomy: Path
    concepts: Path | None
    clusters: Path | None
    matches: Path | None
    annotations: Path | None

    def identities(self) -> dict[str, str | None]:
        found = {
            field.name: None if path is None else identity_of(path)
            for field in fields(self)
            for path in [getattr(self, field.name)]
        }
        if self.annotations is not None:
            found["universe"] = identity_of(universe_path(self.annotations))
        return found


def _recorded_k(activations: Path) -> int:
    manifest = read_manifest(activations)
    if manifest is None:
        raise InputError(f"{activations}: incomplete, it has no manifest.json; make it again")
    return int(manifest.determinants["config"]["k"])


def _summary_table(
    inputs: _Inputs, k: int, known: dict[str, str] | None, split_seed: int
) -> pl.DataFrame:
    activations = inputs.activations
    summary = pl.read_parquet(activations / LATENTS)
    sequences = pl.read_parquet(activations / SEQUENCES)
    ids = sequences["sequence_id"].to_list()
    training = splits_of(ids, known, seed=split_seed) == "train"
    tables = [
        _top_proteins(activations, sequences),
        _top_taxa(inputs.taxonomy),
        residue_table(activation_parts(activations), sequences, len(summary)),
        *_findings(inputs, k),
    ]
    if known is not None:
        tables.append(_family_entropies(activations, cluster_ids_of(ids, known)))
    tables.append(
        labels.label_latents(activations, inputs.taxonomy, sequences, training, inputs.annotations)
    )
    for table in tables:
        summary = summary.join(table, on="latent", how="left", maintain_order="left")
    additions = [
        name if name in summary.columns else pl.lit(None, dtype=kind).alias(name)
        for name, kind in SUMMARY_ADDITIONS.items()
    ]
    own = summary.select(pl.exclude(*SUMMARY_ADDITIONS))
    return own.with_columns(pl.col("top_proteins").fill_null([])).hstack(summary.select(additions))


def _findings(inputs: _Inputs, k: int) -> list[pl.DataFrame]:
    tables = [findings.best_taxa(inputs.taxonomy)]
    if inputs.concepts is not None:
        tables.append(findings.best_concepts(inputs.concepts))
    if inputs.clusters is not None:
        tables.append(findings.marked_clusters(inputs.clusters))
        tables.append(findings.map_places(inputs.clusters))
        tables.append(findings.nearest_latents(inputs.clusters))
    if inputs.matches is not None:
        tables.append(findings.stabilities(inputs.matches, k))
    return tables


def _top_taxa(taxonomy: Path) -> pl.DataFrame:
    table = pl.read_parquet(taxonomy / TAXONOMY)
    return top_taxa(table).select(
        "latent",
        pl.col("taxon").alias("top_taxon"),
        pl.col("normalized_frequency", "firing_frequency", "log2_ratio").name.prefix("top_taxon_"),
    )


def _family_entropies(activations: Path, cluster_ids: np.ndarray) -> pl.DataFrame:
    number_of = {cluster: number for number, cluster in enumerate(dict.fromkeys(cluster_ids))}
    cluster_of = np.array([number_of[cluster] for cluster in cluster_ids], dtype=np.int64)
    blocks = latent_blocks(activations)
    return pl.concat([family_entropy.family_entropies(block, cluster_of) for block in blocks])


def _top_proteins(activations: Path, sequences: pl.DataFrame) -> pl.DataFrame:
    tops = []
    for block in latent_blocks(activations):
        counts = np.minimum(np.diff(block.starts), TOP_PROTEINS)
        latent = np.repeat(np.arange(len(counts)), counts)
        rank = np.arange(len(latent)) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers = pl.Series("latent", block.latents.start + latent, dtype=pl.UInt32)
        tops.append(block.pairs[block.starts[latent] + rank].insert_column(0, numbers))
    top = pl.concat(tops)
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
    return chosen.select(
        "protein", "sequence_id", pl.Series("name", names, dtype=pl.String), "taxon"
    )


def _commonest(names: list[str | None]) -> tuple[str | None, int | None]:
    telling = [name for name in names if name and not _SAYS_NOTHING.search(name)]
    counts = Counter(_FRAGMENT.sub("", name) for name in telling)
    # Of equally common names the one of the strongest protein: Counter keeps the order.
    return counts.most_common(1)[0] if counts else (None, None)


def _describe(summary: pl.DataFrame) -> dict[str, Any]:
    kinds = summary["label_kind"].value_counts().sort("label_kind")
    return {
        "latents": len(summary),
        "firing_latents": int((summary["firing_rows"] > 0).sum()),
        "latents_with_taxon": len(summary) - summary["top_taxon"].null_count(),
        "taxonomic_latents": int(summary["taxonomic"].sum()),
        "latents_with_concept": len(summary) - summary["best_concept"].null_count(),
        "latents_with_marked_cluster": len(summary) - summary["marked_cluster"].null_count(),
        "stable_latents": int(summary["stable"].sum()),
        "latents_with_stability": len(summary) - summary["stable"].null_count(),
        "memory_latents": int(summary["memory"].sum()),
        "labels": dict(kinds.iter_rows()),
        "scored_labels": len(summary) - summary["label_score"].null_count(),
        "median_label_score": summary["label_score"].median(),
    }
