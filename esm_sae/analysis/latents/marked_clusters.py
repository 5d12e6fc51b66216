"""Latents that mark a density cluster: where they fire strongly, a protein is of the cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.analysis.concepts.scores import Labels, Ranked, f1_of, make_labels, score_features
from esm_sae.analysis.latent_blocks import LatentBlock, latent_blocks
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import MARKED_CLUSTER_SCHEMA, SEQUENCES
from esm_sae.formats.cluster_summary import read_summary
from esm_sae.split import read_similarity_clusters, splits_of

# On training proteins: what a latent has to reach for its cluster to be listed.
FEWEST_F1 = 0.5
_FEWEST_TRAINING = 5
_PAIRS_AT_ONCE = 1_000_000


def marked_clusters(
    activations_folder: Path,
    cluster_table: Path,
    cluster_summary: Path | None,
    *,
    similarity_clusters: storage.PathLike | None,
    split_seed: int,
    seed: int,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Find for each latent the density cluster that it marks best, and test it on other proteins.

    A latent calls a protein when its activation there, the maximum over the protein's rows, is at
    least a threshold. Threshold and cluster are those of the best F1 on the training proteins (of
    equal ones the higher threshold, the lower number); only clusters with 5 of these are tried,
    and latents that reach 0.5 are listed. Precision, recall and F1 are those on the validation
    and test proteins together, which are of other similarity clusters. Noise is of no cluster.
    Small clusters are easily marked: the counts tell how many latents reach 0.5 by chance, when
    the clusters of the training proteins are permuted.

    Memory: the proteins' ids, 4,000,000 pairs of a latent and a protein (or all of one latent)
    and 32 bytes x 1,000,000.

    Args:
        activations_folder: of ``compute_activations``.
        cluster_table: sequence_id and cluster of each protein, -1 for noise. Of an id that it
            holds twice, the first row counts.
        cluster_summary: of ``describe_clusters``, for the labels; None leaves them null.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"`` or None.
        split_seed: of the split.
        seed: of the permutation.

    Returns:
        The table, a row per latent, and counts. ``precision``, ``recall`` and ``f1`` are null
        where no held-out protein is of the cluster; ``held_out`` says how many are.

    Raises:
        InputError: the file is no table of clusters, or none of its proteins has activations.
    """
    ids = pl.read_parquet(activations_folder / SEQUENCES, columns=["sequence_id"])["sequence_id"]
    clusters = _clusters_of(ids, cluster_table, activations_folder)
    known = None if similarity_clusters is None else read_similarity_clusters(similarity_clusters)
    training = splits_of(ids.to_list(), known, seed=split_seed) == "train"
    proteins = _Proteins.of(clusters, training)
    permuted = _Proteins.of(_permuted(clusters, training, seed), training)
    found, by_chance = [pl.DataFrame(schema=_FOUND)], 0
    for block in latent_blocks(activations_folder):
        found.extend(_marked_by(block, proteins))
        by_chance += sum(len(table) for table in _marked_by(block, permuted))
    table = pl.concat(found).join(
        _labels(cluster_summary), on="cluster", how="left", maintain_order="left"
    )
    counts = _summary(table, proteins, clusters) | {"marking_latents_by_chance": by_chance}
    table = table.with_columns(_without_support(name) for name in ("precision", "recall", "f1"))
    table = table.select(list(MARKED_CLUSTER_SCHEMA)).cast(pl.Schema(MARKED_CLUSTER_SCHEMA))
    return table, counts


_FOUND = {
    "latent": pl.UInt32,
    "cluster": pl.Int32,
    "size": pl.Int64,
    "threshold": pl.Float32,
    "train_f1": pl.Float64,
    "precision": pl.Float64,
    "recall": pl.Float64,
    "f1": pl.Float64,
    "held_out": pl.Int64,
    "true": pl.Int64,
    "called": pl.Int64,
}


@dataclass(frozen=True)
class _Proteins:
    """The proteins as what latents are scored on.

    Attributes:
        numbers: number of each cluster that is tried, ascending, C of them.
        sizes: proteins of each in the table, (C,).
        labels: which protein is of which of these clusters; its universe is the table.
        training: which proteins are of the training split.
    """

    numbers: np.ndarray
    sizes: np.ndarray
    labels: Labels
    training: np.ndarray

    @classmethod
    def of(cls, clusters: np.ndarray, training: np.ndarray) -> "_Proteins":
        """Take the cluster of each protein, -1 for noise, -2 for not in the table."""
        numbers, sizes = np.unique(clusters[clusters >= 0], return_counts=True)
        trained, counts = np.unique(clusters[(clusters >= 0) & training], return_counts=True)
        tried = np.isin(numbers, trained[counts >= _FEWEST_TRAINING])
        numbers, sizes = numbers[tried], sizes[tried]
        members = np.flatnonzero(np.isin(clusters, numbers))
        labels = make_labels(
            members,
            np.searchsorted(numbers, clusters[members]),
            np.zeros(len(numbers), dtype=np.int64),
            (clusters > -2)[:, None],
        )
        return cls(numbers, sizes, labels, training)


