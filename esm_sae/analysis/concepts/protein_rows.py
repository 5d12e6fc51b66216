"""Which embedding rows belong to which protein, and what a protein's rows have at most."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from esm_sae.analysis.encoder import EmbeddingRows
from esm_sae.analysis.entries import BATCH_ROWS, ProteinCounter
from esm_sae.errors import InputError

_INDEX_ROWS = 262_144


@dataclass(frozen=True)
class ProteinRows:
    """The proteins of embedding rows; the rows of each are consecutive.

    Attributes:
        ids: sequence_id of each protein, P of them.
        lengths: residues of each protein, null where that is not known.
        starts: first row of each protein, and the number of rows at the end, (P + 1,) int64.
    """

    ids: pl.Series
    lengths: pl.Series
    starts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Number of rows of each protein, (P,)."""
        return np.diff(self.starts)

    @property
    def protein_of_row(self) -> np.ndarray:
        """Number of each row's protein, (N,) int64."""
        return np.repeat(np.arange(len(self.ids)), self.sizes)


@dataclass(frozen=True)
class RowUnits:
    """What bears concepts, of chosen proteins: the proteins themselves, or their rows.

    Attributes:
        rows: the embedding rows.
        proteins: which of them belong to which protein.
        chosen: which proteins, (P,) bool.
        by_row: whether each row is a unit, else each protein is.
    """

    rows: EmbeddingRows
    proteins: ProteinRows
    chosen: np.ndarray
    by_row: bool

    @property
    def mask(self) -> np.ndarray:
        """Which of all units these are, bool."""
        return np.repeat(self.chosen, self.proteins.sizes) if self.by_row else self.chosen

    @property
    def count(self) -> int:
        """U, the number of units."""
        return int(self.proteins.sizes[self.chosen].sum() if self.by_row else self.chosen.sum())

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows (n, D) float32 in order, and the unit of each, (n,) int64 from 0 to U - 1.

        Raises:
            InputError: one of these rows holds NaN or infinity.
        """
        starts, done = self.proteins.starts, 0
        place_of = np.cumsum(self.chosen) - 1
        for first, x in self.rows.batches(BATCH_ROWS):
            numbers = np.arange(first, first + len(x))
            protein = np.searchsorted(starts, numbers, side="right") - 1
            wanted = self.chosen[protein]
            if not wanted.any():
                continue
            x, numbers, protein = x[wanted], numbers[wanted], protein[wanted]
            _require_finite(self.rows, x, numbers)
            yield x, np.arange(done, done + len(x)) if self.by_row else place_of[protein]
            done += len(x)

    def extremes(self, features: Callable[[np.ndarray], np.ndarray], *, signed: bool) -> np.ndarray:
        """Return each unit's largest value of each feature over its rows.

        Args:
            features: turns (n, D) rows into (n, F).
            signed: whether the negatives of the features follow behind them.

        Returns:
            (U, F) float32, or (U, 2F).
        """
        values = np.empty((self.count, 0), dtype=np.float32)
        for x, unit in self.batches():
            found, firsts = features(x), np.flatnonzero(np.diff(unit, prepend=-1))
            if not values.shape[1]:
                shape = (len(values), found.shape[1] * (1 + signed))
                values = np.full(shape, -np.inf, dtype=np.float32)
            # The units of a batch are neighbours, the first perhaps begun in the one before.
            block = values[unit[0] : unit[-1] + 1]
            largest = [np.maximum.reduceat(found, firsts, axis=0)]
            if signed:
                largest.append(-np.minimum.reduceat(found, firsts, axis=0))
            np.maximum(block, np.concatenate(largest, axis=1), out=block)
        return values

    def means(self) -> np.ndarray:
        """Return the mean of each unit's rows, (U, D) float32."""
        sums = np.zeros((self.count, self.rows.width), dtype=np.float32)
        for x, unit in self.batches():
            firsts = np.flatnonzero(np.diff(unit, prepend=-1))
            sums[unit[0] : unit[-1] + 1] += np.add.reduceat(x, firsts, axis=0)
        sizes = 1 if self.by_row else self.proteins.sizes[self.chosen][:, None]
        return (sums / sizes).astype(np.float32)


def proteins_in(rows: EmbeddingRows) -> ProteinRows:
    """Read from the index which rows belong to which protein.

    Memory: the ids, 12 bytes a protein beside them, and 262,144 rows of the index.
    """
    counter = ProteinCounter(residues=rows.provenance.pooling == "residue")
    tables, starts = [], []
    for start in range(0, rows.rows, _INDEX_ROWS):
        index = rows.index.slice(start, _INDEX_ROWS).collect()
        _, first = counter.number(index)
        tables.append(index.filter(first).select("sequence_id", "length"))
        starts.append(start + np.flatnonzero(first))
    table = pl.concat(tables)
    return ProteinRows(
        table["sequence_id"], table["length"], np.concatenate([*starts, [rows.rows]])
    )


def name_of(rows: EmbeddingRows) -> str:
    """Return what to call rows in an error."""
    return os.fspath(getattr(rows, "directory", "embeddings"))


def evenly_spaced_rows(units: RowUnits, most: int) -> np.ndarray:
    """Return at most ``most`` of the units' rows, evenly spaced, (n, D) float32."""
    total = int(units.proteins.sizes[units.chosen].sum())
    wanted = np.linspace(0, total - 1, min(most, total)).astype(np.int64)
    sample = np.empty((len(wanted), units.rows.width), dtype=np.float32)
    done = 0
    for x, _ in units.batches():
        first, last = np.searchsorted(wanted, [done, done + len(x)])
        sample[first:last] = x[wanted[first:last] - done]
        done += len(x)
    return sample


def _require_finite(rows: EmbeddingRows, x: np.ndarray, numbers: np.ndarray) -> None:
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        row = numbers[np.argmin(finite)]
        raise InputError(f"{name_of(rows)}: row {row} holds NaN or infinity; embed it again")
