import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.embedding.residues import chosen_positions


def chosen(length, wanted, name="P1", seed=0):
    return chosen_positions(length, wanted, sequence_id=name, seed=seed)


@given(st.integers(1, 300), st.integers(1, 300), st.text(max_size=8), st.integers(0, 9))
def test_as_many_as_wanted_sorted_and_without_repeats(length, wanted, name, seed):
    positions = chosen(length, wanted, name, seed)
    assert len(positions) == min(length, wanted)
    assert (np.diff(positions) > 0).all()
    assert positions[0] >= 0
    assert positions[-1] < length


def test_none_takes_all():
    assert chosen(4, None).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("other", [{"name": "P2"}, {"seed": 1}])
def test_id_and_seed_decide(other):
    assert chosen(200, 24).tolist() == chosen(200, 24).tolist()
    assert chosen(200, 24).tolist() != chosen(200, 24, **other).tolist()


def test_every_residue_is_as_likely():
    counts = np.zeros(10)
    for number in range(2000):
        counts[chosen(10, 3, f"P{number}")] += 1
    # 600 expected each, standard deviation 20.5.
    assert np.abs(counts - 600).max() < 5 * 20.5
