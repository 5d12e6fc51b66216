"""Masked-residue prediction: the rows a small ESM-C is trained on, and its masks.

Proteins in shuffled order, each as BOS, residues, EOS, are laid end to end and cut into rows of
equal width. A row says which protein each of its tokens is of, and attention stays within a
protein; so there is no padding, and an epoch shows every residue once, but for a last row that
would be short.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"

# Of the residues to predict: shares that are hidden, and replaced by another (the rest is shown
# as it is). Devlin et al. 2019, arXiv 1810.04805, section 3.1.
_HIDDEN, _REPLACED = 0.8, 0.1


class Rows(NamedTuple):
    """Rows of tokens.

    Attributes:
        tokens: token ids, (R, T) int64.
        proteins: which protein a token is of, (R, T) int64.
    """

    tokens: np.ndarray
    proteins: np.ndarray


class Masked(NamedTuple):
    """Rows with residues to predict.

    Attributes:
        tokens: what the model sees, (R, T) int64.
        proteins: which protein a token is of, (R, T) int64.
        where: places of the residues to predict among all tokens, (M,) int64.
        residues: token ids of these residues, (M,) int64.
    """

    tokens: np.ndarray
    proteins: np.ndarray
    where: np.ndarray
    residues: np.ndarray


@dataclass(frozen=True)
class Alphabet:
    """Token ids that masking needs.

    Attributes:
        residues: those of the 20 amino acids, in the order of ``AMINO_ACIDS``, (20,) int64.
        mask: that of the mask token.
    """

    residues: np.ndarray
    mask: int


def pack(proteins: Sequence[np.ndarray], order: np.ndarray, width: int) -> Rows:
    """Lay tokenised proteins end to end and cut them into rows.

    Args:
        proteins: token ids of each protein.
        order: numbers of the proteins, in the order in which they are laid.
        width: T, tokens of a row; what is left at the end is dropped.
    """
    tokens = np.concatenate([proteins[number] for number in order])
    owners = np.repeat(order, [len(proteins[number]) for number in order])
    rows = len(tokens) // width
    return Rows(
        tokens[: rows * width].reshape(rows, width), owners[: rows * width].reshape(rows, width)
    )


def training_batches(
    proteins: Sequence[np.ndarray],
    *,
    width: int,
    rows: int,
    share: float,
    alphabet: Alphabet,
    seed: int,
    first: int = 0,
) -> Iterator[Masked]:
    """Yield masked batches without end, epoch after epoch, from batch ``first`` on.

    A batch depends on its number and the seed alone, so that training can be resumed at any.

    Args:
        proteins: token ids of each protein.
        width: T, tokens of a row.
        rows: R, rows of a batch.
        share: of the residues, how many are to be predicted.
        alphabet: token ids.
        seed: of the order and the masks.
        first: number of the first batch.
    """
    tokens = sum(map(len, proteins))
    per_epoch = tokens // width // rows
    epoch, skipped = divmod(first, per_epoch)
    while True:
        generator = np.random.default_rng([seed, epoch])
        packed = pack(proteins, generator.permutation(len(proteins)), width)
        chosen = generator.permutation(len(packed.tokens))
        for batch in range(skipped, per_epoch):
            numbers = chosen[batch * rows : (batch + 1) * rows]
            yield mask_for_training(
                Rows(packed.tokens[numbers], packed.proteins[numbers]),
                share,
                alphabet,
                np.random.default_rng([seed, epoch, batch + 1]),
            )
        epoch, skipped = epoch + 1, 0


def mask_for_training(
    rows: Rows, share: float, alphabet: Alphabet, generator: np.random.Generator
) -> Masked:
    """Choose residues to predict; most are hidden, some replaced, some shown as they are."""
    chosen = _choose(rows, share, alphabet, generator)
    fate = generator.random(rows.tokens.shape)
    others = generator.choice(alphabet.residues, rows.tokens.shape)
    tokens = np.where(chosen & (fate < _HIDDEN), alphabet.mask, rows.tokens)
    replaced = chosen & (fate >= _HIDDEN) & (fate < _HIDDEN + _REPLACED)
    return _masked(rows, np.where(replaced, others, tokens), chosen)


def mask_for_testing(
    rows: Rows, share: float, alphabet: Alphabet, generator: np.random.Generator
) -> Masked:
    """Choose residues to predict and hide all of them."""
    chosen = _choose(rows, share, alphabet, generator)
    return _masked(rows, np.where(chosen, alphabet.mask, rows.tokens), chosen)


def _choose(
    rows: Rows, share: float, alphabet: Alphabet, generator: np.random.Generator
) -> np.ndarray:
    known = np.isin(rows.tokens, alphabet.residues)
    return known & (generator.random(rows.tokens.shape) < share)


def _masked(rows: Rows, shown: np.ndarray, chosen: np.ndarray) -> Masked:
    where = np.flatnonzero(chosen)
    return Masked(shown, rows.proteins, where, rows.tokens.flatten()[where])
