"""One step: the decoder's constraint, dead latents, the learning rate, revival."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esm_sae.sae.loss import LossOptions
from esm_sae.sae.model import Weights, initialise
from esm_sae.sae.options import Plan, TrainOptions, plan_training
from esm_sae.sae.training_step import (
    RowUnits,
    StepOptions,
    constrained,
    learning_rate,
    start,
    take_step,
    with_unit_rows,
)

D, L, B = 6, 16, 8


def rows_of(count=B, seed=0):
    return np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)


def units(width=D, rows=1000):
    return RowUnits(np.zeros(width, np.float32), np.float32(1), float(width), float(width), rows)


def stepper(options, *, rows=1000, width=D, aux_k=3, rate=1e-2, formulation="sparse"):
    """Return a function that does a step of all real rows, or of those of a mask, and a state."""
    made_for = StepOptions(
        LossOptions(options.k, aux_k, options.aux_alpha, options.precision),
        options.z_score,
        options.latent_bias,
        formulation,
    )

    def step(state, raw, mask=None):
        mask = np.ones(len(raw), np.float32) if mask is None else mask
        return take_step(state, raw, mask, rate, units(width, rows), k=options.k, options=made_for)

    return step, start(options, width)


@pytest.mark.parametrize("tied", [False, True])
def test_the_gradient_along_the_decoder_rows_is_removed(tied):
    weights = initialise(D, L, tied=tied, seed=0)
    gradient = jax.tree.map(
        lambda a: jnp.asarray(np.random.default_rng(1).standard_normal(a.shape), jnp.float32),
        weights,
    )
    left = constrained(gradient, weights, latent_bias=True)
    along = jnp.sum(left.decoder_rows * weights.decoder_rows, axis=1)
    np.testing.assert_allclose(along, 0, atol=1e-6)
    difference = gradient.decoder_rows - left.decoder_rows
    cosine = jnp.sum(difference * weights.decoder_rows, 1) / jnp.linalg.norm(difference, axis=1)
    np.testing.assert_allclose(np.abs(cosine), 1, rtol=1e-5)
    np.testing.assert_array_equal(left.latent_bias, gradient.latent_bias)


@pytest.mark.parametrize("tied", [False, True])
def test_decoder_rows_stay_of_length_1(tied):
    step, state = stepper(TrainOptions(L, 3, tied=tied), rows=1000)
    before = np.array(state.weights.encoder)
    for seed in range(5):
        state, _ = step(state, rows_of(seed=seed))
    norms = np.linalg.norm(state.weights.decoder_rows, axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)
    assert not np.allclose(state.weights.encoder, before)
    assert (state.weights.decoder is None) == tied


def test_unit_rows_keep_their_direction():
    weights = Weights(jnp.ones((L, D)), jnp.full((L, D), 4.0), jnp.zeros(L), jnp.zeros(D))
    np.testing.assert_allclose(with_unit_rows(weights).decoder_rows, D**-0.5, rtol=1e-6)


def test_a_bias_that_is_switched_off_stays_0():
    step, state = stepper(TrainOptions(L, 3, latent_bias=False), rows=1000)
    for seed in range(3):
        state, _ = step(state, rows_of(seed=seed))
    assert not state.weights.latent_bias.any()
    assert state.weights.pre_bias.any()


def test_a_latent_is_dead_after_a_full_pass_without_firing_and_not_after_a_batch():
    step, state = stepper(TrainOptions(L, 3, aux_alpha=0.0), rows=2 * B + 3)
    silent = 5
    weights = state.weights._replace(latent_bias=state.weights.latent_bias.at[silent].set(-99))
    state = state._replace(weights=weights)
    mask = np.ones(B, np.float32)
    tail = np.r_[np.ones(3), np.zeros(B - 3)].astype(np.float32)
    seen, dead = [], []
    for seed, real in enumerate([mask, mask, tail, tail]):
        state, figures = step(state, rows_of(seed=seed), real)
        seen.append(int(state.since_fired[silent]))
        dead.append(float(figures.dead_share) * L)
    assert seen == [B, 2 * B, 2 * B + 3, 2 * B + 3]
    assert dead[:3] == [0, 0, 0]
    assert dead[3] >= 1


def test_padding_fires_nothing():
    step, state = stepper(TrainOptions(L, 3), rows=1000)
    nothing = np.zeros(B, np.float32)
    nothing[0] = 1
    rows = rows_of()
    state, _ = step(state, rows, nothing)
    pre = np.asarray(initialise(D, L, tied=False, seed=0).encoder) @ rows[0]
    top = np.argsort(-pre)[:3]
    np.testing.assert_array_equal(
        np.flatnonzero(np.asarray(state.since_fired) == 0), np.sort(top[pre[top] > 0])
    )


def test_fvu_is_in_raw_units_when_rows_are_z_scored():
    options = TrainOptions(L, L, normalize=True)
    step, state = stepper(options, rows=1000)
    rows = rows_of() * np.arange(1, B + 1, dtype=np.float32)[:, None]
    _, figures = step(state, rows)
    spread = rows.std(1, keepdims=True) + 1e-5
    scored = (rows - rows.mean(1, keepdims=True)) / spread
    weights = start(options, D).weights
    activations = np.maximum(scored @ np.asarray(weights.encoder).T, 0)
    errors = (scored - activations @ np.asarray(weights.decoder)) * spread
    np.testing.assert_allclose(figures.fvu, (errors**2).sum() / (B * D), rtol=1e-4)


def test_the_learning_rate_rises_stays_and_falls_and_is_never_0():
    plan = Plan(batch_size=B, epochs=10, steps_per_epoch=10, learning_rate=0.5, aux_k=3)
    options = TrainOptions(L, warmup=0.1, decay=0.3)
    rates = np.array([learning_rate(step, options, plan) for step in range(100)])
    np.testing.assert_allclose(rates[:10], 0.5 * np.arange(1, 11) / 11)
    np.testing.assert_allclose(rates[10:70], 0.5)
    np.testing.assert_allclose(rates[70:], 0.5 * np.arange(30, 0, -1) / 31)
    flat = TrainOptions(L, warmup=0, decay=0)
    assert {learning_rate(step, flat, plan) for step in range(100)} == {0.5}


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(L, 3),
        TrainOptions(L, 3, tied=True),
        TrainOptions(L, 3, normalize=True),
        TrainOptions(L, 3, latent_bias=False, aux_alpha=0.0),
        TrainOptions(L, 3, precision="bfloat16"),
    ],
    ids=["plain", "tied", "normalize", "no bias, no auxiliary loss", "bfloat16"],
)
def test_both_formulations_take_the_same_steps(options):
    """From one state with dead latents: states that training has driven apart say nothing."""
    rows = [rows_of(count, seed) for seed, count in enumerate([B, B, B, B])]
    mask = np.r_[np.ones(B - 3), np.zeros(3)].astype(np.float32)
    ends = []
    for formulation in ("sparse", "dense"):
        step, state = stepper(options, rows=2 * B, formulation=formulation)
        since = np.where(np.arange(L) % 3 == 0, 2 * B, 0).astype(np.int32)
        state = state._replace(since_fired=jnp.asarray(since))
        for batch in rows:
            state, figures = step(state, batch, mask)
        ends.append((state, figures))
    (one, figures), (other, of_other) = ends
    # Of bfloat16 factors the sparse formulation has fewer.
    close = 1e-5 if options.precision == "float32" else 1e-2
    for name, a, b in zip(figures._fields, figures, of_other, strict=True):
        np.testing.assert_allclose(a, b, rtol=10 * close, atol=close / 10, err_msg=name)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=100 * close, atol=close)


def test_a_gradient_far_too_large_moves_the_weights_no_further_than_a_small_one():
    """Clipping keeps one wild batch from filling Adam's moments."""
    step, state = stepper(TrainOptions(L, 3), rows=1000)
    wild, _ = step(state, rows_of() * 1e4)
    moments = jax.tree.leaves(wild.optimizer)
    largest = max(float(jnp.abs(leaf).max()) for leaf in moments if leaf.dtype == jnp.float32)
    assert largest <= 0.1 + 1e-6


