import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.clusters.copies import distinct_points


def spread_of(points):
    return np.sqrt(np.square(points).sum(axis=1).mean())


def apart(generator, count, width):
    """Points of which none is near another."""
    return generator.normal(size=(count, width)) + 10 * np.arange(count)[:, None]


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 60),
    width=st.integers(1, 60),
    copies=st.integers(0, 60),
)
def test_copies_are_found_wherever_they_lie(seed, count, width, copies):
    generator = np.random.default_rng(seed)
    originals = apart(generator, count, width)
    copied = generator.integers(count, size=copies)
    noise = generator.normal(size=(copies, width))
    noise *= 1e-4 * spread_of(originals) / np.linalg.norm(noise, axis=1, keepdims=True)
    order = generator.permutation(count + copies)
    points = np.concatenate([originals, originals[copied] + noise])[order].astype(np.float32)
    expected = np.concatenate([np.arange(count), copied])[order]
    first, number = distinct_points(points)
    assert len(first) == count
    assert (np.diff(first) > 0).all()
    assert (expected[first][number] == expected).all()
    assert (first[number] <= np.arange(len(points))).all()


def test_in_many_dimensions_none_of_ten_thousand_copies_is_missed():
    generator = np.random.default_rng(0)
    originals = generator.normal(size=(10_000, 50))
    noise = generator.normal(size=originals.shape)
    noise *= 1e-4 * spread_of(originals) / np.linalg.norm(noise, axis=1, keepdims=True)
    first, number = distinct_points(np.concatenate([originals, originals + noise]))
    assert (first == np.arange(10_000)).all()
    assert (number[10_000:] == number[:10_000]).all()


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_points_are_one(value):
    first, number = distinct_points(np.full((5_000, 3), value, dtype=np.float32))
    assert first.tolist() == [0]
    assert not number.any()


def test_points_further_apart_stay_apart():
    points = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    nudged = points + np.float32(5e-3) * spread_of(points)
    first, _ = distinct_points(np.concatenate([points, nudged]))
    assert len(first) == 1_000
