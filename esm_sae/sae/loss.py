"""The training loss: reconstruction, and the auxiliary loss that revives dead latents.

Written for a device that multiplies large dense matrices well; ``sparse_gradient`` takes the same
gradient on CPUs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from esm_sae.sae.model import Weights, combinations, decode, largest_mask, pre_activations


class LossOptions(NamedTuple):
    """The options of the loss.

    Attributes:
        k: latents kept per row.
        aux_k: dead latents kept per row in the auxiliary loss.
        aux_alpha: weight of the auxiliary loss.
        precision: type of the factors of matrix products, ``float32`` or ``bfloat16``.
    """

    k: int
    aux_k: int
    aux_alpha: float
    precision: str = "float32"


class Loss(NamedTuple):
    """What the loss of a batch consists of.

    Attributes:
        total: the reconstruction's FVU and the weighted auxiliary loss.
        auxiliary: the auxiliary loss, before its weight.
        auxiliary_latents: number of dead latents that receive gradient from it.
        squared_errors: ``|x - x_hat|^2`` of each row, (B,), 0 on padding.
        fired: whether each latent fired on any row, (L,).
    """

    total: ArrayLike
    auxiliary: ArrayLike
    auxiliary_latents: ArrayLike
    squared_errors: ArrayLike
    fired: ArrayLike


def batch_loss(
    weights: Weights,
    rows: jax.Array,
    mask: jax.Array,
    dead: jax.Array,
    variance: ArrayLike,
    *,
    options: LossOptions,
) -> tuple[jax.Array, Loss]:
    """Return the loss of a batch and what it consists of.

    FVU is ``sum |x - x_hat|^2 / sum |x - mu|^2`` over the real rows, with the denominator's mean
    taken once from all training rows: a batch's own would be 0/0 on a tail of one row. The
    auxiliary loss is weighted by ``aux_alpha * min(1, dead / aux_k)``.

    Args:
        weights: the weights.
        rows: (B, D), centred and scaled.
        mask: (B,), 1 for real rows and 0 for padding.
        dead: (L,), which latents are dead.
        variance: mean over the training rows of ``|x - mu|^2``, in the units of ``rows``.
        options: the options of the loss.
    """
    pre = pre_activations(weights, rows, precision=options.precision)
    kept = largest_mask(lax.stop_gradient(pre), options.k) & (mask[:, None] > 0)
    activations = jnp.where(kept, jax.nn.relu(pre), 0)
    reconstructed = decode(weights, activations, precision=options.precision)
    errors = (rows - reconstructed) * mask[:, None]
    squared_errors = jnp.sum(errors**2, axis=1)
    fvu = squared_errors.sum() / (mask.sum() * variance)
    auxiliary, aux_latents = lax.cond(
        jnp.any(dead) & bool(options.aux_alpha),
        lambda: auxiliary_loss(weights, pre, errors, mask, dead, options),
        lambda: (jnp.float32(0), jnp.int32(0)),
    )
    weight = options.aux_alpha * jnp.minimum(1.0, dead.sum() / options.aux_k)
    total = fvu + weight * auxiliary
    fired = jnp.any(activations > 0, axis=0)
    return total, Loss(total, auxiliary, aux_latents, squared_errors, fired)


def auxiliary_loss(
    weights: Weights,
    pre: jax.Array,
    errors: jax.Array,
    mask: jax.Array,
    dead: jax.Array,
    options: LossOptions,
) -> tuple[jax.Array, jax.Array]:
    """Return the auxiliary loss (Gao et al. 2024, appendix A.2) and how many latents it moves.

    The ``aux_k`` largest pre-activations among the dead latents, after ReLU and the decoder but
    without ``pb_D``, are to reconstruct the residual, which takes no gradient itself. Divided by
    the residual's mean square, which is its variance: ``pb_D`` keeps its mean at 0. About a
    batch's own mean it would be 0/0 on a tail of one row.

    Args:
        weights: the weights.
        pre: (B, L) pre-activations of all latents, before TopK.
        errors: (B, D) residual, 0 on padding.
        mask: (B,), 1 for real rows and 0 for padding.
        dead: (L,), which latents are dead.
        options: the options of the loss.
    """
    target = lax.stop_gradient(errors)
    kept = lax.stop_gradient(_largest_dead(pre, dead, options.aux_k)) & (mask[:, None] > 0)
    activations = jnp.where(kept, pre, 0)
    missed = target - combinations(activations, weights.decoder_rows, options.precision)
    scale = jnp.maximum(jnp.sum(target**2), jnp.finfo(target.dtype).tiny)
    moved = jnp.any(kept, axis=0).sum()
    return jnp.sum(missed**2 * mask[:, None]) / scale, moved


def _largest_dead(pre: jax.Array, dead: jax.Array, aux_k: int) -> jax.Array:
    # ReLU drops what is not above 0: mostly fewer than aux_k are left and none has to be chosen.
    candidates = dead & (pre > 0)
    return lax.cond(
        jnp.all(candidates.sum(1) <= aux_k),
        lambda: candidates,
        lambda: candidates & largest_mask(jnp.where(dead, pre, -jnp.inf), aux_k),
    )
