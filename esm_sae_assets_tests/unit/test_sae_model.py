"""The model against NumPy, and the exactness of its choices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from esm_sae.formats.checkpoint import ZScore
from esm_sae.sae.model import (
    Weights,
    combinations,
    decode,
    initial_directions,
    initialise,
    largest_mask,
    pre_activations,
    projections,
    to_dense,
    top_latents,
    z_score,
)

D, L = 6, 11


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    return Weights(
        *(
            jnp.asarray(generator.standard_normal(shape), dtype=jnp.float32)
            for shape in ((L, D), (L, D), (L,), (D,))
        )
    )


def naive_top_k(row, k):
    """Return the k largest of a row after ReLU, one latent at a time, of equals the first."""
    out = np.zeros_like(row)
    left = list(range(len(row)))
    for _ in range(k):
        best = max(left, key=lambda latent: (row[latent], -latent))
        left.remove(best)
        out[best] = max(row[best], 0)
    return out


@pytest.mark.parametrize("k", [1, 4, L])
def test_the_forward_pass_is_that_of_the_contract(weights, k):
    rows = np.random.default_rng(1).standard_normal((9, D)).astype(np.float32)
    enc, dec, lb, pb = map(np.asarray, weights[:4])
    pre = (rows - pb) @ enc.T + lb
    activations = np.stack([naive_top_k(row, k) for row in pre])
    values, latents = top_latents(pre_activations(weights, jnp.asarray(rows)), k)
    dense = to_dense(values, latents, L)
    np.testing.assert_allclose(dense, activations, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(decode(weights, dense), activations @ dec + pb, rtol=1e-4, atol=1e-5)


def test_exactly_k_are_kept_where_all_are_equal():
    values, latents = top_latents(jnp.ones((2, L)), 4)
    assert values.shape == (2, 4)
    np.testing.assert_array_equal((to_dense(values, latents, L) > 0).sum(1), [4, 4])


def test_relu_leaves_fewer_than_k():
    values, _ = top_latents(jnp.asarray([[3.0, -1.0, 2.0, -5.0]]), 3)
    np.testing.assert_array_equal(values, [[3, 2, 0]])


scores = arrays.arrays(
    np.float32,
    (4, 13),
    elements=st.one_of(
        st.sampled_from([-2.0, -1.0, 1.0, 1.5, 2.0, float("-inf")]),
        st.floats(-(2.0**100), 2.0**100, width=32).filter(bool),
    ),
)
mark_largest = jax.jit(largest_mask, static_argnums=1)


@given(scores, st.sampled_from([1, 5, 12, 13]))
def test_the_mask_marks_what_top_k_chooses(values, count):
    expected = np.zeros(values.shape, dtype=bool)
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    np.put_along_axis(expected, order, True, axis=1)
    np.testing.assert_array_equal(mark_largest(values, count), expected)


@pytest.mark.parametrize("latents", [1, 2, 31, 32, 33])
def test_the_mask_at_every_width_where_all_are_equal(latents):
    for count in {1, latents // 2 + 1, latents}:
        mask = np.asarray(mark_largest(np.ones((1, latents), np.float32), count))[0]
        np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(count))


def test_first_weights_are_the_same_unit_rows():
    weights = initialise(D, L, tied=False, seed=3)
    assert weights.decoder is not None
    np.testing.assert_allclose(np.linalg.norm(weights.decoder, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(weights.encoder, weights.decoder)
    np.testing.assert_array_equal(weights.decoder, initial_directions(D, L, seed=3))
    assert not weights.pre_bias.any()
    assert not weights.latent_bias.any()
    other = initialise(D, L, tied=False, seed=4)
    assert not np.array_equal(weights.encoder, other.encoder)


def test_tied_weights_decode_with_the_encoder():
    weights = initialise(D, L, tied=True, seed=3)
    assert weights.decoder is None
    np.testing.assert_array_equal(weights.decoder_rows, weights.encoder)


@pytest.mark.parametrize("ddof", [0, 1])
def test_z_score_divides_by_n_less_ddof(ddof):
    rows = np.random.default_rng(2).standard_normal((3, D)).astype(np.float32) * 4 + 2
    scored, mean, divisor = z_score(jnp.asarray(rows), ZScore(ddof, 1e-2))
    np.testing.assert_allclose(mean[:, 0], rows.mean(1), rtol=1e-5)
    np.testing.assert_allclose(divisor[:, 0], rows.std(1, ddof=ddof) + 1e-2, rtol=1e-5)
    np.testing.assert_allclose(scored * divisor + mean, rows, rtol=1e-4, atol=1e-5)


def test_products_of_rounded_factors_are_summed_in_float32():
    generator = np.random.default_rng(4)
    one, other = (generator.standard_normal(s).astype(np.float32) for s in ((5, 2000), (2000, 3)))
    rounded = [
        np.asarray(jnp.asarray(a).astype(jnp.bfloat16)).astype(np.float64) for a in (one, other)
    ]
    one, other = jnp.asarray(one), jnp.asarray(other)
    for found in (
        combinations(one, other, "bfloat16"),
        projections(one, other.T, "bfloat16"),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, rounded[0] @ rounded[1], rtol=1e-4, atol=1e-3)


def test_the_gradients_products_are_rounded_too():
    generator = np.random.default_rng(5)
    one, other, slopes = (
        jnp.asarray(generator.standard_normal(s), jnp.float32) for s in ((5, 7), (3, 7), (5, 3))
    )

    def rounded(array):
        return np.asarray(array.astype(jnp.bfloat16).astype(jnp.float32))

    _, backward = jax.vjp(lambda a, b: projections(a, b, "bfloat16"), one, other)
    by_one, by_other = backward(slopes)
    np.testing.assert_allclose(by_one, rounded(slopes) @ rounded(other), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_other, rounded(slopes).T @ rounded(one), rtol=1e-5, atol=1e-6)
    _, backward = jax.vjp(lambda a, b: combinations(a, b, "bfloat16"), slopes, other)
    by_slopes, by_other = backward(one)
    np.testing.assert_allclose(by_slopes, rounded(one) @ rounded(other).T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_other, rounded(slopes).T @ rounded(one), rtol=1e-5, atol=1e-6)


def test_nothing_here_is_float64():
    assert jax.dtypes.canonicalize_dtype(np.float64) == np.float32
