"""The training loss: reconstruction, and the auxiliary loss that revives dead latents."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from esm_sae.sae.model import (
    Weights,
    decode,
    largest_mask,
    to_dense,
    top_latents,
)


class Loss(NamedTuple):
    """What the loss of a batch consists of.

    Attributes:
        fvu: share of the batch's variance that is not reconstructed.
        auxiliary: the auxiliary loss, before its weight.
        weighted_auxiliary: its contribution to the total.
        auxiliary_latents: number of dead latents that receive gradient from it.
        squared_errors: ``|x - x_hat|^2`` of each row, (B,).
        fired: whether each latent fired on any row, (L,).
    """

    fvu: jax.Array
    auxiliary: jax.Array
    weighted_auxiliary: jax.Array
    auxiliary_latents: jax.Array
    squared_errors: jax.Array
    fired: jax.Array


def batch_loss(
    weights: Weights,
    rows: jax.Array,
    mask: jax.Array,
    dead: jax.Array,
    *,
    k: int,
    variance: ArrayLike,
    aux_k: int,
    aux_alpha: float,
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
        k: latents kept per row.
        variance: mean over the training rows of ``|x - mu|^2``, in the units of ``rows``.
        aux_k: dead latents kept per row in the auxiliary loss.
        aux_alpha: weight of the auxiliary loss.
    """
    # With pb_D folded into the bias no gradient by the rows is taken: a matmul less.
    pre = rows @ weights.encoder + (weights.latent_bias - weights.pre_bias @ weights.encoder)
    values, latents = top_latents(pre, k)
    activations = to_dense(values, latents, pre.shape[1]) * mask[:, None]
    errors = (rows - decode(weights, activations)) * mask[:, None]
    squared_errors = jnp.sum(errors**2, axis=1)
    fvu = squared_errors.sum() / (mask.sum() * variance)
    auxiliary, aux_latents = lax.cond(
        jnp.any(dead) & bool(aux_alpha),
        lambda: auxiliary_loss(weights, pre, errors, mask, dead, aux_k),
        lambda: (jnp.float32(0), jnp.int32(0)),
    )
    share = jnp.minimum(1.0, dead.sum() / aux_k)
    weighted = aux_alpha * share * auxiliary
    fired = jnp.any(activations > 0, axis=0)
    return fvu + weighted, Loss(fvu, auxiliary, weighted, aux_latents, squared_errors, fired)


def auxiliary_loss(
    weights: Weights,
    pre: jax.Array,
    errors: jax.Array,
    mask: jax.Array,
    dead: jax.Array,
    aux_k: int,
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
        aux_k: dead latents kept per row.
    """
    target = lax.stop_gradient(errors)
    kept = lax.stop_gradient(_largest_dead(pre, dead, aux_k)) & (mask[:, None] > 0)
    activations = jnp.where(kept, pre, 0)
    missed = target - activations @ weights.decoder_rows
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
