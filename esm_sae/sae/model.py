"""The TopK autoencoder as pure functions of its weights.

Shapes: B rows, D width, L latents. Source: Gao et al. 2024, "Scaling and evaluating sparse
autoencoders" (arXiv 2406.04093), section 2.3.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from esm_sae.formats.checkpoint import ZScore


class Weights(NamedTuple):
    """Weights of an SAE; a tied one has no decoder of its own, it is the encoder.

    Attributes:
        encoder: (L, D), the transpose of a checkpoint's kernel: a latent's weights lie together.
        decoder: (L, D), rows of unit norm where trained here; None where tied.
        latent_bias: ``lb_L``, (L,).
        pre_bias: ``pb_D``, (D,).
        log_threshold: (L,), logarithm of what a pre-activation must exceed, where that is trained.
    """

    encoder: jax.Array
    decoder: jax.Array | None
    latent_bias: jax.Array
    pre_bias: jax.Array
    log_threshold: jax.Array | None = None

    @property
    def decoder_rows(self) -> jax.Array:
        """The decoder, (L, D)."""
        return self.encoder if self.decoder is None else self.decoder


def initialise(
    width: int, latent_dim: int, *, tied: bool, seed: int, threshold: float | None = None
) -> Weights:
    """Return first weights: random unit decoder rows, the encoder their transpose, no bias.

    With a threshold, each latent starts with it and it is trained.
    """
    rows = initial_directions(width, latent_dim, seed=seed)
    return Weights(
        encoder=jnp.array(rows),
        decoder=None if tied else jnp.array(rows),
        latent_bias=jnp.zeros(latent_dim, dtype=jnp.float32),
        pre_bias=jnp.zeros(width, dtype=jnp.float32),
        log_threshold=None
        if threshold is None
        else jnp.full(latent_dim, np.log(threshold), dtype=jnp.float32),
    )


def initial_directions(width: int, latent_dim: int, *, seed: int) -> np.ndarray:
    """Return the decoder before the first step: random unit rows, (L, D) float32."""
    rows = np.random.default_rng(seed).normal(size=(latent_dim, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def pre_activations(
    weights: Weights, rows: jax.Array, *, precision: jnp.dtype | str = jnp.float32
) -> jax.Array:
    """Return ``(x - pb_D) @ enc + lb_L`` for (B, D) rows, as (B, L) float32.

    Args:
        weights: the weights.
        rows: (B, D).
        precision: type of the factors of the matrix product; sums are float32.
    """
    centred = rows - weights.pre_bias
    return projections(centred, weights.encoder, precision) + weights.latent_bias


def projections(
    rows: jax.Array, directions: jax.Array, precision: jnp.dtype | str = jnp.float32
) -> jax.Array:
    """Return the products of (N, D) rows with (L, D) directions, as (N, L) float32.

    The factors are rounded to ``precision``, those of the gradient's products too, which autodiff
    would leave in float32; sums are float32.
    """
    return _projections(rows, directions, precision)


def combinations(
    activations: jax.Array, directions: jax.Array, precision: jnp.dtype | str = jnp.float32
) -> jax.Array:
    """Return the sums of (L, D) directions by (N, L) activations, as (N, D) float32.

    Rounded as in ``projections``.
    """
    return _combinations(activations, directions, precision)


_Precision = jnp.dtype | str
_Pair = tuple[jax.Array, jax.Array]


def _project(rows: jax.Array, directions: jax.Array, precision: _Precision) -> jax.Array:
    # Written so, XLA multiplies bfloat16 on CPUs without turning a factor round first.
    return lax.dot_general(
        rows.astype(precision),
        directions.astype(precision),
        (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )


def _combine(activations: jax.Array, directions: jax.Array, precision: _Precision) -> jax.Array:
    return jnp.matmul(
        activations.astype(precision),
        directions.astype(precision),
        preferred_element_type=jnp.float32,
    )


def _differentiate_projections(precision: _Precision, factors: _Pair, slopes: jax.Array) -> _Pair:
    rows, directions = factors
    return combinations(slopes, directions, precision), combinations(slopes.T, rows, precision)


def _differentiate_combinations(precision: _Precision, factors: _Pair, slopes: jax.Array) -> _Pair:
    activations, directions = factors
    by_activations = projections(slopes, directions, precision)
    return by_activations, combinations(activations.T, slopes, precision)


def _with_gradient(product: Any, differentiate: Any) -> Any:
    # Any: jax's decorator loses the types.
    function = jax.custom_vjp(product, nondiff_argnums=(2,))
    function.defvjp(lambda one, other, at: (product(one, other, at), (one, other)), differentiate)
    return function


_projections = _with_gradient(_project, _differentiate_projections)
_combinations = _with_gradient(_combine, _differentiate_combinations)


def top_latents(pre: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the k largest pre-activations of each row after ReLU, and their latents.

    Both are (B, k), the largest first. Exactly k are kept: of equal ones the first latents.
    """
    values, latents = lax.top_k(pre, k)
    return jax.nn.relu(values), latents


