"""Activations in sparse long form, and the maximum of each protein over its rows."""

import numpy as np
import polars as pl

from esm_sae.analysis.encoder import SparseEncoder
from esm_sae.errors import InputError

BATCH_ROWS = 4096


def encode_entries(sae: SparseEncoder, x: np.ndarray, first_row: int) -> pl.DataFrame:
    """Encode rows and return one entry per activation, in row order.

    Args:
        sae: the SAE.
        x: (N, D) float32.
        first_row: number of the first row.

    Returns:
        Columns ``row`` (int64), ``latent`` (uint32), ``activation`` (float32, above 0).

    Raises:
        InputError: an activation is NaN or infinite, so that a row or a weight is.
    """
    values, latents = (np.asarray(part) for part in sae.encode_sparse(x))
    if not np.isfinite(values).all():
        bad = first_row + int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise InputError(f"row {bad}: its activations are not finite; is the embedding damaged?")
    fired = values > 0
    return pl.DataFrame(
        {
            "row": first_row + np.nonzero(fired)[0],
            "latent": latents[fired].astype(np.uint32),
            "activation": values[fired].astype(np.float32),
        }
    )


def max_per_protein(entries: pl.DataFrame) -> pl.DataFrame:
    """Keep the strongest activation of each protein and latent, the first of equal ones.

    Args:
        entries: columns ``protein``, ``latent``, ``activation`` and any others.

    Returns:
        The same columns, one row per protein and latent, sorted by these.
    """
    protein = entries["protein"].to_numpy().astype(np.uint64)
    latent = entries["latent"].to_numpy().astype(np.uint64)
    activation = entries["activation"].to_numpy()
    # Sorting plain integers that carry the entry's number is several times faster than sorting
    # a table by three columns. Bits: proteins 17, latents 20, entries 27 are plenty for a part.
    entry_bits = max(len(entries) - 1, 1).bit_length()
    latent_bits = max(int(latent.max(initial=0)), 1).bit_length()
    lowest = protein.min(initial=np.iinfo(np.uint64).max)
    pair = ((protein - lowest) << np.uint64(latent_bits)) | latent
    if int(pair.max(initial=0)).bit_length() + entry_bits > 64:
        raise ValueError(f"{len(entries)} entries are too many at once")
    keys = np.sort((pair << np.uint64(entry_bits)) | np.arange(len(entries), dtype=np.uint64))
    order = (keys & np.uint64((1 << entry_bits) - 1)).astype(np.int64)
    starts = _starts_of_runs(keys >> np.uint64(entry_bits))
    strongest = np.maximum.reduceat(activation[order], starts) if len(order) else activation
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    is_strongest = np.flatnonzero(activation[order] == strongest[group])
    chosen = is_strongest[_starts_of_runs(group[is_strongest])]
    return entries[order[chosen]]


def _starts_of_runs(values: np.ndarray) -> np.ndarray:
    changes = np.ones(len(values), dtype=bool)
    changes[1:] = values[1:] != values[:-1]
    return np.flatnonzero(changes)


class ProteinCounter:
    """Numbers proteins in the order of rows, over slices that may cut one in two.

    A row of ``mean`` or ``unknown`` pooling is a protein of its own. Residue rows belong to one
    protein as ``protein_starts`` tells.
    """

    def __init__(self, *, residues: bool) -> None:
        self.count = 0
        self._residues = residues
        self._last: tuple[str, int] | None = None

    def number(self, index: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Number the rows of the next slice of the index.

        Returns:
            The protein of each row, (N,) int64, and whether a row is its protein's first.
        """
        first = np.ones(len(index), dtype=bool)
        if self._residues and len(index):
            first = protein_starts(index)
            ids, positions = index["sequence_id"], index["position"]
            if self._last is not None:
                first[0] = not (ids[0] == self._last[0] and positions[0] > self._last[1])
            self._last = (ids[-1], positions[-1])
        proteins = self.count - 1 + np.cumsum(first)
        self.count += int(first.sum())
        return proteins, first


def protein_starts(index: pl.DataFrame) -> np.ndarray:
    """Return which residue rows are the first of a protein, (N,) bool; the first row is one.

    Rows belong to one protein as long as the id stays and the position ascends.

    Args:
        index: columns ``sequence_id`` and ``position``.
    """
    ids, positions = index["sequence_id"], index["position"]
    follows = (ids == ids.shift(1)) & (positions > positions.shift(1))
    return ~follows.fill_null(False).to_numpy()
