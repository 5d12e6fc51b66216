"""Which latents are alike, and which mark a density cluster."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.analysis.held_out import require_held_out_activations
from esm_sae.analysis.latents.directions import DecodingSAE, directions_of, live_latents
from esm_sae.analysis.latents.layout import latent_map
from esm_sae.analysis.latents.map_figure import latent_map_figure
from esm_sae.analysis.latents.marked_clusters import marked_clusters
from esm_sae.analysis.latents.near_duplicates import NEAR_COSINE, near_duplicates
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    LATENT_MAP,
    LATENT_MAP_FIGURE,
    LATENTS,
    MARKED_CLUSTERS,
    NEAR_DUPLICATES,
)
from esm_sae.formats.manifest import Product, identity_of, produce_folder, read_manifest
from esm_sae.split import identity_of_clusters

_ALGORITHM = "latent-clusters-1"


def cluster_latents(
    sae: DecodingSAE,
    activations_folder: storage.PathLike,
    cluster_table: storage.PathLike | None,
    output_folder: storage.PathLike,
    *,
    cluster_summary: storage.PathLike | None = None,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
    min_cluster_size: int = 5,
    seed: int = 0,
) -> Product:
    """Compare the latents of an SAE with each other, and with density clusters of proteins.

    Live latents, those that fire on 10 rows or more, are compared with each other; how many others
    there are is in the summary. Files of the folder:

    - ``latent_map.parquet`` and ``latent_map.png``: a place on a map and a cluster by decoder row
      for each live latent; see ``latent_map``.
    - ``near_duplicates.parquet``: pairs of live latents; see ``near_duplicates``.
    - ``marked_clusters.parquet``, where ``cluster_table`` is given: a row for each latent whose
      strong firing marks a density cluster; see ``marked_clusters``.

    Memory is the largest of these three's.

    Args:
        sae: the SAE.
        activations_folder: of ``compute_activations``, by this SAE.
        cluster_table: density clusters of the same proteins, None where there are none.
        output_folder: replaced as a whole.
        cluster_summary: what ``describe_clusters`` wrote of the table, for its labels.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"`` or None.
        split_seed: of the split.
        min_cluster_size: fewest latents of a cluster of decoder rows.
        seed: of the map's layout, and of the permutation that tells how many mark by chance.

    Raises:
        InputError: the activations are another SAE's, the SAE was trained with another split, a
            table is not of its kind, none of the clustered proteins has activations, or
            ``min_cluster_size`` is below 2.
    """
    activations = Path(activations_folder)
    table = None if cluster_table is None else Path(cluster_table)
    summary = None if cluster_summary is None else Path(cluster_summary)
    _require_sizes(min_cluster_size)
    _require_own(sae, activations)
    require_held_out_activations(activations, similarity_clusters, split_seed)
    determinants = {
        "sae": sae.fingerprint,
        "activations": identity_of(activations),
        "cluster_table": _identity(table),
        "cluster_summary": _identity(summary),
        "similarity_clusters": identity_of_clusters(similarity_clusters),
        "split_seed": split_seed,
        "min_cluster_size": min_cluster_size,
        "seed": seed,
        "algorithm": _ALGORITHM,
    }

    def build(work: Path) -> dict[str, Any]:
        counts = _write_latents(sae, activations, work, min_cluster_size, seed)
        if table is None:
            return counts
        marked, more = marked_clusters(
            activations,
            table,
            summary,
            similarity_clusters=similarity_clusters,
            split_seed=split_seed,
            seed=seed,
        )
        marked.write_parquet(work / MARKED_CLUSTERS)
        return counts | more

    return produce_folder(
        output_folder, kind="feature_clusters", determinants=determinants, build=build
    )


def _write_latents(
    sae: DecodingSAE, activations: Path, work: Path, min_cluster_size: int, seed: int
) -> dict[str, Any]:
    table = pl.read_parquet(activations / LATENTS, columns=["latent", "firing_rows", "density"])
    firing_rows = table["firing_rows"].to_numpy()
    live = live_latents(sae, firing_rows)
    directions = directions_of(sae, live)
    places = latent_map(live, directions, min_cluster_size=min_cluster_size, seed=seed)
    places.write_parquet(work / LATENT_MAP)
    (work / LATENT_MAP_FIGURE).write_bytes(latent_map_figure(places, table["density"][live]))
    pairs = near_duplicates(activations, live, directions)
    pairs.write_parquet(work / NEAR_DUPLICATES)
    silent = int((firing_rows == 0).sum())
    return {
        "latents": len(table),
        "live_latents": len(live),
        "silent_latents": silent,
        "rarely_firing_latents": len(table) - silent - len(live),
        "decoder_clusters": places.filter(pl.col("cluster") >= 0)["cluster"].n_unique(),
        "latents_in_decoder_clusters": int((places["cluster"] >= 0).sum()),
        "median_largest_cosine": _median_largest_cosine(directions),
        "near_duplicates": len(pairs),
        "near_duplicates_by_cosine": int((pairs["cosine"] > NEAR_COSINE).sum()),
        "latents_with_near_duplicate": pl.concat([pairs["latent"], pairs["other"]]).n_unique(),
    }


def _median_largest_cosine(directions: np.ndarray) -> float | None:
    if len(directions) < 2:
        return None
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -1.0)
    return float(np.median(cosines.max(axis=1)))


def _require_sizes(min_cluster_size: int) -> None:
    if min_cluster_size < 2:
        raise InputError(
            f"min_cluster_size is {min_cluster_size}; a cluster of latents has at least 2"
        )


def _require_own(sae: DecodingSAE, activations: Path) -> None:
    manifest = read_manifest(activations) if activations.is_dir() else None
    if manifest is None or manifest.kind != "feature_activations":
        raise InputError(f"{activations}: no folder of activations; compute them first")
    if manifest.determinants.get("sae") != sae.fingerprint:
        raise InputError(
            f"{activations}: holds the activations of another SAE than the one given; compute "
            "them with this one"
        )


def _identity(path: Path | None) -> str | None:
    return None if path is None else identity_of(path)