def to_dense(values: jax.Array, latents: jax.Array, latent_dim: int) -> jax.Array:
    """Spread (B, k) values over (B, L), 0 elsewhere."""
    rows = jnp.arange(len(values))[:, None]
    dense = jnp.zeros((len(values), latent_dim), dtype=values.dtype)
    return dense.at[rows, latents].set(values, unique_indices=True)


def decode(
    weights: Weights, activations: jax.Array, *, precision: jnp.dtype | str = jnp.float32
) -> jax.Array:
    """Return ``z @ dec + pb_D`` for (B, L) activations, as (B, D) float32."""
    return combinations(activations, weights.decoder_rows, precision) + weights.pre_bias


def latents_above(pre: jax.Array, threshold: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Return the pre-activations of each row that exceed their latent's threshold, and the latents.

    Both are (B, most), the largest first; of more than ``most`` the largest. This is JumpReLU
    (Rajamanoharan et al. 2024, arXiv 2407.14435), which BatchTopK becomes outside of training
    (Bussmann et al. 2024, arXiv 2412.06410).

    Args:
        pre: (B, L).
        threshold: (L,), 0 or more.
        most: number of columns; what a row has fewer is filled up with 0.
    """
    values, latents = lax.top_k(jnp.where(pre > threshold, pre, 0), most)
    return values, latents


def z_score(rows: jax.Array, by: ZScore) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return each row z-scored, with the mean and the divisor taken, (B, 1) each."""
    mean = rows.mean(1, keepdims=True)
    divisor = rows.std(1, keepdims=True, ddof=by.ddof) + by.epsilon
    return (rows - mean) / divisor, mean, divisor


def largest_mask(scores: jax.Array, count: ArrayLike) -> jax.Array:
    """Mark the ``count`` largest of each row of (B, L) scores: exactly that many.

    The same choice as ``lax.top_k``, of equal scores the first, at a cost that does not grow
    with ``count`` and with nothing gathered or scattered: the count-th largest score is found
    bit by bit, then, where it has equals, the place up to which they are taken.
    """
    keys = _sortable_bits(scores)
    threshold = _kth_largest(keys, count)[:, None]
    reaching = keys >= threshold
    return lax.cond(
        jnp.all(reaching.sum(1) == count),
        lambda: reaching,
        lambda: _first_of_equals(keys, threshold, count),
    )


def _first_of_equals(keys: jax.Array, threshold: jax.Array, count: ArrayLike) -> jax.Array:
    above, equal = keys > threshold, keys == threshold
    wanted = count - above.sum(1)
    places = jnp.arange(keys.shape[1])
    bits = keys.shape[1].bit_length()

    def widen(step: jax.Array, end: jax.Array) -> jax.Array:
        candidate = end + (1 << (bits - 1 - step))
        taken = jnp.sum(equal & (places < candidate[:, None]), axis=1)
        return jnp.where(taken <= wanted, candidate, end)

    end = lax.fori_loop(0, bits, widen, jnp.zeros_like(wanted))
    return above | (equal & (places < end[:, None]))


def _kth_largest(keys: jax.Array, count: ArrayLike) -> jax.Array:
    def raise_bit(step: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | (jnp.uint32(1) << (31 - step).astype(jnp.uint32))
        reached = jnp.sum(keys >= candidate[:, None], axis=1)
        return jnp.where(reached >= count, candidate, found)

    return lax.fori_loop(0, 32, raise_bit, jnp.zeros(len(keys), dtype=jnp.uint32))


def _sortable_bits(scores: jax.Array) -> jax.Array:
    # IEEE floats order as their bits do, once negative ones are flipped and signs reversed.
    bits = lax.bitcast_convert_type(scores, jnp.uint32)
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
