"""Filling matrices with the rows of many sequences, batch by batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from esm_sae.embedding.encoders import Encoder, rows_of
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.tokens import SPECIAL_TOKENS
from esm_sae.errors import InputError
from esm_sae.progress import progress

_NAMED = 3


class Embedded(NamedTuple):
    """Counts of what was embedded.

    Attributes:
        residues: residues that went through the encoder.
        truncated: sequences that were cut off at the greatest length.
        unknown_letters: residues whose letter the encoder does not know, read as X.
        padding_share: share of the computed tokens that were PAD.
    """

    residues: int
    truncated: int
    unknown_letters: int
    padding_share: float


def fill_rows(
    sequences: Sequence[str],
    ids: Sequence[str],
    encoder: Encoder,
    options: EmbeddingOptions,
    *,
    means: np.ndarray,
    residues: np.ndarray | None = None,
    positions: Sequence[np.ndarray] | None = None,
    description: str,
) -> Embedded:
    """Embed sequences into matrices, whose rows are in the order of the sequences.

    Args:
        sequences: N amino-acid sequences; longer ones than the options allow are cut off.
        ids: their ids, for errors.
        encoder: the encoder.
        options: layer, greatest length and token budget.
        means: gets the mean of each sequence, (N, D).
        residues: gets the rows of chosen residues, one sequence after the other, (R, D).
        positions: for each sequence the residues chosen, counted from 0; R in all.
        description: of the progress.

    Raises:
        InputError: an embedding is not finite; the sequences are named.
    """
    used = [sequence[: options.max_length] for sequence in sequences]
    total = sum(map(len, used))
    sizes = np.array([len(chosen) for chosen in positions or ()], dtype=np.int64)
    first_row = np.concatenate([[0], np.cumsum(sizes)])
    computed = 0
    with progress(total, unit="residues", description=description) as shown:
        for batch in encoder.batches(
            used, layer=options.layer, batch_tokens=options.batch_tokens, positions=positions
        ):
            _store(means, batch.numbers, batch.means, batch.numbers, ids)
            if residues is not None and batch.residues is not None:
                where = rows_of(batch.numbers, first_row)
                owners = np.repeat(batch.numbers, sizes[batch.numbers])
                _store(residues, where, batch.residues, owners, ids)
            computed += batch.tokens
            shown.update(sum(len(used[number]) for number in batch.numbers))
    vocabulary = encoder.backbone.vocabulary
    return Embedded(
        residues=total,
        truncated=sum(len(cut) < len(whole) for cut, whole in zip(used, sequences, strict=True)),
        unknown_letters=sum(vocabulary.encode(sequence).unknown for sequence in used),
        padding_share=round(1 - (total + SPECIAL_TOKENS * len(used)) / computed, 4),
    )


def create_matrix(path: Path, rows: int, width: int, dtype: str = "float32") -> np.memmap:
    """Create a ``.npy`` file that is filled in place, so that memory stays bounded."""
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=(rows, width))


def _store(
    target: np.ndarray,
    where: np.ndarray,
    rows: np.ndarray,
    owners: np.ndarray,
    ids: Sequence[str],
) -> None:
    with np.errstate(over="ignore"):
        values = rows.astype(target.dtype)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        names = [ids[int(number)] for number in np.unique(owners[~finite])]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise InputError(
            f"embeddings of {', '.join(names[:_NAMED])}{more} are not finite in {target.dtype}; "
            "try float32 for precision and dtype, else the weights are at fault"
        )
    target[where] = values
