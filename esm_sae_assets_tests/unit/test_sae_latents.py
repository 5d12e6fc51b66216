"""How latents fire, and the cosines of their decoder rows, against NumPy."""

import numpy as np
import pytest

from esm_sae.sae import latents
from esm_sae.sae.latents import FiringMeter, largest_cosines


def unit_rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("tile", [4, 7, 64])
def test_largest_cosines_against_the_whole_matrix(tile, monkeypatch):
    monkeypatch.setattr(latents, "_TILE", tile)
    rows = unit_rows(29, 6)
    live = np.random.default_rng(1).random(29) < 0.6
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    expected = cosines[:, live].max(axis=1)
    np.testing.assert_allclose(largest_cosines(rows, live), expected, rtol=1e-5)


def test_a_latent_is_no_other_latent_of_its_own():
    rows = unit_rows(3, 4)
    one = np.array([False, True, False])
    found = largest_cosines(rows, one)
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[[0, 2]], rows[[0, 2]] @ rows[1], rtol=1e-5)
    assert np.isnan(largest_cosines(rows, np.zeros(3, dtype=bool))).all()


def test_equal_directions_have_a_cosine_of_1_and_no_more():
    rows = np.repeat(unit_rows(1, 960), 5, axis=0)
    found = largest_cosines(rows, np.ones(5, dtype=bool))
    assert found.max() <= 1
    np.testing.assert_allclose(found, 1, rtol=1e-6)


def test_firing_over_blocks_against_dense_activations():
    generator = np.random.default_rng(0)
    rows, latent_dim, k = 50, 12, 4
    found = np.stack([generator.permutation(latent_dim)[:k] for _ in range(rows)]).astype(np.int32)
    values = generator.standard_normal((rows, k)).clip(min=0).astype(np.float32)
    dense = np.zeros((rows, latent_dim), dtype=np.float32)
    np.put_along_axis(dense, found, values, axis=1)
    meter = FiringMeter(latent_dim, k)
    for start in range(0, rows, 9):
        meter.add(values[start : start + 9], found[start : start + 9])
    firing = meter.result()
    fires = dense > 0
    np.testing.assert_array_equal(firing.counts, fires.sum(0))
    np.testing.assert_allclose(firing.sums, dense.sum(0), rtol=1e-5)
    np.testing.assert_array_equal(firing.maxima, dense.max(0))
    np.testing.assert_array_equal(firing.l0, np.bincount(fires.sum(1), minlength=k + 1))
    np.testing.assert_allclose(firing.l0_mean, fires.sum(1).mean())
    np.testing.assert_allclose(firing.densities, fires.mean(0))
    np.testing.assert_array_equal(firing.fired, fires.any(0))
