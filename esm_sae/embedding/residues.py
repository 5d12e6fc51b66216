"""Which residues of a protein become rows."""

import hashlib

import numpy as np


def chosen_positions(length: int, wanted: int | None, *, sequence_id: str, seed: int) -> np.ndarray:
    """Return the residues of a protein that become rows, counted from 0, ascending.

    The choice depends on seed, id and length alone, so that it is the same however the proteins
    are split into shards.

    Args:
        length: number of residues there are.
        wanted: number of residues to draw without replacement; None or too many takes all.
        sequence_id: id of the protein.
        seed: of the draw.
    """
    if wanted is None or wanted >= length:
        return np.arange(length)
    digest = hashlib.blake2b(f"{seed}:{sequence_id}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    return np.sort(generator.choice(length, size=wanted, replace=False))
