"""One step of training: gradient, decoder constraint, Adam, and which latents are dead."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from esm_sae.formats.checkpoint import ZScore
from esm_sae.sae.loss import Loss, LossOptions, batch_loss
from esm_sae.sae.model import Weights, initialise, z_score
from esm_sae.sae.options import Plan, TrainOptions
from esm_sae.sae.sparse_gradient import loss_and_gradient

_EPSILON = 6.25e-10
_LARGEST_GRADIENT_NORM = 1.0
# In units of the scaled rows: along a random direction they have about this deviation.
_FIRST_THRESHOLD = 1.0
_NEWEST, _FORGETTING = 0.01, 10


class State(NamedTuple):
    """What training carries from step to step.

    Attributes:
        weights: of the centred and scaled rows.
        optimizer: optax's state.
        since_fired: (L,) int32, rows seen since each latent last fired, up to one pass.
        threshold: by BatchTopK the running mean of a batch's smallest activation, else 0.
    """

    weights: Weights
    optimizer: optax.OptState
    since_fired: jax.Array
    threshold: jax.Array


class StepFigures(NamedTuple):
    """What is recorded of a step: losses, L0, and the dead latents before it."""

    loss: ArrayLike
    fvu: ArrayLike
    aux_loss: ArrayLike
    learning_rate: ArrayLike
    dead_share: ArrayLike
    aux_latents: ArrayLike
    l0: ArrayLike


class StepOptions(NamedTuple):
    """The options that a compiled step is made for.

    Attributes:
        loss: the options of the loss.
        normalize: how rows are z-scored; None where they are not.
        latent_bias: whether ``lb_L`` is trained.
        formulation: how the gradient is taken, ``sparse`` or ``dense``.
    """

    loss: LossOptions
    normalize: ZScore | None = None
    latent_bias: bool = True
    formulation: str = "dense"


class RowUnits(NamedTuple):
    """What a step must know of the training rows.

    Attributes:
        centre: (D,), what is subtracted from a row.
        scale: what it is then divided by.
        scaled_variance: mean of ``|x' - mu'|^2`` over the rows as they are trained on.
        raw_variance: mean of ``|x - mu|^2`` over the raw rows.
        rows: their number; a latent is dead when it has not fired on the last that many.
    """

    centre: ArrayLike
    scale: ArrayLike
    scaled_variance: ArrayLike
    raw_variance: ArrayLike
    rows: ArrayLike


def start(options: TrainOptions, width: int) -> State:
    """Return the state before the first step."""
    weights = initialise(
        width,
        options.latent_dim,
        tied=options.tied,
        seed=options.seed,
        threshold=_FIRST_THRESHOLD if options.activation == "jumprelu" else None,
    )
    return State(
        weights,
        _optimizer().init(weights),
        since_fired=jnp.zeros(options.latent_dim, dtype=jnp.int32),
        threshold=jnp.float32(0),
    )


def take_step(
    state: State,
    raw: ArrayLike,
    mask: ArrayLike,
    rate: ArrayLike,
    units: RowUnits,
    *,
    k: int,
    options: StepOptions,
) -> tuple[State, StepFigures]:
    """Do one step of training. The memory of the state given is used again: it ends with this.

    Args:
        state: the state before it.
        raw: (B, D) raw rows.
        mask: (B,), 1 for real rows and, from some row on, 0 for padding.
        rate: the learning rate.
        units: what the rows are centred and scaled by.
        k: latents kept per row in this step.
        options: what the step is made for.
    """
    if options.formulation == "dense":
        return _dense_step(state, raw, mask, rate, units, np.int32(k), options)
    rows, raw_per_scaled = _in_training_units(raw, units, options.normalize)
    # As on other devices, what overflows shows in the loss.
    with np.errstate(over="ignore", invalid="ignore"):
        loss, gradient = loss_and_gradient(
            state.weights,
            np.asarray(rows),
            int(np.sum(mask)),
            np.asarray(state.since_fired) >= np.asarray(units.rows),
            float(np.asarray(units.scaled_variance)),
            options=options.loss._replace(k=k),
        )
    return _sparse_update(state, gradient, loss, raw_per_scaled, mask, rate, units, options)


def k_of_step(step: int, options: TrainOptions, plan: Plan) -> int:
    """Return the k of a step, counted from 0: from ``k_start * k`` it falls to k.

    Source: k annealing, He et al. 2024 (Llama Scope, arXiv 2410.20526).
    """
    falling = round(options.k_anneal * plan.steps)
    left = max(0.0, 1 - step / falling) if falling else 0.0
    return round(options.k * (1 + (options.k_start - 1) * left))


def learning_rate(step: int, options: TrainOptions, plan: Plan) -> float:
    """Return the learning rate of a step, counted from 0: a rise, a plateau, a fall towards 0."""
    rise, fall = round(options.warmup * plan.steps), round(options.decay * plan.steps)
    # Neither the first nor the last step is one of rate 0.
    return plan.learning_rate * min(1, (step + 1) / (rise + 1), (plan.steps - step) / (fall + 1))


@functools.partial(jax.jit, static_argnames="options", donate_argnames="state")
def _dense_step(
    state: State,
    raw: ArrayLike,
    mask: ArrayLike,
    rate: ArrayLike,
    units: RowUnits,
    k: ArrayLike,
    options: StepOptions,
) -> tuple[State, StepFigures]:
    rows, raw_per_scaled = _scaled(raw, units, options.normalize)
    (_, loss), gradient = jax.value_and_grad(batch_loss, has_aux=True)(
        state.weights,
        rows,
        jnp.asarray(mask),
        state.since_fired >= units.rows,
        units.scaled_variance,
        k,
        options=options.loss,
    )
    return _updated(state, gradient, loss, raw_per_scaled, mask, rate, units, options)


def _scaled(
    raw: ArrayLike, units: RowUnits, normalize: ZScore | None
) -> tuple[jax.Array, jax.Array]:
    """Return rows centred and scaled, and what a unit of each is in raw units, (B,)."""
    raw = jnp.asarray(raw)
    raw_per_scaled = jnp.full(len(raw), units.scale, dtype=raw.dtype)
    if normalize is not None:
        raw, _, divisor = z_score(raw, normalize)
        raw_per_scaled = raw_per_scaled * divisor[:, 0]
    return (raw - units.centre) / units.scale, raw_per_scaled


def _updated(
    state: State,
    gradient: Weights,
    loss: Loss,
    raw_per_scaled: jax.Array,
    mask: ArrayLike,
    rate: ArrayLike,
    units: RowUnits,
    options: StepOptions,
) -> tuple[State, StepFigures]:
    gradient = constrained(gradient, state.weights, latent_bias=options.latent_bias)
    updates, optimizer = _optimizer().update(gradient, state.optimizer)
    weights = jax.tree.map(lambda weight, by: weight - rate * by, state.weights, updates)
    count = jnp.sum(jnp.asarray(mask))
    # Counted up to one pass: more would overflow in a long training.
    unfired = jnp.minimum(state.since_fired + count.astype(jnp.int32), units.rows)
    raw_error = jnp.sum(loss.squared_errors * raw_per_scaled**2)
    figures = StepFigures(
        loss=loss.total,
        fvu=raw_error / (count * units.raw_variance),
        aux_loss=loss.auxiliary,
        learning_rate=jnp.asarray(rate),
        dead_share=jnp.mean(state.since_fired >= units.rows),
        aux_latents=loss.auxiliary_latents,
        l0=loss.l0,
    )
    since_fired = jnp.where(loss.fired, 0, unfired)
    threshold = state.threshold
    if options.loss.activation == "batchtopk":
        # Any: optax's types tell nothing of what is in a chain's state.
        steps = cast(Any, state.optimizer)[1].count
        threshold = _running(threshold, loss.smallest, steps)
    return State(with_unit_rows(weights), optimizer, since_fired, threshold), figures


def _running(mean: jax.Array, smallest: ArrayLike, steps: jax.Array) -> jax.Array:
    """Return BatchTopK's threshold after a batch, in which perhaps nothing fired.

    The newest counts for a hundredth, and for more in the first thousand steps: what the untrained
    weights had must not stay in it.
    """
    weight = jnp.maximum(_NEWEST, _FORGETTING / (steps + _FORGETTING))
    return jnp.where(jnp.isfinite(smallest), mean + weight * (smallest - mean), mean)


_in_training_units = jax.jit(_scaled, static_argnames="normalize")
_sparse_update = jax.jit(_updated, static_argnames="options", donate_argnames="state")


def constrained(gradient: Weights, weights: Weights, *, latent_bias: bool) -> Weights:
    """Remove the gradient along the decoder rows, whose length is fixed, and that of a fixed bias.

    Adam would otherwise keep momentum along directions that renormalising takes back.
    """
    rows, by_rows = weights.decoder_rows, gradient.decoder_rows
    across = by_rows - jnp.sum(by_rows * rows, axis=1, keepdims=True) * rows
    tied = gradient.decoder is None
    gradient = gradient._replace(**{"encoder" if tied else "decoder": across})
    if not latent_bias:
        gradient = gradient._replace(latent_bias=jnp.zeros_like(gradient.latent_bias))
    return gradient


def with_unit_rows(weights: Weights) -> Weights:
    """Return the weights with decoder rows of length 1."""
    rows = weights.decoder_rows
    unit = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    return weights._replace(**{"encoder" if weights.decoder is None else "decoder": unit})


def _optimizer() -> Any:
    # Any: optax's types know no NamedTuple of arrays.
    return optax.chain(
        optax.clip_by_global_norm(_LARGEST_GRADIENT_NORM), optax.scale_by_adam(eps=_EPSILON)
    )
