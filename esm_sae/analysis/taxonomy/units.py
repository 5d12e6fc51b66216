"""The units of tests between taxa: one protein for each taxon and similarity cluster."""

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl


def cluster_units(
    taxa: np.ndarray, clusters: np.ndarray, sequence_ids: Sequence[str], *, seed: int = 0
) -> np.ndarray:
    """Draw one protein of each taxon and similarity cluster.

    Relatives are no independent observations: of a family that was sampled mostly from one taxon
    every member would speak for that taxon. The member that counts is drawn, the one whose
    seeded hash of its id is least, so that a cluster with many members is as likely to be seen
    firing as one with a single member, and has one length and one composition.

    Args:
        taxa: of each protein, (N,).
        clusters: of each protein, (N,).
        sequence_ids: N ids; of proteins with one id the first counts.
        seed: of the draw.

    Returns:
        The numbers of the proteins drawn, ascending.
    """
    table = pl.DataFrame(
        {
            "taxon": pl.Series(taxa),
            "cluster": pl.Series(clusters.astype(str)),
            "lot": [_lot(sequence_id, seed) for sequence_id in sequence_ids],
        }
    ).with_row_index("protein")
    drawn = table.sort("lot", "protein").unique(["taxon", "cluster"], keep="first")
    return drawn["protein"].sort().to_numpy().astype(np.int64)


def _lot(sequence_id: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{sequence_id}".encode(), digest_size=8).digest()
