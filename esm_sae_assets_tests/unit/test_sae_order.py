"""The order of an epoch: a permutation that looks uniform."""

from collections import Counter
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.sae.order import EpochOrder


def whole(count, *, seed=0, epoch=1):
    return EpochOrder(count, seed, epoch).places(0, count)


def excess(observed, expected, degrees):
    """Return chi-square in standard deviations above its mean under uniform chances."""
    return (((observed - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees)


def test_every_place_comes_once_whatever_their_number():
    for count in [*range(300), *range(300, 5001, 7), 4999, 5000]:
        order = np.sort(whole(count, seed=count % 5))
        np.testing.assert_array_equal(order, np.arange(count))
        assert order.dtype == np.int64


@given(st.integers(1, 3000), st.integers(0, 2**64), st.integers(0, 2**40), st.data())
def test_a_part_of_the_order_is_that_part_of_the_whole(count, seed, epoch, data):
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    order = EpochOrder(count, seed, epoch)
    np.testing.assert_array_equal(order.places(start, stop), order.places(0, count)[start:stop])


@pytest.mark.parametrize("count", [2**31, 10**12 + 1, 2**62])
def test_the_largest_orders_are_computed_in_part(count):
    order = EpochOrder(count, 3, 1)
    places = np.concatenate([order.places(0, 5000), order.places(count - 5000, count)])
    assert len(np.unique(places)) == len(places)
    assert 0 <= places.min() < count * 0.01
    assert count * 0.99 < places.max() < count


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 11), (5, 4)])
def test_places_outside_are_an_error(start, stop):
    with pytest.raises(IndexError, match=r"of a permutation of 10$"):
        EpochOrder(10, 0, 1).places(start, stop)


def test_the_order_is_fixed():
    # A training that was stopped goes on with it, so another order would skip and repeat rows.
    assert whole(10).tolist() == [1, 3, 7, 0, 5, 4, 6, 9, 8, 2]


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 2}, {"seed": 1, "epoch": 0}])
def test_another_seed_or_epoch_is_another_order(other):
    one, two = whole(10_000), whole(10_000, **other)
    # Two independent orders agree in 1 place on average.
    assert (one == two).sum() < 10
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_orders_of_few_rows_come_up_equally_often(count):
    orders = Counter(tuple(whole(count, seed=seed)) for seed in range(1500))
    assert len(orders) == factorial(count)
    observed = np.array(list(orders.values()))
    assert excess(observed, 1500 / len(orders), len(orders) - 1) < 4


@pytest.mark.parametrize("count", [16, 50])
def test_each_row_comes_up_at_each_place_equally_often(count):
    counts = np.zeros((count, count))
    for seed in range(1000):
        counts[np.arange(count), whole(count, seed=seed)] += 1
    assert excess(counts, 1000 / count, (count - 1) ** 2) < 4


@pytest.mark.parametrize("count", [10_000, 65_536, 70_001])
def test_rows_are_mixed_over_the_whole_epoch(count):
    order = whole(count).astype(float)
    places = np.arange(count)
    parts = np.histogram2d(places, order, bins=16, range=[[0, count], [0, count]])[0]
    assert excess(parts, count / 256, 15 * 15) < 4
    # Of a uniform order: a third of the rows, with a standard deviation of 0.3 / sqrt(count).
    assert abs(np.abs(order - places).mean() / count - 1 / 3) < 1.2 / np.sqrt(count)
    side = round(np.sqrt(count))
    for lag in (1, 2, side - 1, side, side + 1):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 4 / np.sqrt(count)


@pytest.mark.parametrize("count", [10_000, 65_536])
def test_neighbours_are_not_read_together(count):
    # Of a uniform order: 2 pairs of neighbours on average, so 40 in these 20.
    pairs = sum((np.abs(np.diff(whole(count, seed=seed))) == 1).sum() for seed in range(20))
    assert 20 < pairs < 62
