"""Whether rows are of the kind an SAE was trained on: by what both record, else by their look."""

import warnings
from typing import Protocol

import numpy as np

from esm_sae import storage
from esm_sae.formats.checkpoint import SAEConfig, require_same_embeddings
from esm_sae.formats.shards import Provenance

_MOST_ROWS, _LEAST_ROWS = 2_048, 64
_ROWS_PER_BLOCK = 512
# Of the FVU that the training reported: rows of other proteins are reconstructed less well.
_TIMES, _MORE = 2.0, 0.05
_NO_BETTER_THAN_THE_MEAN = 0.9


class Reconstructing(Protocol):
    """An SAE as far as this check is concerned."""

    @property
    def config(self) -> SAEConfig:
        """What the checkpoint is."""
        ...

    def reconstruct(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the reconstruction of raw rows (N, D) in their own units."""
        ...


class Rows(Protocol):
    """Embedding rows of which some can be read by their numbers."""

    @property
    def rows(self) -> int:
        """N, the number of rows."""
        ...

    @property
    def width(self) -> int:
        """D, the width of a row."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Encoder, layer and pooling of the rows."""
        ...

    def rows_at(self, indices: np.ndarray, /) -> np.ndarray:
        """Return the rows of these numbers, (n, D) float32."""
        ...


def require_parent(sae: Reconstructing, rows: Rows, where: storage.PathLike) -> None:
    """Check that rows are of the kind an SAE was trained on.

    What both sides record is compared. Where one of them does not tell encoder, its weights, layer
    or pooling, at most 2,048 evenly spaced rows are reconstructed, and a warning shows their FVU,
    by their own mean and variance, where it is above twice what the training reported and 0.05,
    or, where nothing is reported, above 0.9: no better than the mean. Of fewer than 64 rows it
    would say little.

    Args:
        sae: the SAE.
        rows: that it shall encode.
        where: their file or folder, named in error and warning.

    Raises:
        InputError: width, encoder, weights, layer or pooling differ.
    """
    require_same_embeddings(sae.config, rows.provenance, rows.width, where)
    if _is_told(sae.config) and _is_told(rows.provenance):
        return
    count = min(rows.rows, _MOST_ROWS)
    if count < _LEAST_ROWS:
        return
    reported = sae.config.fvu
    most = _NO_BETTER_THAN_THE_MEAN if reported is None else _TIMES * reported + _MORE
    fvu = _sample_fvu(sae, rows.rows_at(np.linspace(0, rows.rows - 1, count).astype(np.int64)))
    if fvu > most:
        beside = "nothing is" if reported is None else f"{reported:.4g} was"
        warnings.warn(
            f"{where}: the SAE leaves a fraction of {fvu:.4g} of the variance of {count:,} of its "
            f"rows unexplained (FVU), where {beside} reported of its training; are these of the "
            "encoder, weights and layer that it was trained on? One of the two does not record all",
            stacklevel=2,
        )


def _is_told(of: SAEConfig | Provenance) -> bool:
    known = (of.encoder, of.weights_sha256, of.pooling)
    return "unknown" not in known and of.layer is not None


def _sample_fvu(sae: Reconstructing, sample: np.ndarray) -> float:
    spread = np.square(sample - sample.mean(0, dtype=np.float64)).sum()
    errors = sum(
        float(np.square(block - sae.reconstruct(block)).sum(dtype=np.float64))
        for block in np.array_split(sample, -(-len(sample) // _ROWS_PER_BLOCK))
    )
    return errors / float(spread) if spread > 0 else 0.0
