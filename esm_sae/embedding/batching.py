"""Batches of sequences of like length, under a budget of tokens."""

from collections.abc import Iterator, Sequence

import numpy as np

# A GPU wants many tokens at a time; on a CPU more than these fall out of its caches.
_DEFAULT_BATCH_TOKENS = {"cuda": 65_536}
_DEFAULT_BATCH_TOKENS_ELSEWHERE = 4096

_MOST_PADDING = 0.04
# PAD that is not computed still takes memory beside the states of the others.
_MOST_PADDING_PACKED = 0.5


def default_batch_tokens(device: str) -> int:
    """Return the token budget for a kind of device, such as ``"cpu"`` or ``"cuda"``."""
    return _DEFAULT_BATCH_TOKENS.get(device, _DEFAULT_BATCH_TOKENS_ELSEWHERE)


def longest_first(lengths: np.ndarray) -> np.ndarray:
    """Return the numbers of sequences from the longest to the shortest, ties in their order."""
    return np.argsort(-lengths, kind="stable")


def batch_end(lengths: np.ndarray, start: int, budget: int, *, packed: bool = False) -> int:
    """Return where the batch ends that starts at ``start``.

    At most ``budget`` tokens of a batch are computed: b * T of b sequences padded to T, the
    longest, of which at most 4% are padding; or the sequences' own, packed, where at most half
    of b * T is padding. A sequence longer than the budget is a batch of its own. Longest first,
    so that memory runs out at the start or not at all.

    Args:
        lengths: number of tokens of each sequence, special tokens included, descending, (N,).
        start: first sequence of the batch.
        budget: most tokens that are computed in a batch.
        packed: whether the encoder does not compute PAD.
    """
    longest = int(lengths[start])
    most_padding = _MOST_PADDING_PACKED if packed else _MOST_PADDING
    most = int(budget / (1 - most_padding)) // longest
    own = np.cumsum(lengths[start : start + max(1, most)])
    padded = longest * np.arange(1, len(own) + 1)
    # Tokens and shares of padding ascend, since the lengths descend: what fits is at the front.
    fits = ((own if packed else padded) <= budget) & (1 - own / padded <= most_padding)
    return start + max(1, int(np.count_nonzero(fits)))


def batches(lengths: np.ndarray, budget: int, *, packed: bool) -> Iterator[np.ndarray]:
    """Yield the numbers of the sequences of each batch, longest first, as ``batch_end`` cuts them.

    Args:
        lengths: number of tokens of each sequence, special tokens included, in any order, (N,).
        budget: as in ``batch_end``.
        packed: as in ``batch_end``.
    """
    order, start = longest_first(lengths), 0
    descending = lengths[order]
    while start < len(order):
        end = batch_end(descending, start, budget, packed=packed)
        yield order[start:end]
        start = end


def computed_tokens(lengths: np.ndarray, *, packed: bool) -> int:
    """Return the tokens computed in a batch of sequences of these many, descending, (b,)."""
    return int(lengths.sum()) if packed else int(lengths[0]) * len(lengths)


def pad(sequences: Sequence[np.ndarray], value: int) -> np.ndarray:
    """Stack 1-d arrays of unequal lengths into (B, T), filled up with ``value``."""
    padded = np.full((len(sequences), max(map(len, sequences))), value, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded
