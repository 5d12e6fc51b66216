"""The latents of an SAE that fire, and the directions of their decoder rows."""

from typing import Protocol

import numpy as np

from esm_sae.analysis.encoder import SparseEncoder

# A latent that fires on fewer rows than this has an activation pattern that chance can repeat.
FEWEST_FIRINGS = 10


class DecodingSAE(SparseEncoder, Protocol):
    """An SAE of which the decoder is wanted too."""

    @property
    def decoder(self) -> np.ndarray:
        """The decoder, (L, D)."""
        ...


def live_latents(sae: DecodingSAE, firing_rows: np.ndarray) -> np.ndarray:
    """Return the latents that fire on 10 rows or more and whose decoder row is not 0, ascending.

    Args:
        sae: the SAE.
        firing_rows: on how many rows each latent fires, (L,).
    """
    has_direction = np.linalg.norm(sae.decoder, axis=1) > 0
    return np.flatnonzero((firing_rows >= FEWEST_FIRINGS) & has_direction)


def directions_of(sae: DecodingSAE, latents: np.ndarray) -> np.ndarray:
    """Return the decoder rows of n latents at unit length, (n, D) float32."""
    rows = sae.decoder[latents].astype(np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