def _clusters_of(ids: pl.Series, cluster_table: Path, activations: Path) -> np.ndarray:
    try:
        table = pl.read_parquet(cluster_table, columns=["sequence_id", "cluster"])
    except (pl.exceptions.PolarsError, OSError):
        raise InputError(
            f"{cluster_table}: not a table of clusters with sequence_id and cluster; name one that "
            "'python -m esm_sae.cluster' wrote"
        ) from None
    joined = pl.DataFrame({"sequence_id": ids}).join(
        table.unique("sequence_id", keep="first"),
        on="sequence_id",
        how="left",
        maintain_order="left",
    )
    clusters = joined["cluster"].cast(pl.Int64)
    if clusters.null_count() == len(clusters):
        raise InputError(
            f"{cluster_table}: none of its proteins is among the activations of {activations}; "
            "name the clusters of the embeddings that were encoded"
        )
    return clusters.fill_null(-2).to_numpy()


def _permuted(clusters: np.ndarray, training: np.ndarray, seed: int) -> np.ndarray:
    """Return the clusters with those of the training proteins of the table in another order."""
    permuted, shuffled = clusters.copy(), np.flatnonzero((clusters > -2) & training)
    permuted[shuffled] = clusters[np.random.default_rng(seed).permutation(shuffled)]
    return permuted


def _marked_by(block: LatentBlock, proteins: _Proteins) -> list[pl.DataFrame]:
    """Score the latents of a block, as many at once as scores of all clusters have room."""
    step = max(_PAIRS_AT_ONCE // max(len(proteins.numbers), 1), 1)
    numbers = block.pairs["protein"].to_numpy().astype(np.int32)
    # A copy: the kernels would be compiled once more for arrays that cannot be written to.
    values = block.pairs["activation"].to_numpy().astype(np.float32)
    found = []
    for first in range(0, len(block.latents), step):
        starts = block.starts[first : first + step + 1]
        part = slice(starts[0], starts[-1])
        ranked = Ranked(starts - starts[0], numbers[part], values[part])
        found.append(_best_clusters(ranked, proteins, block.latents[first]))
    return found


def _best_clusters(ranked: Ranked, proteins: _Proteins, first: int) -> pl.DataFrame:
    labels, training = proteins.labels, proteins.training
    if not labels.concept_count:
        return pl.DataFrame(schema=_FOUND)
    scores = score_features(ranked, labels, training, ~training)
    train_f1 = np.nan_to_num(f1_of(*scores[1:4], labels.positives(training))[2])
    best = train_f1.argmax(axis=1)
    latents = np.flatnonzero(train_f1.max(axis=1) >= FEWEST_F1)
    pairs = latents, best[latents]
    held_out = labels.positives(~training)[pairs[1]]
    true, called = scores.test_true[pairs], scores.test_called[pairs]
    precision, recall, f1 = f1_of(true, called, true, held_out)
    columns = {
        "latent": first + latents,
        "cluster": proteins.numbers[pairs[1]],
        "size": proteins.sizes[pairs[1]],
        "threshold": scores.threshold[pairs],
        "train_f1": train_f1[pairs],
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "held_out": held_out,
        "true": true,
        "called": called,
    }
    return pl.DataFrame(columns).cast(pl.Schema(_FOUND))


def _labels(cluster_summary: Path | None) -> pl.DataFrame:
    if cluster_summary is None:
        return pl.DataFrame(schema={"cluster": pl.Int32, "label": pl.String})
    return read_summary(cluster_summary).select("cluster", "label")


def _without_support(name: str) -> pl.Expr:
    return pl.when(pl.col("held_out") > 0).then(name).alias(name)


def _summary(table: pl.DataFrame, proteins: _Proteins, clusters: np.ndarray) -> dict[str, Any]:
    true, called, held_out = (int(table[name].sum()) for name in ("true", "called", "held_out"))
    return {
        "density_clusters": len(np.unique(clusters[clusters >= 0])),
        "density_clusters_tried": len(proteins.numbers),
        "proteins_without_density_cluster": int((clusters == -1).sum()),
        "proteins_not_in_cluster_table": int((clusters == -2).sum()),
        "marking_latents": len(table),
        "marked_density_clusters": table["cluster"].n_unique(),
        "marking_latents_with_held_out_members": int((table["held_out"] > 0).sum()),
        "pooled_held_out_precision": true / called if called else None,
        "pooled_held_out_recall": true / held_out if held_out else None,
        "pooled_held_out_f1": 2 * true / (called + held_out) if called + held_out else None,
    }
