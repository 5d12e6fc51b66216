"""Using a trained SAE: encoding and decoding embedding rows."""

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import Checkpoint, ZScore
from esm_sae.formats.parent_check import require_parent
from esm_sae.formats.sae_files import read_sae
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.sae.model import (
    Weights,
    decode,
    latents_above,
    pre_activations,
    top_latents,
    z_score,
)

_ROWS_PER_BLOCK = 4096


class _Form(NamedTuple):
    """What encoding is compiled for: k, and how rows are z-scored."""

    k: int
    z_score: ZScore | None


class SAE:
    """A sparse autoencoder on raw embedding rows: TopK, or with a threshold for each latent.

    Attributes:
        config: what is known of the weights.
        fingerprint: hash of what decides an encoding, as ``Checkpoint.fingerprint``.
    """

    def __init__(self, checkpoint: Checkpoint, fingerprint: str = "") -> None:
        self.config = checkpoint.config
        self.fingerprint = fingerprint
        self.decoder_norms = np.linalg.norm(checkpoint.decoder, axis=1)
        self._path = checkpoint.path
        self._threshold = checkpoint.threshold
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
        """Return the activations of all latents, (N, L) float32; by TopK at most k of a row fire.

        Args:
            rows: raw embeddings, (N, D).

        Raises:
            InputError: the rows have another width than the SAE.
        """
        values, latents = self.encode_sparse(rows)
        dense = np.zeros((len(values), self.config.latent_dim), dtype=np.float32)
        fired = np.nonzero(values > 0)
        dense[fired[0], latents[fired]] = values[fired]
        return dense

    def encode_sparse(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the activations of the latents that fire on each row, the largest first.

        Args:
            rows: raw embeddings, (N, D).

        Returns:
            Activations (N, K) float32, 0 where nothing is left to fire, and latents (N, K) int32,
            0 beside a 0 of thresholds. K is k by TopK; with thresholds as large as the row with
            most latents needs, rounded up to a power of two.

        Raises:
            InputError: the rows have another width than the SAE.
        """
        rows = self._checked(rows, self.config.width, "embeddings")
        found = [
            tuple(np.asarray(part)[: place.stop - place.start] for part in self._encoded(block))
            for place, block in _padded_blocks(rows)
        ]
        return self._joined(found)

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
            Activations (N, K) float32, their latents (N, K) int32, reconstructions (N, D) float32.

        Raises:
            InputError: the rows have another width than the SAE.
        """
        rows = self._checked(rows, self.config.width, "embeddings")
        again = np.empty_like(rows)
        found = []
        for place, block in _padded_blocks(rows):
            count = place.stop - place.start
            values, latents = self._encoded(block)
            made = _decode_sparse(self._weights, block, values, latents, self._form)
            again[place] = np.asarray(made)[:count]
            found.append((np.asarray(values)[:count], np.asarray(latents)[:count]))
        return *self._joined(found), again

    def require_fit(self, shards: EmbeddingShards) -> None:
        """Check that shards hold what the SAE was trained on, as ``parent_check`` does.

        Raises:
            InputError: width, encoder, its weights, layer or pooling differ.
        """
        require_parent(self, shards, shards.directory)

    @property
    def _form(self) -> _Form:
        return _Form(self.config.k, self.config.z_score)

    def _encoded(self, block: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Return the activations of a block, (B, K), and their latents."""
        if self._threshold is None:
            return _largest(self._weights, block, self._form)
        pre, most = _pre_activations(self._weights, self._threshold, block, self._form)
        fitting = min(1 << (int(most) - 1).bit_length() if most else 1, self.config.latent_dim)
        return _above(pre, self._threshold, fitting)

    def _joined(self, found: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the blocks' activations and latents as one, filled up to the widest."""
        rows = sum(len(values) for values, _ in found)
        least = self.config.k if self._threshold is None else 1
        most = max((values.shape[1] for values, _ in found), default=least)
        values, latents = np.zeros((rows, most), np.float32), np.zeros((rows, most), np.int32)
        start = 0
        for of_block, named in found:
            end, width = start + len(of_block), of_block.shape[1]
            values[start:end, :width], latents[start:end, :width] = of_block, named
            start = end
        return values, latents

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
    """Load an SAE from any of the forms that ``esm_sae.formats.sae_files`` reads.

    Args:
        path: file or folder.
        k: for files that do not record it.
        normalize: whether rows were z-scored, for files that do not record it.

    Raises:
        InputError: as ``esm_sae.formats.sae_files.read_sae``.
    """
    checkpoint = read_sae(path, k=k, normalize=normalize)
    if checkpoint.unknown:
        warnings.warn(
            f"{checkpoint.path}: does not tell {' or '.join(checkpoint.unknown)}", stacklevel=2
        )
    return SAE(checkpoint, checkpoint.fingerprint)


def _padded_blocks(rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    # Blocks are padded to a power of two, so that few shapes are ever compiled.
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        block = rows[start : start + _ROWS_PER_BLOCK]
        size = 1 << (len(block) - 1).bit_length()
        # With a row that is there: on one of zeros many a threshold may be exceeded.
        padded = np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])
        yield slice(start, start + len(block)), padded


@functools.partial(jax.jit, static_argnames="form")
def _largest(weights: Weights, rows: jax.Array, form: _Form) -> tuple[jax.Array, jax.Array]:
    rows, _, _ = _as_encoded(rows, form)
    with _in_full_precision():
        return top_latents(pre_activations(weights, rows), form.k)


@functools.partial(jax.jit, static_argnames="form")
def _pre_activations(
    weights: Weights, threshold: jax.Array, rows: jax.Array, form: _Form
) -> tuple[jax.Array, jax.Array]:
    """Return the pre-activations, (B, L), and the most that exceed their thresholds in a row."""
    rows, _, _ = _as_encoded(rows, form)
    with _in_full_precision():
        pre = pre_activations(weights, rows)
    return pre, jnp.sum(pre > threshold, axis=1).max()


_above = jax.jit(latents_above, static_argnums=2)


@jax.jit
def _decode(weights: Weights, activations: jax.Array) -> jax.Array:
    with _in_full_precision():
        return decode(weights, activations)


@functools.partial(jax.jit, static_argnames="form")
def _decode_sparse(
    weights: Weights, raw: jax.Array, values: jax.Array, latents: jax.Array, form: _Form
) -> jax.Array:
    """Return the reconstruction of raw rows from their (B, K) activations."""
    # Sums K decoder rows per row: a tenth of the time of a product with (N, L) activations.
    rows = weights.decoder_rows

    def add(place: jax.Array, total: jax.Array) -> jax.Array:
        return total + values[:, place, None] * rows[latents[:, place]]

    nothing = jnp.zeros((len(values), rows.shape[1]), dtype=rows.dtype)
    summed = lax.fori_loop(0, values.shape[1], add, nothing, unroll=8) + weights.pre_bias
    _, mean, divisor = _as_encoded(raw, form)
    return summed * divisor + mean


def _as_encoded(raw: jax.Array, form: _Form) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return rows as the encoder takes them, and the mean and divisor that this took, (B, 1)."""
    if form.z_score is None:
        return raw, jnp.float32(0), jnp.float32(1)
    return z_score(raw, form.z_score)


def _in_full_precision() -> AbstractContextManager[Any]:
    # GPUs would round the factors of float32 products to 11 bits, which moves near ties of TopK.
    return jax.default_matmul_precision("highest")
