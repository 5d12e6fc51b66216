"""Matching the lengths of samples, so that length cannot pose as what tells clusters apart."""

from typing import NamedTuple

import numpy as np

from esm_sae.clusters.members import Members

# Fewer members a bin would leave out many clusters; more bins would match hardly any closer.
_MEMBERS_PER_BIN = 5
_MOST_BINS = 20
LEAST_PER_CLUSTER = 2 * _MEMBERS_PER_BIN


class LengthBins(NamedTuple):
    """Bins of length, and how many members of each a sample has.

    Attributes:
        longest: (B,) the greatest length in each bin, ascending; a bin begins behind the last.
        quotas: (B,) members that every cluster's sample has in the bin.
    """

    longest: np.ndarray
    quotas: np.ndarray

    def of(self, lengths: np.ndarray) -> np.ndarray:
        """Return the bin of each length."""
        return np.searchsorted(self.longest, lengths)

    def described(self) -> list[dict[str, int]]:
        """Return the bins for summaries."""
        return [
            {"longest": int(longest), "per_cluster": int(quota)}
            for longest, quota in zip(self.longest, self.quotas, strict=True)
        ]


def matched_bins(
    members: Members, rows: np.ndarray, clusters: np.ndarray, per_cluster: int
) -> tuple[LengthBins, np.ndarray]:
    """Choose bins and quotas that are common to all clusters.

    The bins lie between quantiles of the members' lengths, each cluster weighing the same; there
    are ``per_cluster / 5`` of them, at most 20, or fewer where many members have one length. A
    bin's quota is its share of ``per_cluster``, rounded so that the quotas add up to it (largest
    remainders).

    Args:
        members: all members.
        rows: numbers of those that can be drawn.
        clusters: the clusters these are of, as places in ``members.names``.
        per_cluster: members drawn of each cluster.

    Returns:
        The bins, and the clusters that can fill every quota, in the order given.
    """
    # Counted by length and cluster, so that the order of members leaves no trace in the sums.
    keys = members.lengths[rows].astype(np.int64) * len(members.names) + members.clusters[rows]
    keys, counts = np.unique(keys, return_counts=True)
    lengths, owners = np.divmod(keys, len(members.names))
    sizes = np.bincount(owners, weights=counts, minlength=len(members.names))
    weights = counts / sizes[owners] / len(clusters)
    bins = _bins(lengths, weights, per_cluster)
    cells = owners * len(bins.longest) + bins.of(lengths)
    there = np.bincount(cells, weights=counts, minlength=len(members.names) * len(bins.longest))
    fills = np.all(there.reshape(len(members.names), -1) >= bins.quotas, axis=1)
    return bins, clusters[fills[clusters]]


def length_spread(lengths: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Say how much the lengths of clusters differ.

    Args:
        lengths: (n,) residues of each member.
        clusters: (n,) number of the cluster of each member.

    Returns:
        ``mean_length_sd``, the standard deviation of the clusters' mean lengths, ``shortest_mean``
        and ``longest_mean``, in residues; and ``largest_ks``, the largest Kolmogorov-Smirnov
        distance of a cluster's lengths to those of all, each cluster weighing the same: 0 where
        all clusters have the same lengths, at most 1.
    """
    order = np.lexsort((lengths, clusters))
    lengths = lengths[order].astype(np.int64)
    _, starts, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    means = np.add.reduceat(lengths, starts) / sizes
    size = np.repeat(sizes, sizes)
    rank = np.arange(len(lengths)) - np.repeat(starts, sizes)
    values, value = np.unique(lengths, return_inverse=True)
    shares = np.bincount(value, weights=1 / size, minlength=len(values)) / len(sizes)
    up_to = np.cumsum(shares)
    # The distance is largest at a step of the cluster's own distribution, on either side of it.
    above = (rank + 1) / size - up_to[value]
    below = (up_to - shares)[value] - rank / size
    figures = {
        "mean_length_sd": means.std(),
        "shortest_mean": means.min(),
        "longest_mean": means.max(),
        "largest_ks": max(above.max(), below.max(), 0.0),
    }
    return {name: round(float(figure), 4) for name, figure in figures.items()}


def _bins(lengths: np.ndarray, weights: np.ndarray, per_cluster: int) -> LengthBins:
    """Cut ascending lengths, whose weights add up to 1, into bins of about equal weight."""
    count = max(1, min(_MOST_BINS, per_cluster // _MEMBERS_PER_BIN))
    values, firsts = np.unique(lengths, return_index=True)
    up_to = np.cumsum(np.add.reduceat(weights, firsts))
    # Sums of shares may fall short of a quantile by their rounding.
    cuts = np.searchsorted(up_to, np.arange(1, count) / count - 1e-9)
    longest = np.unique(np.append(values[np.minimum(cuts, len(values) - 1)], values[-1]))
    ends = np.append(up_to[np.searchsorted(values, longest[:-1])], 1.0)
    exact = np.diff(ends, prepend=0.0) * per_cluster
    quotas = np.floor(exact).astype(np.int64)
    remainders = np.argsort(quotas - exact, kind="stable")
    quotas[remainders[: per_cluster - int(quotas.sum())]] += 1
    return LengthBins(longest, quotas)
