"""The amino acids behind residue rows."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_fasta
from esm_sae.formats.headers import parse_header

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def sequences_of(table: pl.DataFrame, fasta: storage.PathLike) -> pl.Series:
    """Return the sequence of each protein of a table, in its order.

    Args:
        table: columns ``sequence_id`` and ``length``.
        fasta: the file that was embedded.

    Raises:
        InputError: the file lacks a protein, has it with another length, or has two sequences of
            its id.
    """
    wanted = set(table["sequence_id"].to_list())
    found: dict[str, str] = {}
    for record in read_fasta(fasta):
        sequence_id = parse_header(record.header).sequence_id
        if sequence_id not in wanted:
            continue
        if found.setdefault(sequence_id, record.sequence) != record.sequence:
            raise InputError(
                f"{os.fspath(fasta)}: two proteins have the id {sequence_id}; give each its own"
            )
    for sequence_id, length in table.select("sequence_id", "length").iter_rows():
        if len(found.get(sequence_id, "")) != length:
            raise InputError(
                f"{os.fspath(fasta)}: has no protein {sequence_id} of {length} residues; give the "
                "FASTA file that was embedded"
            )
    sequences = [found[sequence_id] for sequence_id in table["sequence_id"]]
    return pl.Series("sequence", sequences, dtype=pl.String)


def residue_table(parts: Sequence[Path], sequences: pl.DataFrame, latents: int) -> pl.DataFrame:
    """Say on which amino acids each latent fires.

    Args:
        parts: files of activations in the order of rows: row, protein, position, latent.
        sequences: columns ``protein`` (0, 1, ...) and ``sequence``.
        latents: L.

    Returns:
        One row for each latent that fires: latent, top_residue (the letter that most of its
        firing residues are), top_residue_share (of its firing residues), top_residue_background
        (that letter's share of the residues on which any latent fires), residues (the 26 shares,
        A to Z). No row where a sequence is unknown.
    """
    counts = np.zeros((latents, len(LETTERS)), dtype=np.int64)
    background = np.zeros(len(LETTERS), dtype=np.int64)
    if sequences["sequence"].null_count() == 0:
        letters = ProteinLetters(sequences["sequence"])
        for path in parts:
            _add_counts(path, letters, counts, background)
    firing = np.flatnonzero(counts.sum(axis=1))
    shares = counts[firing] / counts[firing].sum(axis=1, keepdims=True)
    top = shares.argmax(axis=1)
    overall = background / max(background.sum(), 1)
    return pl.DataFrame(
        {
            "latent": firing.astype(np.uint32),
            "top_residue": pl.Series([LETTERS[letter] for letter in top], dtype=pl.String),
            "top_residue_share": shares.max(axis=1),
            "top_residue_background": overall[top],
            "residues": pl.Series(shares.tolist(), dtype=pl.List(pl.Float64)),
        }
    )


class ProteinLetters:
    """The letters of all proteins, one after the other: one byte a residue."""

    def __init__(self, sequences: pl.Series) -> None:
        # Cluster JSON may hold lower case, which would count as letters of other latents.
        text = "".join(sequences).upper().encode()
        self._text = np.frombuffer(text, dtype=np.uint8) - np.uint8(ord("A"))
        lengths = sequences.str.len_bytes().to_numpy().astype(np.int64)
        self._starts = np.cumsum(lengths) - lengths

    def at(self, proteins: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the letters, 0 for A, at positions (from 1) of proteins (by number), (N,)."""
        return self._text[self._starts[proteins] + positions - 1]


def _add_counts(
    path: Path, letters: ProteinLetters, counts: np.ndarray, background: np.ndarray
) -> None:
    entries = pl.read_parquet(path, columns=["row", "protein", "position", "latent"])
    fired = letters.at(entries["protein"].to_numpy(), entries["position"].to_numpy())
    keys = entries["latent"].to_numpy().astype(np.int64) * len(LETTERS) + fired
    counts += np.bincount(keys, minlength=counts.size).reshape(counts.shape)
    rows = entries["row"].to_numpy()
    first_of_row = np.concatenate([[True], rows[1:] != rows[:-1]])[: len(rows)]
    background += np.bincount(fired[first_of_row], minlength=len(LETTERS))
