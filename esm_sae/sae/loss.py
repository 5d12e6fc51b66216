"""The training loss: reconstruction, and the auxiliary loss that revives dead latents.

Written for a device that multiplies large dense matrices well; ``sparse_gradient`` takes the same
gradient on CPUs.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from esm_sae.sae.activation import activate, smallest_fired
from esm_sae.sae.model import Weights, combinations, largest_mask, pre_activations


class LossOptions(NamedTuple):
    """The options of the loss.

    Attributes:
        k: latents kept per row, at the end.
        aux_k: dead latents kept per row in the auxiliary loss.
        aux_alpha: weight of the auxiliary loss.
        precision: type of the factors of matrix products, ``float32`` or ``bfloat16``.
        activation: as in ``activation.activate``.
        prefixes: numbers of latents of nested dictionaries, ascending, each of which is to
            reconstruct the rows by itself, beside the whole.
        bandwidth: as in ``activation.activate``.
        l0_weight: weight of JumpReLU's ``(L0 / k - 1) ** 2``.
    """

    k: int
    aux_k: int
    aux_alpha: float
    precision: str = "float32"
    activation: str = "topk"
    prefixes: tuple[int, ...] = ()
    bandwidth: float = 0.0
    l0_weight: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether it is TopK with the reconstruction of all latents alone."""
        return self.activation == "topk" and not self.prefixes


class Loss(NamedTuple):
    """What the loss of a batch consists of.

    Attributes:
        total: the reconstruction's FVU, or the mean of all dictionaries', and the weighted
            auxiliary loss and penalty.
        auxiliary: the auxiliary loss, before its weight.
        auxiliary_latents: number of dead latents that receive gradient from it.
        squared_errors: ``|x - x_hat|^2`` of each row, (B,), 0 on padding.
        fired: whether each latent fired on any row, (L,).
        l0: latents that fired on a row, in the mean.
        smallest: by BatchTopK the smallest activation above 0, else 0.
    """

    total: ArrayLike
    auxiliary: ArrayLike
    auxiliary_latents: ArrayLike
    squared_errors: ArrayLike
    fired: ArrayLike
    l0: ArrayLike
    smallest: ArrayLike = 0.0


def batch_loss(
    weights: Weights,
    rows: jax.Array,
    mask: jax.Array,
    dead: jax.Array,
    variance: ArrayLike,
    k: ArrayLike,
    *,
    options: LossOptions,
) -> tuple[jax.Array, Loss]:
    """Return the loss of a batch and what it consists of.

    FVU is ``sum |x - x_hat|^2 / sum |x - mu|^2`` over the real rows, with the denominator's mean
    taken once from all training rows: a batch's own would be 0/0 on a tail of one row. The
    auxiliary loss is weighted by ``aux_alpha * min(1, dead / aux_k)``. With nested dictionaries
    the mean of their FVUs and the whole's takes the FVU's place (Matryoshka SAEs, Bussmann et al.
    2025, arXiv 2503.17547). JumpReLU is held at k by ``l0_weight * (L0 / k - 1) ** 2``
    (Rajamanoharan et al. 2024, arXiv 2407.14435).

    Args:
        weights: the weights.
        rows: (B, D), centred and scaled.
        mask: (B,), 1 for real rows and 0 for padding.
        dead: (L,), which latents are dead.
        variance: mean over the training rows of ``|x - mu|^2``, in the units of ``rows``.
        k: latents kept per row in this step.
        options: the options of the loss.
    """
    pre = pre_activations(weights, rows, precision=options.precision)
    activations, l0 = activate(
        weights, pre, mask, k, activation=options.activation, bandwidth=options.bandwidth
    )
    *nested, errors = _errors(weights, activations, rows, mask, options)
    squared_errors = jnp.sum(errors**2, axis=1)
    squares = sum((jnp.sum(of_prefix**2) for of_prefix in nested), squared_errors.sum())
    fvu = squares / (len(nested) + 1) / (mask.sum() * variance)
    auxiliary, aux_latents = lax.cond(
        jnp.any(dead) & bool(options.aux_alpha),
        lambda: auxiliary_loss(weights, pre, errors, mask, dead, options),
        lambda: (jnp.float32(0), jnp.int32(0)),
    )
    weight = options.aux_alpha * jnp.minimum(1.0, dead.sum() / options.aux_k)
    total = fvu + weight * auxiliary
    if options.activation == "jumprelu":
        total += options.l0_weight * (l0 / k - 1) ** 2
    fired = jnp.any(activations > 0, axis=0)
    smallest = smallest_fired(activations) if options.activation == "batchtopk" else 0.0
    return total, Loss(total, auxiliary, aux_latents, squared_errors, fired, l0, smallest)


def _errors(
    weights: Weights,
    activations: jax.Array,
    rows: jax.Array,
    mask: jax.Array,
    options: LossOptions,
) -> list[jax.Array]:
    """Return what each nested dictionary misses of the rows, (B, D), and what all latents do."""
    edges = (0, *options.prefixes, activations.shape[1])
    reconstructed, errors = weights.pre_bias, []
    for start, end in itertools.pairwise(edges):
        directions = weights.decoder_rows[start:end]
        reconstructed += combinations(activations[:, start:end], directions, options.precision)
        errors.append((rows - reconstructed) * mask[:, None])
    return errors


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
