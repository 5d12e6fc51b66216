"""Features of the sequence alone: amino acids and pairs of neighbours."""

from collections.abc import Iterator, Sequence

import numpy as np

from esm_sae.analysis.concepts.baseline_features import Block

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"

_SINGLES, _PAIRS = len(AMINO_ACIDS), len(AMINO_ACIDS) ** 2

# With both signs.
COMPOSITION_FEATURES = 2 * (_SINGLES + _PAIRS)
LETTER_FEATURES = 2 * (_SINGLES + 2 * _PAIRS)


def composition(sequences: Sequence[str]) -> Block:
    """Return the shares of 20 amino acids and 400 pairs of neighbours, and their negatives.

    Letters that stand for no single amino acid, and pairs with them, count nowhere.
    """
    shares = np.empty((len(sequences), _SINGLES + _PAIRS), dtype=np.float32)
    for row, sequence in zip(shares, sequences, strict=True):
        codes = _codes(sequence)
        row[:_SINGLES] = _shares(codes, _SINGLES)
        row[_SINGLES:] = _shares(_pairs(codes[:-1], codes[1:]), _PAIRS)
    return Block(np.concatenate([shares, -shares], axis=1), np.arange(2 * shares.shape[1]))


def letters(
    sequences: Sequence[str], protein: np.ndarray, positions: np.ndarray
) -> Iterator[Block]:
    """Yield which amino acid a residue is and which pairs it is in, 1 or 0, and the negatives.

    20 amino acids, 400 pairs with the residue before, 400 with the one behind, a block each.

    Args:
        sequences: of all proteins.
        protein: number of each residue's protein, (U,).
        positions: of each residue in its protein, from 1, (U,).
    """
    codes = _codes(f"-{'-'.join(sequences)}-")
    lengths = np.array([len(sequence) + 1 for sequence in sequences], dtype=np.int64)
    at = (np.cumsum(lengths) - lengths)[protein] + positions
    before, own, behind = codes[at - 1], codes[at], codes[at + 1]
    groups = ((own, _SINGLES), (_pairs(before, own), _PAIRS), (_pairs(own, behind), _PAIRS))
    count, first = sum(size for _, size in groups), 0
    for found, size in groups:
        known = np.flatnonzero(found >= 0)
        values = np.zeros((len(at), 2 * size), dtype=np.float32)
        values[known, found[known]] = 1
        values[:, size:] = -values[:, :size]
        numbers = first + np.arange(size)
        yield Block(values, np.concatenate([numbers, count + numbers]))
        first += size


def _codes(sequence: str) -> np.ndarray:
    number_of = np.full(256, -1)
    number_of[list(AMINO_ACIDS.encode())] = np.arange(_SINGLES)
    return number_of[np.frombuffer(sequence.upper().encode(), dtype=np.uint8)]


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.where((first >= 0) & (second >= 0), first * _SINGLES + second, -1)


def _shares(codes: np.ndarray, size: int) -> np.ndarray:
    known = codes[codes >= 0]
    return np.bincount(known, minlength=size) / max(len(known), 1)
