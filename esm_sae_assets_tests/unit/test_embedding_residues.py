import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.embedding.residues import (
    all_residues,
    chosen_positions,
    drawn_residues,
    spread,
)
from esm_sae.embedding.windows import window_pieces


def chosen(length, wanted, name="P1", seed=0):
    return chosen_positions(length, wanted, sequence_id=name, seed=seed)


@given(st.integers(1, 300), st.integers(1, 300), st.text(max_size=8), st.integers(0, 9))
def test_as_many_as_wanted_sorted_and_without_repeats(length, wanted, name, seed):
    positions = chosen(length, wanted, name, seed)
    assert len(positions) == min(length, wanted)
    assert (np.diff(positions) > 0).all()
    assert positions[0] >= 0
    assert positions[-1] < length


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


def test_all_residues_count_up_in_each_sequence():
    rows = all_residues(np.array([3, 1, 2]))
    assert rows.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert rows.sequences.tolist() == [0, 0, 0, 1, 2, 2]
    assert len(all_residues(np.array([], dtype=int))) == 0


def test_drawn_residues_are_those_of_each_sequence():
    lengths, ids = np.array([30, 2, 50]), ["P1", "P2", "P3"]
    rows = drawn_residues(lengths, 4, ids=ids, seed=3)
    expected = [chosen(length, 4, name, 3) for length, name in zip(lengths, ids, strict=True)]
    assert rows.positions.tolist() == np.concatenate(expected).tolist()
    assert rows.counts.tolist() == [4, 2, 4]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 9))
def test_each_row_is_of_the_piece_that_owns_its_residue(lengths, max_length, wanted):
    ids = [f"P{number}" for number in range(len(lengths))]
    rows = drawn_residues(np.array(lengths), wanted, ids=ids, seed=0)
    pieces = window_pieces(np.array(lengths), max_length)
    first, end = rows.of_pieces(pieces)
    owners = np.repeat(np.arange(len(first)), end - first)
    assert len(owners) == len(rows)
    assert (pieces.sequence[owners] == rows.sequences).all()
    assert (pieces.own_start[owners] <= rows.positions).all()
    assert (rows.positions < pieces.own_end[owners]).all()


def test_runs_of_rows_are_spread_to_their_places():
    target = np.zeros((6, 1))
    spread(np.array([[1.0], [2.0], [3.0]]), target, np.array([4, 1]), np.array([6, 2]))
    assert target[:, 0].tolist() == [0, 3, 0, 0, 1, 2]