def planted(directions, count, seed):
    """Return rows that are sums of few of the directions: every latent has something to be."""
    generator = np.random.default_rng(seed)
    latents = len(directions)
    strengths = generator.random((count, latents)) * (generator.random((count, latents)) < 0.1)
    return (strengths @ directions).astype(np.float32)


@pytest.mark.parametrize("formulation", ["sparse", "dense"])
def test_the_auxiliary_loss_revives_dead_latents(formulation):
    width, latents, batch, window = 16, 32, 16, 320
    directions = np.random.default_rng(0).standard_normal((latents, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Half of the latents start too weak to be among the k largest.
    strength = jnp.where(jnp.arange(latents) < latents // 2, 1e-3, 1.0)
    dead_share = {}
    for aux_alpha in (1 / 32, 0.0):
        options = TrainOptions(latents, 3, aux_alpha=aux_alpha)
        step, state = stepper(options, rows=window, width=width, aux_k=8, formulation=formulation)
        encoder = state.weights.encoder * strength[:, None]
        state = state._replace(weights=state.weights._replace(encoder=encoder))
        for seed in range(600):
            state, figures = step(state, planted(directions, batch, seed))
        dead_share[aux_alpha] = float(np.mean(state.since_fired[: latents // 2] >= window))
        if not aux_alpha:
            assert figures.aux_latents == 0
    assert dead_share[0.0] >= 0.75
    assert dead_share[1 / 32] <= 0.25


def test_the_plan_takes_enough_steps_for_few_and_for_many_rows():
    few = plan_training(TrainOptions(1024), rows=5_000, width=256)
    demo = plan_training(TrainOptions(1024), rows=130_000, width=256)
    many = plan_training(TrainOptions(3840), rows=24_000_000, width=960)
    assert (few.batch_size, demo.batch_size, many.batch_size) == (32, 256, 4096)
    assert min(few.steps, demo.steps, many.steps) >= 3_000
    assert many.epochs == 3
    assert plan_training(TrainOptions(8, 2), rows=60, width=8).epochs == 100
    assert (demo.aux_k, many.aux_k) == (128, 480)
    chosen = TrainOptions(8, 2, batch_size=5, num_epochs=4, learning_rate=0.5, aux_k=9)
    plan = plan_training(chosen, rows=11, width=256)
    assert plan == Plan(batch_size=5, epochs=4, steps_per_epoch=3, learning_rate=0.5, aux_k=8)
