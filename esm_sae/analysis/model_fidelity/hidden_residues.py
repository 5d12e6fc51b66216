"""Which proteins are looked at, and which of their residues the model has to predict."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.formats.fasta import read_at
from esm_sae.formats.sequence_index import scan_index
from esm_sae.split import Split, splits_of

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
HIDDEN_SHARE = 0.15


class Proteins(NamedTuple):
    """Proteins in the order of their file.

    Attributes:
        ids: their ids.
        sequences: their residues, in upper case.
    """

    ids: list[str]
    sequences: list[str]


def proteins_of(
    fasta: storage.PathLike,
    split: Split,
    clusters: dict[str, str],
    *,
    split_seed: int,
    most: int | None,
    max_length: int | None,
    seed: int,
) -> Proteins:
    """Return the proteins of a split, or some of them, those of least hash: a uniform draw.

    A larger draw holds all of a smaller one.

    Args:
        fasta: FASTA file.
        split: the split that is wanted.
        clusters: similarity cluster of each sequence id that has one.
        split_seed: of the split.
        most: most proteins; None takes all.
        max_length: residues after which a protein is cut off; None: none is.
        seed: of the draw.

    Raises:
        InputError: as ``read_fasta``.
    """
    index = scan_index(fasta).select("sequence_id", "offset").collect()
    ids = index["sequence_id"].to_list()
    numbers = np.flatnonzero(splits_of(ids, clusters, seed=split_seed) == split)
    if most is not None and len(numbers) > most:
        hashes = np.array([_hash(ids[number], seed) for number in numbers], dtype=np.uint64)
        numbers = np.sort(numbers[np.argsort(hashes, kind="stable")[:most]])
    records = read_at(fasta, index["offset"].to_numpy()[numbers])
    return Proteins(
        [ids[number] for number in numbers], [record.sequence[:max_length] for record in records]
    )


def hide_residues(
    sequence_ids: Sequence[str], sequences: Sequence[str], seed: int
) -> list[np.ndarray]:
    """Choose residues to hide: of each protein 15% of its standard amino acids, at least one.

    The choice depends on the protein's id, its residues and the seed alone. A protein with none
    of the 20 standard amino acids has nothing to hide.

    Args:
        sequence_ids: of the proteins.
        sequences: their residues, in upper case.
        seed: of the choice.

    Returns:
        For each protein the positions to hide, from 0, ascending, int64.
    """
    return [_hidden(*protein, seed) for protein in zip(sequence_ids, sequences, strict=True)]


def amino_acids_of(sequence: str) -> np.ndarray:
    """Return each residue's number in ``AMINO_ACIDS``, -1 for another letter, (L,) int64."""
    return _NUMBER_OF[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]


def _hidden(sequence_id: str, sequence: str, seed: int) -> np.ndarray:
    known = np.flatnonzero(amino_acids_of(sequence) >= 0)
    count = min(max(round(HIDDEN_SHARE * len(known)), 1), len(known))
    generator = np.random.default_rng([seed, _hash(sequence_id, seed)])
    return np.sort(generator.choice(known, count, replace=False)) if count else known


def _hash(sequence_id: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{sequence_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


_NUMBER_OF = np.full(256, -1, dtype=np.int64)
_NUMBER_OF[np.frombuffer(AMINO_ACIDS.encode(), dtype=np.uint8)] = np.arange(len(AMINO_ACIDS))
