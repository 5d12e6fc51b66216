"""Batches of sequences of like length, under a budget of tokens."""

from collections.abc import Iterator, Sequence

import numpy as np


def token_batches(lengths: Sequence[int] | np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Yield the numbers of the sequences of each batch, longest sequences first.

    A batch of b sequences padded to its longest, T tokens, has b * T <= ``budget``; a sequence
    longer than the budget is a batch of its own. Longest first, so that memory runs out at the
    start or not at all.

    Args:
        lengths: number of tokens of each sequence, special tokens included, shape (N,).
        budget: most tokens of a batch, padding included.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pad(sequences: Sequence[np.ndarray], value: int) -> np.ndarray:
    """Stack 1-d arrays of unequal lengths into (B, T), filled up with ``value``."""
    padded = np.full((len(sequences), max(map(len, sequences))), value, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded
