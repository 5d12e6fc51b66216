"""Over how many families of similar proteins a latent's activation is spread."""

from typing import Any

import numpy as np
import polars as pl

from esm_sae.analysis.latent_blocks import LatentBlock

# Two proteins of one family can be a coincidence.
MEMORY_PROTEINS = 3
MEMORY_SHARE = 0.9

SCHEMA = {
    "latent": pl.UInt32,
    "similarity_clusters": pl.UInt32,
    "similarity_entropy": pl.Float64,
    "memory": pl.Boolean,
}


def family_entropies(block: LatentBlock, cluster_of: np.ndarray) -> pl.DataFrame:
    """Measure how a latent's activation mass is spread over similarity clusters.

    The mass of a protein is the latent's activation in it, p the share of each similarity cluster
    in the mass of all n proteins that the latent fires on. similarity_entropy is the entropy
    -sum p ln p (Shannon 1948, Bell Syst. Tech. J. 27:379) over ln n or, where that is less, the
    entropy of all proteins over their clusters: 1 where the latent is spread as widely as n
    proteins can be or as all proteins are, 0 where one cluster has all the mass; null for fewer
    than two proteins.

    A latent is memory if it fires on at least 3 proteins and one similarity cluster has at least
    90% of the mass: it tells one family, and what it does on others is not known. Null for fewer
    proteins.

    Args:
        block: latents and the proteins they fire on.
        cluster_of: number of each protein's similarity cluster, 0, 1 and so on.

    Returns:
        latent, similarity_clusters (number of those it fires on), similarity_entropy, memory.
    """
    proteins = np.diff(block.starts)
    latent, mass, clusters = _masses(block, cluster_of)
    count = len(proteins)
    total = np.bincount(latent, mass, count)
    share = mass / total[latent]
    entropy = np.bincount(latent, -share * np.log(share), count)
    largest = np.zeros(count)
    np.maximum.at(largest, latent, share)
    several = proteins > 1
    widest = np.minimum(np.log(np.where(several, proteins, 2)), _entropy_of_all(cluster_of))
    # Rounding leaves sums of logarithms a little below 0; a latent can be wider than all proteins.
    normalised = np.clip(entropy / np.maximum(widest, np.finfo(np.float64).eps), 0, 1)
    known = proteins >= MEMORY_PROTEINS
    return pl.DataFrame(
        {
            "latent": list(block.latents),
            "similarity_clusters": clusters,
            "similarity_entropy": _where(several, normalised),
            "memory": _where(known, largest >= MEMORY_SHARE),
        },
        schema=SCHEMA,
    )


def _entropy_of_all(cluster_of: np.ndarray) -> float:
    sizes = np.bincount(cluster_of)
    share = sizes[sizes > 0] / max(len(cluster_of), 1)
    return float(-(share * np.log(share)).sum())


def _masses(
    block: LatentBlock, cluster_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return latent (from 0) and mass of each pair with a cluster, and each latent's clusters."""
    from scipy.sparse import csr_array

    proteins = len(cluster_of)
    membership = csr_array(
        (np.ones(proteins), cluster_of, np.arange(proteins + 1)),
        shape=(proteins, int(cluster_of.max(initial=-1)) + 1),
    )
    by_cluster: Any = block.masses(proteins) @ membership
    clusters = np.diff(by_cluster.indptr)
    return np.repeat(np.arange(len(clusters)), clusters), by_cluster.data, clusters


def _where(known: np.ndarray, values: np.ndarray) -> list[Any]:
    return [
        value if is_known else None
        for value, is_known in zip(values.tolist(), known.tolist(), strict=True)
    ]
