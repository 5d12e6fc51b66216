"""The rows that no training saw, and the activations of several SAEs on them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from esm_sae import storage
from esm_sae.analysis.encoder import EmbeddingRows, SparseEncoder
from esm_sae.analysis.entries import BATCH_ROWS, encode_entries
from esm_sae.analysis.latents.correlation import LatentColumns, latent_columns
from esm_sae.errors import InputError
from esm_sae.progress import progress
from esm_sae.split import read_similarity_clusters, splits_of

_INDEX_ROWS = 1 << 20


def held_out_rows(
    rows: EmbeddingRows,
    most: int,
    *,
    similarity_clusters: storage.PathLike | None,
    split_seed: int,
) -> tuple[np.ndarray, int]:
    """Return numbers of at most ``most`` rows of validation and test proteins, evenly spaced.

    Memory: the ids of 1,048,576 rows, a byte for each row, the table of similarity clusters.

    Args:
        rows: the embedding rows.
        most: how many at most.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"`` or None.
        split_seed: of the split.

    Returns:
        The numbers, ascending, and of how many they were taken.

    Raises:
        InputError: no protein is held out.
    """
    known = None if similarity_clusters is None else read_similarity_clusters(similarity_clusters)
    held_out = np.zeros(rows.rows, dtype=bool)
    for start in range(0, rows.rows, _INDEX_ROWS):
        ids = rows.index.slice(start, _INDEX_ROWS).select("sequence_id").collect()["sequence_id"]
        runs = ids.rle().struct.unnest()
        splits = splits_of(runs["value"].to_list(), known, seed=split_seed)
        held_out[start : start + len(ids)] = np.repeat(splits != "train", runs["len"].to_numpy())
    numbers = np.flatnonzero(held_out)
    if not len(numbers):
        where = getattr(rows, "directory", "the embeddings")
        raise InputError(
            f"{where}: none of its proteins falls into the validation or test split; embed more"
        )
    chosen = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).astype(np.int64)
    return numbers[chosen], len(numbers)


def encode_columns(
    saes: Sequence[SparseEncoder], rows: EmbeddingRows, numbers: np.ndarray
) -> list[LatentColumns]:
    """Encode rows by several SAEs, reading them once.

    Memory: 12 bytes x k for each row and SAE, and 24 bytes x k x rows of one SAE.

    Args:
        saes: the SAEs.
        rows: the embedding rows.
        numbers: which of them, ascending.

    Raises:
        InputError: an activation is NaN or infinite.
    """
    parts: list[list[tuple[Any, ...]]] = [[] for _ in saes]
    with progress(len(numbers), unit="rows", description="held-out activations") as shown:
        for start in range(0, len(numbers), BATCH_ROWS):
            x = rows.rows_at(numbers[start : start + BATCH_ROWS])
            for sae, found in zip(saes, parts, strict=True):
                entries = encode_entries(sae, x, start)
                found.append(
                    (
                        entries["row"].to_numpy().astype(np.int32),
                        entries["latent"].to_numpy().astype(np.int32),
                        entries["activation"].to_numpy(),
                    )
                )
            shown.update(len(x))
    columns = []
    for sae, found in zip(saes, parts, strict=True):
        row, latent, value = (np.concatenate(each) for each in zip(*found, strict=True))
        found.clear()
        shape = (len(numbers), sae.config.latent_dim)
        columns.append(latent_columns(row, latent, value, shape))
    return columns
