"""From token states to rows: means over residues, and chosen residues."""

from collections.abc import Sequence

import numpy as np
import torch

_BOS = 1


def mean_of_residues(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Average each sequence's states over its residues, without BOS, EOS and PAD.

    Args:
        states: token states, (B, T, D).
        lengths: number of residues of each sequence, (B,).

    Returns:
        (B, D) float32.
    """
    position = torch.arange(states.shape[1], device=states.device)
    is_residue = (position >= _BOS) & (position < _BOS + lengths[:, None])
    summed = states.float().masked_fill(~is_residue[..., None], 0.0).sum(dim=1)
    return summed / lengths[:, None]


def rows_of_residues(states: torch.Tensor, positions: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the states of chosen residues, sequence by sequence.

    Args:
        states: token states, (B, T, D).
        positions: for each sequence its chosen residues, counted from 0.

    Returns:
        (R, D) float32, R the number of positions of all sequences.
    """
    tokens = states.shape[1]
    flat = np.concatenate(
        [number * tokens + _BOS + chosen for number, chosen in enumerate(positions)]
    )
    index = torch.from_numpy(flat).to(states.device)
    return states.flatten(0, 1)[index].float()
