"""Using a trained SAE: encoding and decoding embedding rows."""

import functools
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import Checkpoint, read_checkpoint, require_same_embeddings
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.sae.model import (
    Weights,
    decode,
    pre_activations,
    top_latents,
    z_score,
)
from esm_sae.sae.scaling import NORMALIZE_EPSILON

_ROWS_PER_BLOCK = 4096


class SAE:
    """A TopK sparse autoencoder on raw embedding rows.

    Attributes:
        config: what is known of the weights.
        fingerprint: sha256 of the weights file.
    """

    def __init__(self, checkpoint: Checkpoint, fingerprint: str = "") -> None:
        self.config = checkpoint.config
        self.fingerprint = fingerprint
        self.decoder_norms = np.linalg.norm(checkpoint.decoder, axis=1)
        self._path = checkpoint.path
        self._weights = Weights(
            jnp.asarray(checkpoint.encoder.T),
            jnp.asarray(checkpoint.decoder),
            jnp.asarray(checkpoint.latent_bias),
            jnp.asarray(checkpoint.pre_bias),
        )

    @property
    def decoder(self) -> np.ndarray:
        """The decoder, (L, D) float32."""
        return np.asarray(self._weights.decoder_rows)

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Return the activations of all latents, (N, L) float32 with at most k above 0 a row.

        Args:
            rows: raw embeddings, (N, D).

        Raises:
            InputError: the rows have another width than the SAE.
        """
        values, latents = self.encode_sparse(rows)
        dense = np.zeros((len(values), self.config.latent_dim), dtype=np.float32)
        np.put_along_axis(dense, latents, values, axis=1)
        return dense

    def encode_sparse(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the k largest activations of each row and their latents, the largest first.

        Args:
            rows: raw embeddings, (N, D).

        Returns:
            Activations (N, k) float32, 0 where ReLU left nothing, and latents (N, k) int32.

        Raises:
            InputError: the rows have another width than the SAE.
        """
        rows = self._checked(rows, self.config.width, "embeddings")
        values = np.empty((len(rows), self.config.k), dtype=np.float32)
        latents = np.empty((len(rows), self.config.k), dtype=np.int32)
        for place, block in _padded_blocks(rows):
            found = _encode(self._weights, block, self.config.k, self.config.normalize)
            count = place.stop - place.start
            values[place] = np.asarray(found[0])[:count]
            latents[place] = np.asarray(found[1])[:count]
        return values, latents

    def decode(self, activations: np.ndarray) -> np.ndarray:
        """Return the reconstruction ``z @ dec + pb_D`` of (N, L) activations, (N, D) float32.

        Where the SAE z-scores its rows this is the z-scored row; ``reconstruct`` knows the row
        and scales it back.

        Raises:
            InputError: the activations have another width than L.
        """
        activations = self._checked(activations, self.config.latent_dim, "activations")
        out = np.empty((len(activations), self.config.width), dtype=np.float32)
        for place, block in _padded_blocks(activations):
            out[place] = np.asarray(_decode(self._weights, block))[: place.stop - place.start]
        return out

    def reconstruct(self, rows: np.ndarray) -> np.ndarray:
        """Return the reconstruction of raw embeddings in their own units, (N, D) float32.

        Raises:
            InputError: the rows have another width than the SAE.
        """
        return self.encode_and_reconstruct(rows)[2]

    def encode_and_reconstruct(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what ``encode_sparse`` and ``reconstruct`` give, from one encoding of the rows.

        Args:
            rows: raw embeddings, (N, D).

        Returns:
            Activations (N, k) float32, their latents (N, k) int32, reconstructions (N, D) float32.

        Raises:
            InputError: the rows have another width than the SAE.
        """
        rows = self._checked(rows, self.config.width, "embeddings")
        values = np.empty((len(rows), self.config.k), dtype=np.float32)
        latents = np.empty((len(rows), self.config.k), dtype=np.int32)
        again = np.empty_like(rows)
        for place, block in _padded_blocks(rows):
            found = _reconstruct(self._weights, block, self.config.k, self.config.normalize)
            for out, part in zip((values, latents, again), found, strict=True):
                out[place] = np.asarray(part)[: place.stop - place.start]
        return values, latents, again

    def require_fit(self, shards: EmbeddingShards) -> None:
        """Check that shards hold what the SAE was trained on; what a side doesn't know passes.

        Raises:
            InputError: width, encoder, its weights, layer or pooling differ.
        """
        require_same_embeddings(self.config, shards.provenance, shards.width, shards.directory)

    def _checked(self, rows: np.ndarray, width: int, what: str) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != width:
            raise InputError(
                f"{self._path}: takes {what} of shape (N, {width}), given {rows.shape}; "
                "use the checkpoint of their encoder and layer"
            )
        return rows


def load_checkpoint(
    path: storage.PathLike, *, k: int | None = None, normalize: bool | None = None
) -> SAE:
    """Load an SAE from a checkpoint file or the final checkpoint of a training folder.

    Args:
        path: file or folder.
        k: for files that do not record it.
        normalize: whether rows were z-scored, for files that do not record it.

    Raises:
        InputError: as ``esm_sae.formats.checkpoint.read_checkpoint``.
    """
    checkpoint = read_checkpoint(path, k=k, normalize=normalize)
    if checkpoint.unknown:
        warnings.warn(
            f"{checkpoint.path}: does not tell {' or '.join(checkpoint.unknown)}", stacklevel=2
        )
    return SAE(checkpoint, storage.sha256_of(checkpoint.path))


def _padded_blocks(rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    # Blocks are padded to a power of two, so that few shapes are ever compiled.
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        block = rows[start : start + _ROWS_PER_BLOCK]
        size = 1 << (len(block) - 1).bit_length()
        padded = np.zeros((size, rows.shape[1]), dtype=np.float32)
        padded[: len(block)] = block
        yield slice(start, start + len(block)), padded


@functools.partial(jax.jit, static_argnums=(2, 3))
def _encode(
    weights: Weights, rows: jax.Array, k: int, normalize: bool
) -> tuple[jax.Array, jax.Array]:
    if normalize:
        rows, _, _ = z_score(rows, NORMALIZE_EPSILON)
    with _in_full_precision():
        return top_latents(pre_activations(weights, rows), k)


@jax.jit
def _decode(weights: Weights, activations: jax.Array) -> jax.Array:
    with _in_full_precision():
        return decode(weights, activations)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _reconstruct(
    weights: Weights, rows: jax.Array, k: int, normalize: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    mean, divisor = jnp.float32(0), jnp.float32(1)
    if normalize:
        rows, mean, divisor = z_score(rows, NORMALIZE_EPSILON)
    with _in_full_precision():
        values, latents = top_latents(pre_activations(weights, rows), k)
    return values, latents, _decode_sparse(weights, values, latents) * divisor + mean


def _decode_sparse(weights: Weights, values: jax.Array, latents: jax.Array) -> jax.Array:
    # Sums k decoder rows per row: a tenth of the time of a product with (N, L) activations.
    rows = weights.decoder_rows

    def add(place: jax.Array, total: jax.Array) -> jax.Array:
        return total + values[:, place, None] * rows[latents[:, place]]

    nothing = jnp.zeros((len(values), rows.shape[1]), dtype=rows.dtype)
    return lax.fori_loop(0, values.shape[1], add, nothing, unroll=8) + weights.pre_bias


def _in_full_precision() -> AbstractContextManager[Any]:
    # GPUs would round the factors of float32 products to 11 bits, which moves near ties of TopK.
    return jax.default_matmul_precision("highest")
