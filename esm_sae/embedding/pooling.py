"""From token states to rows."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from esm_sae.embedding.tokens import BOS_TOKENS

Range = tuple[int, int]


def pool(states: torch.Tensor, owned: Sequence[Range], pooling: str) -> torch.Tensor:
    """Return one row per sequence of a batch.

    Of all states but BOS only those of the given residues count: no other residue, EOS or PAD.
    Each sequence is pooled by itself, so that its row does not depend on the batch's padding.

    Args:
        states: token states, (B, T, D).
        owned: for each sequence the residues that count: the first, from 0, and the end.
        pooling: ``"mean"``, ``"max"``, ``"last"`` or ``"bos"``.

    Returns:
        (B, D) float32.
    """
    if pooling == "bos":
        return states[:, 0].float()
    reduce = _REDUCTIONS[pooling]
    rows = [
        reduce(sequence[BOS_TOKENS + start : BOS_TOKENS + end])
        for sequence, (start, end) in zip(states, owned, strict=True)
    ]
    return torch.stack(rows)


def states_of_residues(states: torch.Tensor, positions: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the states of chosen residues, sequence by sequence.

    Args:
        states: token states, (B, T, D).
        positions: for each sequence its chosen residues, counted from 0.

    Returns:
        (R, D) float32, R the number of positions of all sequences.
    """
    tokens = states.shape[1]
    flat = np.concatenate(
        [number * tokens + BOS_TOKENS + chosen for number, chosen in enumerate(positions)]
    )
    index = torch.from_numpy(flat).to(states.device)
    return states.flatten(0, 1)[index].float()


def combine(parts: np.ndarray, weights: np.ndarray, pooling: str) -> np.ndarray:
    """Return the row of a sequence from the rows of its windows, in float64.

    ``mean``, ``max`` and ``last`` are those of the whole sequence; ``bos`` is the mean of the
    windows' BOS states.

    Args:
        parts: the windows' rows in the sequence's order, (W, D).
        weights: number of residues in each that count, (W,).
        pooling: as in ``pool``.
    """
    if pooling == "last":
        return parts[-1].astype(np.float64)
    if pooling == "max":
        return parts.max(axis=0).astype(np.float64)
    weights = weights if pooling == "mean" else np.ones(len(parts))
    return np.average(parts.astype(np.float64), axis=0, weights=weights)


_REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda residues: residues.mean(dim=0, dtype=torch.float32),
    "max": lambda residues: residues.amax(dim=0).float(),
    "last": lambda residues: residues[-1].float(),
}
