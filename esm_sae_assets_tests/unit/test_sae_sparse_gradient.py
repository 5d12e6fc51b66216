"""The sparse gradient against autodiff of the dense loss, and its kernels against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import esm_sae.sae.sparse_gradient as sparse
from esm_sae.sae import sparse_kernels as kernels
from esm_sae.sae.loss import LossOptions, batch_loss
from esm_sae.sae.model import initialise

D, L = 12, 70


def random_weights(seed, *, tied=False):
    generator = np.random.default_rng(seed)
    first = initialise(D, L, tied=tied, seed=seed)
    return first._replace(
        encoder=first.encoder * 1.3,
        latent_bias=jnp.asarray(generator.standard_normal(L), jnp.float32) * 0.2,
        pre_bias=jnp.asarray(generator.standard_normal(D), jnp.float32) * 0.3,
    )


@pytest.mark.parametrize(
    ("k", "tied", "dead_every", "count", "size"),
    [
        (1, False, 2, 20, 20),
        (3, True, 9, 13, 20),
        (4, False, 0, 1, 4),
        (9, True, 2, 20, 20),
        (9, False, 9, 1, 4),
        (L, False, 2, 13, 20),
    ],
)
def test_loss_and_gradient_are_those_of_autodiff(k, tied, dead_every, count, size, monkeypatch):
    # Several blocks, the last one short.
    monkeypatch.setattr(sparse, "_ROWS_PER_BLOCK", 6)
    options = LossOptions(k, aux_k=5, aux_alpha=1 / 4)
    weights = random_weights(k, tied=tied)
    rows = np.random.default_rng(k).standard_normal((size, D)).astype(np.float32)
    dead = np.arange(L) % dead_every == 0 if dead_every else np.zeros(L, dtype=bool)
    mask = (np.arange(size) < count).astype(np.float32)
    naive = jax.jit(jax.value_and_grad(batch_loss, has_aux=True), static_argnames="options")
    (total, expected), by_autodiff = naive(weights, rows, mask, dead, 7.5, k, options=options)
    loss, gradient = sparse.loss_and_gradient(weights, rows, count, dead, 7.5, options=options)
    np.testing.assert_allclose(loss.total, total, rtol=1e-5)
    for name, one, other in zip(loss._fields, loss, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=name)
    assert (gradient.decoder is None) == tied
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(by_autodiff), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-6)


def test_bfloat16_rounds_the_encoder_product_and_nothing_else():
    options = LossOptions(L, aux_k=5, aux_alpha=0.0)
    weights = random_weights(0)._replace(pre_bias=jnp.zeros(D))
    rows = np.random.default_rng(0).standard_normal((9, D)).astype(np.float32)
    weights = weights._replace(
        encoder=weights.encoder.astype(jnp.bfloat16).astype(jnp.float32),
    )
    rows = np.asarray(jnp.asarray(rows).astype(jnp.bfloat16).astype(jnp.float32))
    ends = [
        sparse.loss_and_gradient(
            weights,
            rows,
            9,
            np.zeros(L, dtype=bool),
            7.5,
            options=options._replace(precision=precision),
        )
        for precision in ("float32", "bfloat16")
    ]
    for one, other in zip(*(jax.tree.leaves(gradient) for _, gradient in ends), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    weights, options = random_weights(1), LossOptions(4, aux_k=5, aux_alpha=1 / 4)
    rows = np.random.default_rng(1).standard_normal((50, D)).astype(np.float32)
    results = []
    for parts in (1, 2, 5):
        with sparse.ThreadPoolExecutor(parts) as pool, monkeypatch.context() as patched:
            patched.setattr(sparse, "_threads", lambda pool=pool, parts=parts: (pool, parts))
            _, gradient = sparse.loss_and_gradient(
                weights, rows, 50, np.arange(L) < 9, 7.5, options=options
            )
        results.append([np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(gradient)])
    assert results[0] == results[1] == results[2]


scores = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 70)),
    elements=st.one_of(
        st.sampled_from([-1.0, 0.0, 1.0, 1.5, 2.0, float("inf")]), st.floats(-8, 8, width=32)
    ),
)


@given(scores, st.integers(1, 70))
def test_selection_is_that_of_top_k(pre, k):
    k = min(k, pre.shape[1])
    values, latents = np.full((len(pre), k), 9, np.float32), np.full((len(pre), k), 9, np.int32)
    kernels.select_largest(pre, values, latents)
    order = np.argsort(-pre, axis=1, kind="stable")[:, :k]
    for row in range(len(pre)):
        expected = sorted(latent for latent in order[row] if pre[row, latent] > 0)
        fired = np.count_nonzero(values[row])
        assert latents[row, :fired].tolist() == expected
        np.testing.assert_array_equal(values[row, :fired], pre[row, expected])
        assert not values[row, fired:].any()
        assert not latents[row, fired:].any()


@given(scores, st.integers(1, 70))
def test_only_the_largest_are_kept(scores, count):
    count = min(count, scores.shape[1])
    activations = np.maximum(scores, 0)
    expected = np.zeros_like(activations)
    order = np.argsort(-activations, axis=1, kind="stable")[:, :count]
    np.put_along_axis(expected, order, np.take_along_axis(activations, order, 1), 1)
    kernels.keep_largest(activations, count)
    np.testing.assert_array_equal(activations, expected)


def test_what_is_not_a_number_reaches_the_loss():
    """A training must see that it has diverged."""
    options = LossOptions(3, aux_k=5, aux_alpha=1 / 4)
    weights = random_weights(2)
    broken = weights._replace(decoder=weights.decoder.at[:, 2].set(jnp.nan))
    rows = np.random.default_rng(2).standard_normal((5, D)).astype(np.float32)
    dead = np.zeros(L, dtype=bool)
    loss, _ = sparse.loss_and_gradient(broken, rows, 5, dead, 7.5, options=options)
    assert np.isnan(loss.total)
    huge = sparse.loss_and_gradient(weights, rows * 1e30, 5, dead, 7.5, options=options)[0]
    assert not np.isfinite(huge.total)
