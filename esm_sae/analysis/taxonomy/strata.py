"""Strata of proteins of like length and composition, within which taxa are compared."""

from collections.abc import Sequence

import numpy as np

_AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"

_FEWEST_PER_STRATUM = 10
_LENGTH_BINS = 3
_MOST_HALVINGS = 5


def strata_of(sequences: Sequence[str]) -> np.ndarray:
    """Sort proteins into strata by length, and by composition within a length.

    Lengths are cut at their terciles. Each third is halved at the median of the first principal
    axis of its amino-acid shares, each half again along an axis of its own, and so on, so that
    the strata are of like size whatever axes the composition varies along (principal direction
    divisive partitioning, Boley 1998, Data Min. Knowl. Discov. 2:325). There are as many
    halvings, up to 5, as leave 10 proteins to a stratum on average, so up to 96 strata, and
    fewer thirds where there are fewer than 30 proteins. Neither the taxa nor the order of the
    proteins have a say; proteins of equal length or composition are never parted.

    Args:
        sequences: amino acids, N sequences; other letters than the 20 do not count for shares.

    Returns:
        The stratum of each protein, (N,), numbered from 0 without gaps.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    bins = min(max(len(sequences) // _FEWEST_PER_STRATUM, 1), _LENGTH_BINS)
    edges = np.quantile(lengths, np.arange(1, bins) / bins)
    strata = np.searchsorted(edges, lengths, side="left")
    shares = amino_acid_shares(sequences)
    strata_wanted = max(len(sequences) // _FEWEST_PER_STRATUM // bins, 1)
    for _ in range(min(strata_wanted.bit_length() - 1, _MOST_HALVINGS)):
        halves = np.empty(len(strata), dtype=bool)
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            halves[members] = _upper_half(shares[members])
        strata = 2 * strata + halves
    return np.unique(strata, return_inverse=True)[1]


def amino_acid_shares(sequences: Sequence[str]) -> np.ndarray:
    """Return the shares of the 20 amino acids in each sequence, (N, 20); 0 where it has none."""
    codes = np.frombuffer(_AMINO_ACIDS.encode(), dtype=np.uint8)
    counts = np.empty((len(sequences), len(codes)))
    for row, sequence in zip(counts, sequences, strict=True):
        letters = np.frombuffer(sequence.upper().encode(), dtype=np.uint8)
        row[:] = np.bincount(letters, minlength=256)[codes]
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _upper_half(shares: np.ndarray) -> np.ndarray:
    """Tell which rows lie above the median of their first principal axis."""
    centred = shares - shares.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    # The sign of an axis is arbitrary.
    along = centred @ (axis * (np.sign(axis[np.argmax(np.abs(axis))]) or 1))
    # Equal compositions may differ by rounding.
    along = np.round(along, 9)
    return along > np.median(along)
