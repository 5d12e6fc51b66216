"""Which rows are trained on and which are held out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import is_recorded, read_manifest
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.recorded_split import record_of_split
from esm_sae.split import read_similarity_clusters, splits_of


@dataclass(frozen=True)
class RowRuns:
    """Ascending row numbers, kept as runs of consecutive ones: 16 bytes per run, not per row.

    The residues of a protein are one run, or part of one.

    Attributes:
        starts: (R,) int64, the first row of each run.
        places: (R + 1,) int64, how many of the rows come before each run, and their number.
    """

    starts: np.ndarray
    places: np.ndarray

    @classmethod
    def between(cls, starts: np.ndarray, stops: np.ndarray) -> "RowRuns":
        """Return the rows of the ranges from starts to stops, (R,) each, ascending and apart.

        Ranges that meet become one run.
        """
        apart = starts[1:] != stops[:-1]
        starts = np.concatenate([starts[:1], starts[1:][apart]]).astype(np.int64)
        stops = np.concatenate([stops[:-1][apart], stops[-1:]]).astype(np.int64)
        return cls(starts, np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64))

    @classmethod
    def of(cls, rows: np.ndarray) -> "RowRuns":
        """Return the given row numbers, (n,), each larger than the one before."""
        return cls.between(rows, rows + 1)

    @classmethod
    def all(cls, count: int) -> "RowRuns":
        """Return the rows 0 to count - 1."""
        return cls.between(np.array([0]), np.array([count]))

    def __len__(self) -> int:
        return int(self.places[-1])

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the row numbers at the given places, 0 to ``len(self) - 1``, as int64."""
        run = np.searchsorted(self.places, places, side="right") - 1
        return self.starts[run] + (places - self.places[run])

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield all row numbers, ascending, ``size`` at a time; the last block may be short."""
        for start in range(0, len(self), size):
            yield self.at(np.arange(start, min(start + size, len(self))))

    def evenly_spaced(self, most: int) -> np.ndarray:
        """Return at most ``most`` of the row numbers, evenly spaced from the first to the last."""
        count = min(most, len(self))
        return self.at(np.linspace(0, len(self) - 1, count).astype(np.int64))


@dataclass(frozen=True)
class SplitRows:
    """The rows of each split.

    Attributes:
        train: rows that weights, mean and scale may see.
        validation: rows for choices between trainings.
        test: rows that only the final evaluation sees.
    """

    train: RowRuns
    validation: RowRuns
    test: RowRuns


@dataclass(frozen=True)
class SplitChoice:
    """What decides the split of a protein.

    Attributes:
        similarity_clusters: table of similarity clusters, ``"bundled"``, or None where each
            protein is its own cluster.
        seed: seed of the split.
    """

    similarity_clusters: storage.PathLike | None
    seed: int

    def record(self) -> dict[str, Any]:
        """Return the seed and the table's hash, for manifests and configs."""
        return record_of_split(self.similarity_clusters, self.seed)


def split_rows(shards: EmbeddingShards, choice: SplitChoice) -> SplitRows:
    """Split the rows by the similarity cluster of their proteins.

    While it runs it holds the table of similarity clusters and the protein ids of one shard in
    memory; of a bare matrix, whose rows have an id of their own each, 9 bytes per row.

    Raises:
        InputError: the shards' row tables are damaged or do not match their matrices, or no row
            is left to train on.
    """
    _require_intact_tables(shards)
    known = choice.similarity_clusters
    clusters = None if known is None else read_similarity_clusters(known)
    parts = [
        _split_shard(shards, shard, clusters, choice.seed) for shard in range(len(shards.paths))
    ]
    starts, codes = (np.concatenate(part) for part in zip(*parts, strict=True))
    stops = np.append(starts[1:], shards.rows)
    rows = {
        name: RowRuns.between(starts[codes == code], stops[codes == code])
        for code, name in enumerate(_NAMES)
    }
    if not len(rows["train"]):
        raise InputError(
            f"{shards.directory}: none of its proteins falls into the training split; embed more "
            "proteins or give another split seed"
        )
    return SplitRows(**rows)


def read_rows(shards: EmbeddingShards, rows: np.ndarray) -> np.ndarray:
    """Return rows by number as (n, D) float32, after checking that they are numbers.

    Raises:
        InputError: a row holds NaN or infinity.
    """
    block = shards.rows_at(rows)
    finite = np.isfinite(block)
    if not finite.all():
        row = int(rows[np.argmin(finite.all(axis=1))])
        shard = int(np.searchsorted(shards.offsets, row, side="right")) - 1
        raise InputError(
            f"{shards.paths[shard]}: row {row - int(shards.offsets[shard])} holds NaN or "
            "infinity; embed this shard again"
        )
    return block


def _split_shard(
    shards: EmbeddingShards, shard: int, clusters: Mapping[str, str] | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return where in a shard's rows another split begins, and the split's number in _NAMES."""
    path, matrix = shards.paths[shard], shards.arrays[shard]
    if not shards.has_index:
        return _split_bare(path, len(matrix), int(shards.offsets[shard]), clusters, seed)
    alone = replace(shards, paths=[path], arrays=[matrix])
    proteins = alone.index.select(pl.col("sequence_id").rle()).unnest("sequence_id").collect()
    lengths = proteins["len"].to_numpy().astype(np.int64)
    if lengths.sum() != len(matrix):
        raise InputError(
            f"{path}: has {len(matrix)} rows, its row table {lengths.sum()}; embed this shard again"
        )
    codes = _codes(proteins["value"].to_list(), clusters, seed)
    starts = shards.offsets[shard] + np.cumsum(lengths) - lengths
    return _changes(starts, codes)


def _split_bare(
    path: Path, rows: int, offset: int, clusters: Mapping[str, str] | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same of a bare matrix, whose rows are named ``file:row``, block by block."""
    codes = np.empty(rows, dtype=np.uint8)
    for start in range(0, rows, _BARE_ROWS_PER_BLOCK):
        block = range(start, min(start + _BARE_ROWS_PER_BLOCK, rows))
        names = [f"{path.stem}:{row}" for row in block]
        codes[start : block.stop] = _codes(names, clusters, seed)
    return _changes(np.arange(offset, offset + rows), codes)


def _codes(ids: Sequence[str], clusters: Mapping[str, str] | None, seed: int) -> np.ndarray:
    return np.searchsorted(_NAMES, splits_of(ids, clusters, seed=seed)).astype(np.uint8)


def _changes(starts: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    changes = np.append(True, codes[1:] != codes[:-1])
    return starts[changes], codes[changes]


def _require_intact_tables(shards: EmbeddingShards) -> None:
    for path in shards.paths if shards.has_index else []:
        table, manifest = path.with_suffix(".parquet"), read_manifest(path.with_suffix(".json"))
        if manifest is None or table.name not in manifest.files:
            continue
        if not is_recorded(table, manifest):
            raise InputError(
                f"{table}: its bytes differ from those its manifest records; embed this shard again"
            )


_BARE_ROWS_PER_BLOCK = 65_536
# In alphabetical order, for searchsorted.
_NAMES = ("test", "train", "validation")
