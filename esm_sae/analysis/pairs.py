"""Pairs of a latent and a protein it fires on, sorted by latent on disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

# Row groups of the tables: small, so that few rows are read for one latent or one protein.
ROW_GROUP = 1 << 16

# No position is 0: they count from 1.
_PAIR = np.dtype(
    [("latent", "<u4"), ("protein", "<u4"), ("activation", "<f4"), ("position", "<i4")]
)
_PAIRS_AT_ONCE = 1 << 22


class PairSorter:
    """Sorts pairs that do not fit into memory: runs on disk, merged by ranges of latents.

    Memory: the pairs of one call of ``add``, then 4,194,304 pairs at a time (or all those of one
    latent, where they are more), about 100 bytes each. Disk: 16 bytes a pair, and the table once
    more, in a folder that is removed.

    Attributes:
        firing_proteins: pairs of each latent so far, (L,).
    """

    def __init__(self, folder: Path, latents: int) -> None:
        self.firing_proteins = np.zeros(latents, dtype=np.int64)
        self._folder = folder
        self._runs: list[Path] = []

    def __enter__(self) -> "PairSorter":
        # A killed build may have left some.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)

    def add(self, pairs: pl.DataFrame) -> None:
        """Add pairs: latent, protein, activation and position (or null), by protein.

        Proteins ascend, also from call to call.
        """
        latents = pairs["latent"].to_numpy()
        self.firing_proteins += np.bincount(latents, minlength=len(self.firing_proteins))
        run = np.empty(len(pairs), dtype=_PAIR)
        for name in ("latent", "protein", "activation"):
            run[name] = pairs[name].to_numpy()
        run["position"] = pairs["position"].fill_null(0).to_numpy()
        path = self._folder / f"run_{len(self._runs):05d}"
        run[_stable_order(latents, len(self.firing_proteins))].tofile(path)
        self._runs.append(path)

    def write(self, target: Path, sequence_ids: pl.Series) -> None:
        """Write the table: latent, protein, sequence_id, activation, position.

        Sorted by latent, then activation from high to low, then protein.

        Args:
            target: the parquet file.
            sequence_ids: id of each protein.
        """
        parts = []
        for pairs in self._by_latent():
            parts.append(self._folder / f"part_{len(parts):05d}.parquet")
            _as_table(pairs, sequence_ids).write_parquet(parts[-1], compression="lz4")
        pl.scan_parquet(parts).sink_parquet(
            target, row_group_size=ROW_GROUP, compression="zstd", compression_level=1
        )

    def _by_latent(self) -> Iterator[np.ndarray]:
        """Yield all pairs of one range of latents after the other, each range sorted."""
        runs = [np.memmap(path, dtype=_PAIR, mode="r") for path in self._runs if _has_bytes(path)]
        starts = [0] * len(runs)
        for end in _ends_of_ranges(self.firing_proteins):
            ends = [int(np.searchsorted(run["latent"], end)) for run in runs]
            pairs = np.concatenate(
                [np.empty(0, dtype=_PAIR)]
                + [run[start:end] for run, start, end in zip(runs, starts, ends, strict=True)]
            )
            starts = ends
            yield pairs[_by_latent_then_strength(pairs)]


def _as_table(pairs: np.ndarray, sequence_ids: pl.Series) -> pl.DataFrame:
    columns = {name: np.ascontiguousarray(pairs[name]) for name in _PAIR.names or ()}
    return pl.DataFrame(columns).select(
        "latent",
        "protein",
        sequence_ids.gather(columns["protein"]),
        "activation",
        position=pl.when(pl.col("position") > 0).then("position"),
    )


def _ends_of_ranges(counts: np.ndarray) -> list[int]:
    """Cut latents into ranges of at most _PAIRS_AT_ONCE pairs, or one latent; return their ends."""
    until = np.cumsum(counts)
    ends: list[int] = []
    start = done = 0
    while start < len(counts):
        fitting = int(np.searchsorted(until, done + _PAIRS_AT_ONCE, side="right"))
        start = max(fitting, start + 1)
        done = int(until[start - 1])
        ends.append(start)
    return ends


def _stable_order(latents: np.ndarray, count: int) -> np.ndarray:
    # NumPy sorts 16-bit integers by radix, some ten times faster than wider ones.
    keys = latents.astype(np.uint16) if count <= 1 << 16 else latents
    return np.argsort(keys, kind="stable")


def _by_latent_then_strength(pairs: np.ndarray) -> np.ndarray:
    # The bits of positive floats order as the floats do.
    weakness = np.uint64(0xFFFFFFFF) - np.ascontiguousarray(pairs["activation"]).view(np.uint32)
    keys = (pairs["latent"].astype(np.uint64) << np.uint64(32)) | weakness
    # Pairs of a latent are in the order of proteins: a stable sort keeps it among equals.
    return np.argsort(keys, kind="stable")


def _has_bytes(path: Path) -> bool:
    return path.stat().st_size > 0
