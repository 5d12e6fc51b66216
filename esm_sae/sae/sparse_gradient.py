"""The gradient of the training loss on a CPU: one dense matrix product, the rest sparse.

Of the five matrix products of a training step (encoder, decoder, and their three gradients) only
the encoder's is needed in full; of the others at most k in L entries count. The kernels of
``sparse_kernels`` gather those.
"""

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esm_sae.sae import sparse_kernels as kernels
from esm_sae.sae.loss import Loss, LossOptions
from esm_sae.sae.model import Weights, combinations, projections

# So many pre-activations at a time stay in the cache while their largest are found.
_ROWS_PER_BLOCK = 512


def loss_and_gradient(
    weights: Weights,
    rows: np.ndarray,
    count: int,
    dead: np.ndarray,
    variance: float,
    *,
    options: LossOptions,
) -> tuple[Loss, Weights]:
    """Return the loss of ``loss.batch_loss`` and its gradient, equal to autodiff's to rounding.

    By TopK of ``options.k``, and without nested dictionaries.

    Beside its result it holds 512 x L pre-activations, and those of all rows by dead latents.

    Args:
        weights: the weights, on the CPU.
        rows: (B, D) float32, centred and scaled; those from ``count`` on are padding.
        count: number of real rows.
        dead: (L,) bool, which latents are dead.
        variance: mean over the training rows of ``|x - mu|^2``, in the units of ``rows``.
        options: the options of the loss.
    """
    centred = rows - np.asarray(weights.pre_bias)
    revived = np.flatnonzero(dead) if options.aux_alpha else np.empty(0, np.int64)
    found = _forward(weights, centred, count, revived, options)
    factor = np.float32(-2 / (count * variance))
    encoder, decoder, latent_bias, fired = _sum_by_latent(found, centred, len(dead), factor)
    total = float(found.squared_errors.sum(dtype=np.float64)) / (count * variance)
    auxiliary, moved = 0.0, 0
    if len(revived):
        weight = options.aux_alpha * min(1.0, len(revived) / options.aux_k)
        revival = _revive(weights, centred, found, revived, options)
        auxiliary, moved = float(revival.loss), int(revival.moved)
        total += weight * auxiliary
        for sums, by_dead in (
            (encoder, revival.encoder),
            (decoder, revival.decoder),
            (latent_bias, revival.latent_bias),
        ):
            sums[revived] += np.float32(weight) * np.asarray(by_dead)[: len(revived)]
    # The pre-bias is in the reconstruction and, with the other sign, in every pre-activation.
    pre_bias = factor * found.errors.sum(0) - _weighted_sum(weights.encoder, latent_bias)
    # Any: jax takes NumPy's arrays where its types ask for its own.
    gradient: Any = (encoder, decoder, latent_bias, pre_bias)
    if weights.decoder is None:
        gradient = (encoder + decoder, None, latent_bias, pre_bias)
    l0 = np.count_nonzero(found.values) / count
    loss = Loss(total, auxiliary, moved, found.squared_errors, fired, l0)
    return loss, Weights(*gradient)


class _Forward(NamedTuple):
    """What the forward pass leaves; 0 in padding rows.

    Attributes:
        errors: ``x - x_hat``, (B, D).
        squared_errors: (B,).
        values: activations above 0 by latent, then zeros, (B, k).
        latents: their latents, (B, k).
        along: errors along the decoder rows of these, (B, k).
        dead_pre: pre-activations of the dead latents, (B, A').
    """

    errors: np.ndarray
    squared_errors: np.ndarray
    values: np.ndarray
    latents: np.ndarray
    along: np.ndarray
    dead_pre: np.ndarray


def _forward(
    weights: Weights, centred: np.ndarray, count: int, dead: np.ndarray, options: LossOptions
) -> _Forward:
    size, k = len(centred), options.k
    found = _Forward(
        errors=np.empty_like(centred),
        squared_errors=np.empty(size, np.float32),
        values=np.empty((size, k), np.float32),
        latents=np.empty((size, k), np.int32),
        along=np.empty((size, k), np.float32),
        # A power of two, so that few shapes are ever compiled; 0 in the columns behind.
        dead_pre=np.zeros(
            (size, 1 << (len(dead) - 1).bit_length() if len(dead) else 0), np.float32
        ),
    )
    for array in found:
        array[count:] = 0
    decoder = np.asarray(weights.decoder_rows)
    encoder = _rounded(weights.encoder, options.precision)
    for start in range(0, count, _ROWS_PER_BLOCK):
        block = centred[start : start + _ROWS_PER_BLOCK]
        pre = np.asarray(_pre_activations(encoder, block, weights.latent_bias))
        stop = min(start + len(block), count)

        def work(first: int, last: int, start: int = start, pre: np.ndarray = pre) -> None:
            of = slice(start + first, start + last)
            kernels.select_largest(pre[first:last], found.values[of], found.latents[of])
            kernels.take_errors(
                centred[of],
                found.values[of],
                found.latents[of],
                decoder,
                found.errors[of],
                found.along[of],
                found.squared_errors[of],
            )

        _share(stop - start, work)
        found.dead_pre[start:stop, : len(dead)] = pre[: stop - start, dead]
    return found


