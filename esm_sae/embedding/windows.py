"""Which pieces of long sequences go through the encoder, and which residues each answers for."""

from typing import NamedTuple

import numpy as np

_OVERLAP = 8


class Pieces(NamedTuple):
    """Pieces of sequences, in the order of the sequences and from their starts to their ends.

    Positions are counted from 0 in the whole sequence; ends are past the last.

    Attributes:
        sequence: number of the sequence, (P,).
        start: first residue that goes through the encoder, (P,).
        end: end of those residues, (P,).
        own_start: first residue whose state is taken from this piece, (P,).
        own_end: end of those residues, (P,).
    """

    sequence: np.ndarray
    start: np.ndarray
    end: np.ndarray
    own_start: np.ndarray
    own_end: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of residues that go through the encoder, (P,)."""
        return self.end - self.start

    @property
    def owned(self) -> np.ndarray:
        """Number of residues whose states are taken, (P,)."""
        return self.own_end - self.own_start


def whole_pieces(lengths: np.ndarray, max_length: int | None = None) -> Pieces:
    """Return one piece per sequence, cut off after ``max_length`` residues."""
    ends = np.asarray(lengths, dtype=np.int64)
    if max_length is not None:
        ends = np.minimum(ends, max_length)
    starts = np.zeros_like(ends)
    return Pieces(np.arange(len(ends)), starts, ends, starts, ends)


def window_pieces(lengths: np.ndarray, max_length: int) -> Pieces:
    """Return overlapping windows of the sequences longer than ``max_length``, others whole.

    The windows of a sequence are the fewest of ``max_length`` residues of which neighbours share
    at least an eighth, evenly spread. Every residue belongs to the window in which it is
    farthest from a cut, the first of two: each is taken once, and what belongs to a window is
    contiguous.

    Args:
        lengths: residues of each sequence, (N,).
        max_length: most residues of a window.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    counts = _window_counts(lengths, max_length)
    sequence = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(sequence)) - np.repeat(np.cumsum(counts) - counts, counts)
    slack = np.maximum(lengths - max_length, 0)[sequence]
    start = number * slack // np.maximum(counts[sequence] - 1, 1)
    end = np.minimum(start + max_length, lengths[sequence])
    # Midpoints of the overlaps: in front of them the earlier window's cut is the farther one.
    middle = (start[1:] + end[:-1] + 1) // 2
    is_first, is_last = number == 0, number == counts[sequence] - 1
    own_start = np.where(is_first, 0, np.concatenate([[0], middle])[: len(start)])
    own_end = np.where(is_last, end, np.concatenate([middle, [0]])[: len(start)])
    return Pieces(sequence, start, end, own_start, own_end)


def _window_counts(lengths: np.ndarray, max_length: int) -> np.ndarray:
    overlap = max_length // _OVERLAP
    windows = -(-(lengths - overlap) // (max_length - overlap))
    return np.where(lengths <= max_length, 1, windows)
