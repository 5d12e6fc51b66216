import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.multiple_testing import benjamini_hochberg, benjamini_yekutieli

p_values = st.lists(st.sampled_from([0, 1e-9, 0.001, 0.01, 0.02, 0.04, 0.3, 1]), max_size=30)


def naive_q(p, factor=1.0):
    """The least over the equal and larger p-values of p m / rank."""
    ranked = sorted(p)
    steps = [value * factor * len(ranked) / rank for rank, value in enumerate(ranked, 1)]
    return [min(1, *steps[ranked.index(value) :]) for value in p]


@given(p_values, st.integers(0, 20))
def test_tests_that_are_not_given_count_as_p_of_1(p, others):
    whole = p + [1.0] * others
    harmonic = sum(1 / rank for rank in range(1, len(whole) + 1))
    q = benjamini_hochberg(np.array(p, dtype=float), len(whole))
    assert q.tolist() == pytest.approx(naive_q(whole)[: len(p)])
    dependent = benjamini_yekutieli(np.array(p, dtype=float), len(whole))
    assert dependent.tolist() == pytest.approx(naive_q(whole, harmonic)[: len(p)])


def test_the_example_of_benjamini_and_hochberg():
    """Section 4.1 of the paper: of 15 p-values the first 4 are discoveries at 5%."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert (benjamini_hochberg(np.array(p), 15) <= 0.05).tolist() == [True] * 4 + [False] * 11