def _sum_by_latent(
    found: _Forward, centred: np.ndarray, latent_dim: int, factor: np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients by encoder, decoder and latent bias, and which latents fired."""
    width = centred.shape[1]
    starts = np.empty(latent_dim + 1, np.int64)
    entries = np.empty(found.values.size, np.int64)
    kernels.order_by_latent(found.values, found.latents, starts, entries)
    encoder = np.empty((latent_dim, width), np.float32)
    decoder = np.empty((latent_dim, width), np.float32)
    latent_bias = np.empty(latent_dim, np.float32)

    def work(first: int, last: int) -> None:
        kernels.sum_gradients(
            centred,
            found.errors,
            found.values,
            found.along,
            starts,
            entries,
            factor,
            first,
            encoder[first:last],
            decoder[first:last],
            latent_bias[first:last],
        )

    _share(latent_dim, work)
    return encoder, decoder, latent_bias, np.diff(starts) > 0


class _Revival(NamedTuple):
    """The auxiliary loss, the number of latents it moves, and its gradient by the dead latents."""

    loss: jax.Array
    moved: jax.Array
    encoder: jax.Array
    decoder: jax.Array
    latent_bias: jax.Array


def _revive(
    weights: Weights,
    centred: np.ndarray,
    found: _Forward,
    dead: np.ndarray,
    options: LossOptions,
) -> _Revival:
    activations = np.maximum(found.dead_pre, 0)
    if len(dead) > options.aux_k:
        _share(
            len(activations),
            lambda first, last: kernels.keep_largest(activations[first:last], options.aux_k),
        )
    decoder = np.zeros((activations.shape[1], centred.shape[1]), np.float32)
    decoder[: len(dead)] = np.asarray(weights.decoder_rows)[dead]
    return _auxiliary(activations, decoder, found.errors, centred, options.precision)


@functools.partial(jax.jit, static_argnames="precision")
def _auxiliary(
    activations: jax.Array,
    decoder: jax.Array,
    errors: jax.Array,
    centred: jax.Array,
    precision: str,
) -> _Revival:
    """Return ``loss.auxiliary_loss`` of A' latents' activations, with its gradient."""
    scale = jnp.maximum(jnp.sum(errors**2), jnp.finfo(errors.dtype).tiny)
    missed = errors - combinations(activations, decoder, precision)
    outer = -2 * missed / scale
    slopes = jnp.where(activations > 0, projections(outer, decoder, precision), 0)
    return _Revival(
        loss=jnp.sum(missed**2) / scale,
        moved=jnp.any(activations > 0, axis=0).sum(),
        encoder=combinations(slopes.T, centred, precision),
        decoder=combinations(activations.T, outer, precision),
        latent_bias=slopes.sum(0),
    )


@functools.partial(jax.jit, static_argnums=1)
def _rounded(array: jax.Array, precision: str) -> jax.Array:
    return array.astype(precision)


@jax.jit
def _pre_activations(encoder: jax.Array, centred: jax.Array, latent_bias: jax.Array) -> jax.Array:
    return projections(centred, encoder, encoder.dtype) + latent_bias


# By XLA, as all large products are: the threads of NumPy's library stay awake for a while after
# theirs, in the way of the kernels'.
@jax.jit
def _weighted_sum(rows: jax.Array, by: jax.Array) -> jax.Array:
    return by @ rows


def _share(count: int, work: Callable[[int, int], None]) -> None:
    """Do the work on ``range(count)`` in contiguous parts, one per core."""
    pool, parts = _threads()
    edges = [count * part // parts for part in range(parts + 1)]
    for done in [
        pool.submit(work, first, last) for first, last in itertools.pairwise(edges) if first < last
    ]:
        done.result()


@functools.cache
def _threads() -> tuple[ThreadPoolExecutor, int]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = cores or 1
    return ThreadPoolExecutor(count, thread_name_prefix="sparse-gradient"), count
