"""Which residues of a protein become rows, and which rows those are."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esm_sae.embedding.windows import Pieces


@dataclass(frozen=True)
class ResidueRows:
    """Rows that are residues, one sequence after the other, ascending in each.

    Attributes:
        positions: residue of each row, counted from 0 in the whole sequence, (R,) int32.
        counts: number of rows of each sequence, (N,).
    """

    positions: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def sequences(self) -> np.ndarray:
        """Number of the sequence of each row, (R,)."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)

    def of_pieces(self, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
        """Return the first row of each piece's own residues and the end of them, (P,) each."""
        keys = _keys(self.sequences, self.positions)
        return (
            np.searchsorted(keys, _keys(pieces.sequence, pieces.own_start)),
            np.searchsorted(keys, _keys(pieces.sequence, pieces.own_end)),
        )


def all_residues(lengths: np.ndarray) -> ResidueRows:
    """Return the rows of all residues of sequences of the given lengths."""
    counts = np.asarray(lengths, dtype=np.int64)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return ResidueRows((np.arange(len(starts)) - starts).astype(np.int32), counts)


def drawn_residues(
    lengths: np.ndarray, wanted: int | None, *, ids: Sequence[str], seed: int
) -> ResidueRows:
    """Return the rows that ``chosen_positions`` draws of each sequence; None takes all."""
    if wanted is None:
        return all_residues(lengths)
    chosen = [
        chosen_positions(length, wanted, sequence_id=sequence_id, seed=seed)
        for sequence_id, length in zip(ids, np.asarray(lengths).tolist(), strict=True)
    ]
    counts = np.array([len(positions) for positions in chosen], dtype=np.int64)
    return ResidueRows(np.concatenate(chosen).astype(np.int32), counts)


def chosen_positions(length: int, wanted: int, *, sequence_id: str, seed: int) -> np.ndarray:
    """Return the residues of a protein that become rows, counted from 0, ascending.

    The choice depends on seed, id and length alone, so that it is the same however the proteins
    are split into shards.

    Args:
        length: number of residues there are.
        wanted: number of residues to draw without replacement; too many takes all.
        sequence_id: id of the protein.
        seed: of the draw.
    """
    if wanted >= length:
        return np.arange(length)
    digest = hashlib.blake2b(f"{seed}:{sequence_id}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    return np.sort(generator.choice(length, size=wanted, replace=False))


def spread(rows: np.ndarray, target: np.ndarray, firsts: np.ndarray, ends: np.ndarray) -> None:
    """Write rows, one contiguous run after the other, to where each run belongs in ``target``.

    Args:
        rows: the rows of all runs, (R, D).
        target: matrix they go into, (M, D).
        firsts: first row of each run in the target, (b,).
        ends: end of each run, (b,).
    """
    start = 0
    for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
        target[first:end] = rows[start : start + end - first]
        start += end - first


def _keys(sequences: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return (sequences.astype(np.int64) << 32) + positions
