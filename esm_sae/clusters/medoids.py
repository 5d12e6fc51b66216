"""The protein in the middle of each cluster."""

import numpy as np

from esm_sae.progress import progress

_MEMBERS = 1_000


def medoids(points: np.ndarray, clusters: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return the row of each cluster's medoid: the member nearest to the others on average.

    Of a cluster with more than 1,000 members a seeded sample of 1,000 is looked at, as medoid
    and as the others. Memory is that sample's distances.

    Args:
        points: (N, C), one row per protein.
        clusters: cluster of each row, (N,), 0 to K - 1; negative ones are left out.
        seed: of the samples, which depend on nothing but it, the cluster's number and its rows.

    Returns:
        (K,) int64 row numbers; of equals the first row.
    """
    from scipy.spatial.distance import cdist

    rows = np.flatnonzero(clusters >= 0)
    rows = rows[np.argsort(clusters[rows], kind="stable")]
    bounds = np.searchsorted(clusters[rows], np.arange(clusters.max(initial=-1) + 2))
    found = np.empty(len(bounds) - 1, dtype=np.int64)
    with progress(len(found), unit="clusters", description="medoids") as shown:
        for cluster in range(len(found)):
            members = rows[bounds[cluster] : bounds[cluster + 1]]
            if len(members) > _MEMBERS:
                generator = np.random.default_rng([seed, cluster])
                members = np.sort(generator.choice(members, size=_MEMBERS, replace=False))
            near = np.asarray(points[members], dtype=np.float64)
            found[cluster] = members[cdist(near, near).mean(axis=1).argmin()]
            shown.update(1)
    return found
