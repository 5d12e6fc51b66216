"""Batches of sequences of like length, under a budget of tokens."""

from collections.abc import Sequence

import numpy as np

# A GPU wants many tokens at a time; on a CPU more than these fall out of its caches.
_DEFAULT_BATCH_TOKENS = {"cuda": 65_536}
_DEFAULT_BATCH_TOKENS_ELSEWHERE = 4096

_MOST_PADDING = 0.04


def default_batch_tokens(device: str) -> int:
    """Return the token budget for a kind of device, such as ``"cpu"`` or ``"cuda"``."""
    return _DEFAULT_BATCH_TOKENS.get(device, _DEFAULT_BATCH_TOKENS_ELSEWHERE)


def longest_first(lengths: np.ndarray) -> np.ndarray:
    """Return the numbers of sequences from the longest to the shortest, ties in their order."""
    return np.argsort(-lengths, kind="stable")


def batch_end(lengths: np.ndarray, start: int, budget: int) -> int:
    """Return where the batch ends that starts at ``start``.

    A batch of b sequences padded to its longest, T tokens, has b * T <= ``budget``, and at most
    4% of that is padding; a sequence longer than the budget is a batch of its own. Longest
    first, so that memory runs out at the start or not at all.

    Args:
        lengths: number of tokens of each sequence, special tokens included, descending, (N,).
        start: first sequence of the batch.
        budget: most tokens of a batch, padding included.
    """
    longest = int(lengths[start])
    candidates = lengths[start : start + max(1, budget // longest)]
    padded = longest * np.arange(1, len(candidates) + 1)
    # The shares ascend, since the lengths descend.
    padding = 1 - np.cumsum(candidates) / padded
    return start + int(np.searchsorted(padding, _MOST_PADDING, side="right"))


def pad(sequences: Sequence[np.ndarray], value: int) -> np.ndarray:
    """Stack 1-d arrays of unequal lengths into (B, T), filled up with ``value``."""
    padded = np.full((len(sequences), max(map(len, sequences))), value, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded
