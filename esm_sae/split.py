"""The one split into training, validation and test, by similarity cluster.

Proteins held out by their own id mostly have a relative in training, so a split by id measures
memory. Everything that holds proteins out asks this module.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import identity_of

Split = Literal["train", "validation", "test"]

_BUCKETS = 1_000
_VALIDATION_FROM, _TEST_FROM = 800, 900


def split_of(cluster_id: str, *, seed: int = 0) -> Split:
    """Return the split of a similarity cluster: 80% train, 10% validation, 10% test."""
    digest = hashlib.blake2b(f"{seed}:{cluster_id}".encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % _BUCKETS
    if bucket < _VALIDATION_FROM:
        return "train"
    return "validation" if bucket < _TEST_FROM else "test"


def splits_of(
    sequence_ids: Sequence[str], clusters: Mapping[str, str] | None = None, *, seed: int = 0
) -> np.ndarray:
    """Return the split of each sequence, shape (N,), as strings.

    A sequence with no known similarity cluster is its own cluster.
    """
    known = clusters or {}
    of_id = {
        sequence_id: split_of(known.get(sequence_id, sequence_id), seed=seed)
        for sequence_id in set(sequence_ids)
    }
    return np.array([of_id[sequence_id] for sequence_id in sequence_ids], dtype="<U10")


def cluster_ids_of(
    sequence_ids: Sequence[str], clusters: Mapping[str, str] | None = None
) -> np.ndarray:
    """Return the similarity cluster of each sequence, shape (N,), as Python strings.

    A sequence with no known similarity cluster is its own cluster.
    """
    known = clusters or {}
    ids = [known.get(sequence_id, sequence_id) for sequence_id in sequence_ids]
    return np.array(ids, dtype=object)


def cluster_numbers_of(
    sequence_ids: Sequence[str], clusters: Mapping[str, str] | None = None
) -> np.ndarray:
    """Return the similarity cluster of each sequence as a number from 0 on, shape (N,), int64."""
    ids = cluster_ids_of(sequence_ids, clusters)
    return np.unique(ids.astype(str), return_inverse=True)[1].astype(np.int64)


def similarity_clusters_path(source: storage.PathLike) -> storage.PathLike:
    """Return the path of a table of similarity clusters; ``"bundled"`` names the bundled one."""
    if source != "bundled":
        return source
    from esm_sae.data import bundled_clusters

    return bundled_clusters()


def identity_of_clusters(source: storage.PathLike | None) -> str | None:
    """Return what identifies a table of similarity clusters in a manifest; None of none.

    Raises:
        InputError: there is no such file.
    """
    return None if source is None else identity_of(similarity_clusters_path(source))


def read_similarity_clusters(source: storage.PathLike) -> dict[str, str]:
    """Read a table of similarity clusters: parquet with ``sequence_id`` and ``cluster_id``.

    A sequence whose cluster is null is one with no known cluster. ``"bundled"`` names the table
    of the bundled proteins.

    Raises:
        InputError: the file is not such a table.
    """
    import polars as pl

    source = similarity_clusters_path(source)
    with storage.open_binary(source) as file:
        try:
            table = pl.read_parquet(file, columns=["sequence_id", "cluster_id"]).drop_nulls()
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{source}: not a parquet table with sequence_id and cluster_id ({reason})"
            ) from None
    return dict(zip(table["sequence_id"].to_list(), table["cluster_id"].to_list(), strict=True))
