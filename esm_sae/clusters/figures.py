"""A map of the embedding clusters."""

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.clusters.components import fit_components
from esm_sae.errors import InputError
from esm_sae.figures import GREY, new_figure, png_bytes
from esm_sae.formats.shards import EmbeddingShards

_ROWS = 5_000
# Of the map tab10, without its grey, which is for noise.
_COLOURS = (0, 1, 2, 3, 4, 5, 6, 8, 9)


def embedding_map(shards: EmbeddingShards, table: storage.PathLike, *, seed: int = 0) -> bytes:
    """Draw proteins on their first two principal components, the largest clusters in colour.

    At most 5,000 proteins are drawn, a seeded sample. Noise and the other clusters are grey.

    Args:
        shards: the embeddings that were clustered.
        table: the table that ``cluster_embeddings`` wrote.
        seed: of the sample.

    Returns:
        The figure as PNG.

    Raises:
        InputError: table and embeddings differ in the number of rows.
    """
    proteins = shards.means()
    with storage.open_binary(table) as file:
        clusters = pl.read_parquet(file, columns=["cluster"])["cluster"].to_numpy()
    if len(clusters) != proteins.rows:
        raise InputError(
            f"{table}: has {len(clusters)} rows, {proteins.directory} {proteins.rows}; "
            "cluster these embeddings again"
        )
    count = min(_ROWS, proteins.rows)
    rows = np.sort(np.random.default_rng(seed).choice(proteins.rows, size=count, replace=False))
    space = fit_components(proteins, 2)
    points = space.project(proteins.rows_at(rows))
    return _scatter(points, clusters[rows], space.explained)


def _scatter(points: np.ndarray, clusters: np.ndarray, explained: np.ndarray) -> bytes:
    from matplotlib import colormaps

    figure, axes = new_figure(6.4, 4.4)
    if points.shape[1] == 1:
        points = np.column_stack([points, np.zeros(len(points))])
    # Clusters are numbered by size.
    rest = (clusters < 0) | (clusters >= len(_COLOURS))
    axes.scatter(*points[rest].T, s=3, color=GREY, alpha=0.4, linewidths=0, label="noise, others")
    for cluster in range(min(len(_COLOURS), int(clusters.max()) + 1)):
        members = points[clusters == cluster]
        colour = colormaps["tab10"](_COLOURS[cluster])
        axes.scatter(*members.T, s=9, color=colour, linewidths=0, label=f"cluster {cluster}")
    for axis, share, name in zip(
        (axes.xaxis, axes.yaxis), explained, ("PC 1", "PC 2"), strict=False
    ):
        axis.set_label_text(f"{name} ({share:.0%} of the variance)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)
    return png_bytes(figure)
