"""One step of training: gradient, decoder constraint, Adam, and which latents are dead."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from esm_sae.sae.loss import batch_loss
from esm_sae.sae.model import Weights, initialise, z_score
from esm_sae.sae.options import Plan, TrainOptions
from esm_sae.sae.scaling import NORMALIZE_EPSILON

_EPSILON = 6.25e-10
_LARGEST_GRADIENT_NORM = 1.0


class State(NamedTuple):
    """What training carries from step to step.

    Attributes:
        weights: of the centred and scaled rows.
        optimizer: optax's state.
        since_fired: (L,) int32, rows seen since each latent last fired, up to one pass.
    """

    weights: Weights
    optimizer: optax.OptState
    since_fired: jax.Array


class StepFigures(NamedTuple):
    """What is recorded of a step: losses, and the dead latents before it."""

    loss: jax.Array
    fvu: jax.Array
    aux_loss: jax.Array
    learning_rate: jax.Array
    dead_share: jax.Array
    aux_latents: jax.Array


class StepOptions(NamedTuple):
    """The options that a compiled step is made for.

    Attributes:
        k: latents kept per row.
        aux_k: dead latents kept per row in the auxiliary loss.
        aux_alpha: weight of the auxiliary loss.
        normalize: whether rows are z-scored.
        latent_bias: whether ``lb_L`` is trained.
    """

    k: int
    aux_k: int
    aux_alpha: float
    normalize: bool
    latent_bias: bool


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
    weights = initialise(width, options.latent_dim, tied=options.tied, seed=options.seed)
    return State(
        weights,
        _optimizer().init(weights),
        since_fired=jnp.zeros(options.latent_dim, dtype=jnp.int32),
    )


@functools.partial(jax.jit, static_argnames="options")
def take_step(
    state: State,
    raw: ArrayLike,
    mask: ArrayLike,
    rate: ArrayLike,
    units: RowUnits,
    *,
    options: StepOptions,
) -> tuple[State, StepFigures]:
    """Do one step of training.

    Args:
        state: the state before it.
        raw: (B, D) raw rows.
        mask: (B,), 1 for real rows and 0 for padding.
        rate: the learning rate.
        units: what the rows are centred and scaled by.
        options: what the step is made for.
    """
    raw, mask = jnp.asarray(raw), jnp.asarray(mask)
    raw_per_scaled = jnp.full((len(raw), 1), units.scale, dtype=raw.dtype)
    if options.normalize:
        raw, _, divisor = z_score(raw, NORMALIZE_EPSILON)
        raw_per_scaled = raw_per_scaled * divisor
    rows = (raw - units.centre) / units.scale
    dead = state.since_fired >= units.rows
    (total, loss), gradient = jax.value_and_grad(batch_loss, has_aux=True)(
        state.weights,
        rows,
        mask,
        dead,
        k=options.k,
        variance=units.scaled_variance,
        aux_k=options.aux_k,
        aux_alpha=options.aux_alpha,
    )
    gradient = constrained(gradient, state.weights, latent_bias=options.latent_bias)
    updates, optimizer = _optimizer().update(gradient, state.optimizer)
    weights = jax.tree.map(lambda weight, by: weight - rate * by, state.weights, updates)
    # Counted up to one pass: more would overflow in a long training.
    unfired = jnp.minimum(state.since_fired + mask.sum().astype(jnp.int32), units.rows)
    raw_error = jnp.sum(loss.squared_errors * raw_per_scaled[:, 0] ** 2)
    figures = StepFigures(
        loss=total,
        fvu=raw_error / (mask.sum() * units.raw_variance),
        aux_loss=loss.auxiliary,
        learning_rate=jnp.asarray(rate),
        dead_share=dead.mean(),
        aux_latents=loss.auxiliary_latents,
    )
    since_fired = jnp.where(loss.fired, 0, unfired)
    return State(with_unit_rows(weights), optimizer, since_fired), figures


def learning_rate(step: int, options: TrainOptions, plan: Plan) -> float:
    """Return the learning rate of a step, counted from 0: a rise, a plateau, a fall towards 0."""
    rise, fall = round(options.warmup * plan.steps), round(options.decay * plan.steps)
    # Neither the first nor the last step is one of rate 0.
    return plan.learning_rate * min(1, (step + 1) / (rise + 1), (plan.steps - step) / (fall + 1))


def constrained(gradient: Weights, weights: Weights, *, latent_bias: bool) -> Weights:
    """Remove the gradient along the decoder rows, whose length is fixed, and that of a fixed bias.

    Adam would otherwise keep momentum along directions that renormalising takes back.
    """
    rows = weights.decoder_rows
    if gradient.decoder is None:
        along = jnp.sum(gradient.encoder.T * rows, axis=1, keepdims=True) * rows
        gradient = gradient._replace(encoder=gradient.encoder - along.T)
    else:
        along = jnp.sum(gradient.decoder * rows, axis=1, keepdims=True) * rows
        gradient = gradient._replace(decoder=gradient.decoder - along)
    if not latent_bias:
        gradient = gradient._replace(latent_bias=jnp.zeros_like(gradient.latent_bias))
    return gradient


def with_unit_rows(weights: Weights) -> Weights:
    """Return the weights with decoder rows of length 1."""
    if weights.decoder is None:
        norms = jnp.linalg.norm(weights.encoder, axis=0, keepdims=True)
        return weights._replace(encoder=weights.encoder / norms)
    norms = jnp.linalg.norm(weights.decoder, axis=1, keepdims=True)
    return weights._replace(decoder=weights.decoder / norms)


def _optimizer() -> Any:
    # Any: optax's types know no NamedTuple of arrays.
    return optax.chain(
        optax.clip_by_global_norm(_LARGEST_GRADIENT_NORM), optax.scale_by_adam(eps=_EPSILON)
    )
