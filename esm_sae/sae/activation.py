"""Which latents fire while an SAE is trained, and how strongly.

Shapes: B rows, L latents.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from esm_sae.sae.model import Weights, largest_mask


def activate(
    weights: Weights,
    pre: jax.Array,
    mask: jax.Array,
    k: ArrayLike,
    *,
    activation: str,
    bandwidth: float,
) -> tuple[jax.Array, jax.Array]:
    """Return activations, (B, L), and the mean L0 of the real rows, with gradients of its own.

    - ``topk``: the k largest of a row, after ReLU (Gao et al. 2024, arXiv 2406.04093).
    - ``batchtopk``: the k x B largest of all rows, after ReLU (Bussmann et al. 2024, arXiv
      2412.06410).
    - ``jumprelu``: those above their latent's threshold (Rajamanoharan et al. 2024, arXiv
      2407.14435). Threshold and L0 get the straight-through gradients of that paper: a step's
      derivative is taken for 1 / bandwidth within half of that around the threshold.

    The first two give L0 no gradient: k says what it is.

    Args:
        weights: for their thresholds.
        pre: pre-activations, (B, L).
        mask: (B,), 1 for real rows and 0 for padding, where nothing fires.
        k: latents that fire on a row, in the mean; may differ from step to step.
        activation: one of ``ACTIVATIONS``.
        bandwidth: of JumpReLU's gradients, in the units of ``pre``.
    """
    real = mask[:, None] > 0
    if activation == "jumprelu":
        assert weights.log_threshold is not None
        threshold = jnp.exp(weights.log_threshold)
        fires = jnp.where(real, _step(pre, threshold, bandwidth), 0)
        activations = jnp.where(real, _jump(pre, threshold, bandwidth), 0)
        return activations, fires.sum() / mask.sum()
    scores = lax.stop_gradient(jnp.where(real, pre, -jnp.inf))
    if activation == "batchtopk":
        count = k * mask.sum().astype(jnp.int32)
        kept = largest_mask(scores.reshape(1, -1), count).reshape(pre.shape)
    else:
        kept = largest_mask(scores, k)
    activations = jnp.where(kept & real, jax.nn.relu(pre), 0)
    return activations, jnp.sum(activations > 0) / mask.sum()


def smallest_fired(activations: jax.Array) -> jax.Array:
    """Return the smallest activation above 0; infinity where there is none."""
    return jnp.min(jnp.where(activations > 0, activations, jnp.inf))


def _near(pre: jax.Array, threshold: jax.Array, bandwidth: float) -> jax.Array:
    return (jnp.abs(pre - threshold) < bandwidth / 2).astype(pre.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _jump(pre: jax.Array, threshold: jax.Array, bandwidth: float) -> jax.Array:
    return jnp.where(pre > threshold, pre, 0)


def _jump_forward(
    pre: jax.Array, threshold: jax.Array, bandwidth: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _jump(pre, threshold, bandwidth), (pre, threshold)


def _jump_backward(
    bandwidth: float, saved: tuple[jax.Array, jax.Array], slopes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    pre, threshold = saved
    by_threshold = -threshold / bandwidth * _near(pre, threshold, bandwidth) * slopes
    return jnp.where(pre > threshold, slopes, 0), by_threshold.sum(0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _step(pre: jax.Array, threshold: jax.Array, bandwidth: float) -> jax.Array:
    return (pre > threshold).astype(pre.dtype)


def _step_forward(
    pre: jax.Array, threshold: jax.Array, bandwidth: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _step(pre, threshold, bandwidth), (pre, threshold)


def _step_backward(
    bandwidth: float, saved: tuple[jax.Array, jax.Array], slopes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    pre, threshold = saved
    by_threshold = -1 / bandwidth * _near(pre, threshold, bandwidth) * slopes
    return jnp.zeros_like(pre), by_threshold.sum(0)


_jump.defvjp(_jump_forward, _jump_backward)
_step.defvjp(_step_forward, _step_backward)
