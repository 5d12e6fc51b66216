"""Which rows are trained on and which are held out, and the order of an epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import is_recorded, read_manifest
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.split import read_similarity_clusters, similarity_clusters_path, splits_of


@dataclass(frozen=True)
class SplitRows:
    """Row numbers of each split, ascending, int64: 8 bytes of memory per row.

    Attributes:
        train: rows that weights, mean and scale may see.
        validation: rows for choices between trainings.
        test: rows that only the final evaluation sees.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


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
        clusters = self.similarity_clusters
        return {
            "seed": self.seed,
            "similarity_clusters": None
            if clusters is None
            else storage.sha256_of(similarity_clusters_path(clusters)),
        }


def split_rows(shards: EmbeddingShards, choice: SplitChoice) -> SplitRows:
    """Split the rows by the similarity cluster of their proteins.

    While it runs it holds the protein ids of all rows in memory.

    Raises:
        InputError: the shards' row tables are damaged or do not match their matrices, or no row
            is left to train on.
    """
    _require_intact_tables(shards)
    ids = shards.index.select("sequence_id").collect()["sequence_id"]
    if len(ids) != shards.rows:
        raise InputError(
            f"{shards.directory}: {len(ids)} rows in the row tables for {shards.rows} rows in the "
            "matrices; embed again"
        )
    proteins = ids.unique(maintain_order=True)
    known = choice.similarity_clusters
    clusters = None if known is None else read_similarity_clusters(known)
    splits = splits_of(proteins.to_list(), clusters, seed=choice.seed)
    codes = np.searchsorted(_NAMES, splits).astype(np.uint8)
    of_row = ids.replace_strict(
        proteins, pl.Series(codes, dtype=pl.UInt8), return_dtype=pl.UInt8
    ).to_numpy()
    rows = {name: np.flatnonzero(of_row == code) for code, name in enumerate(_NAMES)}
    if not len(rows["train"]):
        raise InputError(
            f"{shards.directory}: none of its {len(proteins)} proteins falls into the training "
            "split; embed more proteins or give another split seed"
        )
    return SplitRows(**rows)


def epoch_order(rows: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return the rows in the order of an epoch: each once, shuffled over all shards.

    The order is a function of seed and epoch alone, so that a resumed training goes on as the
    uninterrupted one would. It takes 8 bytes of memory per row.
    """
    return np.random.default_rng([seed, epoch]).permutation(rows)


def training_batches(
    shards: EmbeddingShards, order: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows in the given order as ``(rows (B, D) float32, mask (B,) float32)``.

    The last batch, too, has B rows: those past the end are 0 and have mask 0.
    """
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = np.zeros((batch_size, shards.width), dtype=np.float32)
        rows[: len(chosen)] = shards.rows_at(chosen)
        mask = np.zeros(batch_size, dtype=np.float32)
        mask[: len(chosen)] = 1
        yield rows, mask


def read_rows(shards: EmbeddingShards, rows: np.ndarray) -> np.ndarray:
    """Return rows by number as (n, D) float32, after checking that they are numbers.

    Raises:
        InputError: a row holds NaN or infinity.
    """
    block = shards.rows_at(rows)
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        row = int(rows[np.argmin(finite)])
        shard = int(np.searchsorted(shards.offsets, row, side="right")) - 1
        raise InputError(
            f"{shards.paths[shard]}: row {row - int(shards.offsets[shard])} holds NaN or "
            "infinity; embed this shard again"
        )
    return block


def evenly_spaced(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _require_intact_tables(shards: EmbeddingShards) -> None:
    for path in shards.paths if shards.has_index else []:
        table, manifest = path.with_suffix(".parquet"), read_manifest(path.with_suffix(".json"))
        if manifest is None or table.name not in manifest.files:
            continue
        if not is_recorded(table, manifest):
            raise InputError(
                f"{table}: its bytes differ from those its manifest records; embed this shard again"
            )


# In alphabetical order, for searchsorted.
_NAMES = ("test", "train", "validation")
