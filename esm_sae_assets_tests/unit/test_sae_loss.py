"""The loss: its value, where its gradient goes, and that padding does not count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esm_sae.sae.loss import LossOptions, auxiliary_loss, batch_loss
from esm_sae.sae.model import Weights, initialise

B, D, L, K = 7, 5, 12, 2
VARIANCE = 3.5
OPTIONS = LossOptions(K, aux_k=3, aux_alpha=1 / 32)


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    first = initialise(D, L, tied=False, seed=0)
    return first._replace(
        latent_bias=jnp.asarray(generator.standard_normal(L), dtype=jnp.float32) * 0.1,
        pre_bias=jnp.asarray(generator.standard_normal(D), dtype=jnp.float32) * 0.1,
    )


@pytest.fixture
def rows():
    return np.random.default_rng(1).standard_normal((B, D)).astype(np.float32)


def loss_of(weights, rows, mask=None, dead=()):
    return compiled(OPTIONS)[0](*arguments(weights, rows, mask, dead), VARIANCE, K)


def gradient_of(weights, rows, mask=None, dead=(), variance=VARIANCE, **options):
    loss_of_options = compiled(OPTIONS._replace(**options))[1]
    return loss_of_options(*arguments(weights, rows, mask, dead), variance, K)[0]


def arguments(weights, rows, mask, dead):
    mask = np.ones(len(rows), np.float32) if mask is None else np.asarray(mask, np.float32)
    return weights, rows, mask, np.isin(np.arange(L), dead)


@functools.cache
def compiled(options):
    loss = functools.partial(batch_loss, options=options)
    return jax.jit(loss), jax.jit(jax.grad(loss, has_aux=True))


def naive(weights, rows, dead, aux_k):
    """Return FVU, auxiliary loss and the latents it moves, row by row in float64."""
    enc, dec, lb, pb = (np.asarray(a, dtype=np.float64) for a in weights[:4])
    squares = missed = residual = 0.0
    moved = set()
    for row in rows.astype(np.float64):
        pre = enc @ (row - pb) + lb
        chosen = np.argsort(-pre)[:K]
        x_hat = sum((max(pre[i], 0) * dec[i] for i in chosen), pb)
        error = row - x_hat
        live_dead = [i for i in np.argsort(-pre) if i in dead][:aux_k]
        e_hat = sum((max(pre[i], 0) * dec[i] for i in live_dead), np.zeros(D))
        moved |= {i for i in live_dead if pre[i] > 0}
        squares += error @ error
        residual += error @ error
        missed += (error - e_hat) @ (error - e_hat)
    return squares / (len(rows) * VARIANCE), missed / residual, moved


@pytest.mark.parametrize("dead", [[], [4], [0, 3, 4, 5, 9, 11]])
def test_the_loss_against_one_row_at_a_time(weights, rows, dead):
    total, loss = loss_of(weights, rows, dead=dead)
    fvu, auxiliary, moved = naive(weights, rows, dead, 3)
    np.testing.assert_allclose(loss.squared_errors.sum() / (B * VARIANCE), fvu, rtol=1e-5)
    if dead:
        np.testing.assert_allclose(loss.auxiliary, auxiliary, rtol=1e-5)
        assert loss.auxiliary_latents == len(moved) > 0
        weight = 1 / 32 * min(1, len(dead) / 3)
        np.testing.assert_allclose(total, fvu + weight * auxiliary, rtol=1e-5)
    else:
        assert (loss.auxiliary, loss.auxiliary_latents) == (0, 0)
        np.testing.assert_allclose(total, fvu, rtol=1e-5)


def test_a_padded_tail_counts_as_its_real_rows(weights, rows):
    padded = np.concatenate([rows[:1], np.full((B - 1, D), 9.0, np.float32)])
    mask = np.eye(1, B)[0]
    dead = [0, 3, 4, 5, 9]
    total, loss = loss_of(weights, padded, mask, dead)
    alone, loss_alone = loss_of(weights, rows[:1], dead=dead)
    np.testing.assert_allclose(total, alone, rtol=1e-6)
    np.testing.assert_array_equal(loss.fired, loss_alone.fired)
    assert loss.auxiliary_latents == loss_alone.auxiliary_latents
    gradient = gradient_of(weights, padded, mask, dead)
    expected = gradient_of(weights, rows[:1], dead=dead)
    for one, other in zip(gradient[:4], expected[:4], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_dead_latents_get_gradient_from_before_top_k_and_only_they(weights, rows):
    """Taken from the values after TopK, as the original did, none would reach a dead latent."""
    fired = np.asarray(loss_of(weights, rows)[1].fired)
    dead = np.flatnonzero(~fired)
    assert len(dead) >= 2
    only_auxiliary = gradient_of(weights, rows, dead=dead, variance=1e30)
    touched = np.flatnonzero(np.abs(only_auxiliary.encoder).max(1) > 1e-12)
    assert len(touched) > 0
    assert set(touched) <= set(dead)
    decoder_touched = np.flatnonzero(np.abs(only_auxiliary.decoder).max(1) > 1e-12)
    assert set(decoder_touched) == set(touched)
    without = gradient_of(weights, rows, dead=dead, aux_alpha=0.0)
    assert np.abs(without.encoder[dead]).max() == 0


def test_the_residual_takes_no_gradient(weights, rows):
    """The only way from the auxiliary loss to ``pb_D`` is through the pre-activations."""
    dead = jnp.arange(L) < 6
    mask = jnp.ones(B)
    pre = jnp.asarray(np.random.default_rng(2).standard_normal((B, L)), dtype=jnp.float32)

    def auxiliary(errors, pre_bias):
        return auxiliary_loss(
            weights._replace(pre_bias=pre_bias), pre, errors, mask, dead, OPTIONS
        )[0]

    by_errors, by_bias = jax.grad(auxiliary, argnums=(0, 1))(jnp.asarray(rows), weights.pre_bias)
    assert not by_errors.any()
    assert not by_bias.any()


def test_the_auxiliary_choice_is_of_the_largest_dead_ones_even_above_aux_k(weights):
    pre = jnp.asarray([[5.0, 4, 3, 2, 1, 9, 9, 9, 9, 9, 9, 9]])
    dead = jnp.arange(L) < 5
    error = jnp.ones((1, D))
    two = OPTIONS._replace(aux_k=2)
    _, moved = auxiliary_loss(weights, pre, error, jnp.ones(1), dead, two)
    assert moved == 2
    gradient = jax.grad(lambda p: auxiliary_loss(weights, p, error, jnp.ones(1), dead, two)[0])(pre)
    assert set(np.flatnonzero(gradient)) == {0, 1}


def test_tied_weights_get_both_gradients(rows):
    tied = initialise(D, L, tied=True, seed=0)
    untied = Weights(tied.encoder, tied.encoder, tied.latent_bias, tied.pre_bias)
    one, two = gradient_of(tied, rows), gradient_of(untied, rows)
    np.testing.assert_allclose(one.encoder, two.encoder + two.decoder, rtol=1e-4, atol=1e-6)


def test_a_perfect_reconstruction_is_finite(weights):
    rows = np.tile(np.asarray(weights.pre_bias), (B, 1))
    silent = weights._replace(latent_bias=jnp.full(L, -1.0))
    total, loss = loss_of(silent, rows, dead=list(range(L)))
    assert np.isfinite(total)
    assert not loss.squared_errors.any()
