import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.embedding.windows import whole_pieces, window_pieces

LENGTHS = st.lists(st.integers(1, 120), min_size=1, max_size=12)
MAX_LENGTH = st.integers(1, 50)


def pieces_by_sequence(lengths, max_length):
    pieces = window_pieces(np.array(lengths), max_length)
    assert (np.diff(pieces.sequence) >= 0).all()
    rows = np.stack(pieces[1:], axis=1)
    return [rows[pieces.sequence == number].tolist() for number in range(len(lengths))]


@given(LENGTHS, MAX_LENGTH)
def test_every_residue_belongs_to_one_window(lengths, max_length):
    for length, windows in zip(lengths, pieces_by_sequence(lengths, max_length), strict=True):
        owned = [at for _, _, first, end in windows for at in range(first, end)]
        assert owned == list(range(length))
        for start, end, own_start, own_end in windows:
            assert 0 <= start <= own_start < own_end <= end <= length
            assert end - start == min(length, max_length)


@given(LENGTHS, MAX_LENGTH)
def test_a_residue_belongs_to_the_window_in_which_it_is_farthest_from_a_cut(lengths, max_length):
    for length, windows in zip(lengths, pieces_by_sequence(lengths, max_length), strict=True):

        def distance(window, at, length=length):
            start, end = window[:2]
            if not start <= at < end:
                return -1
            return min(at - start if start else length, end - 1 - at if end < length else length)

        for window in windows:
            for at in range(*window[2:]):
                assert distance(window, at) == max(distance(other, at) for other in windows)


@given(LENGTHS, MAX_LENGTH)
def test_windows_are_evenly_spread_and_the_fewest_that_share_an_eighth(lengths, max_length):
    shared = max_length // 8
    for length, windows in zip(lengths, pieces_by_sequence(lengths, max_length), strict=True):
        starts = [window[0] for window in windows]
        steps = np.diff(starts)
        assert (starts[0], starts[-1]) == (0, max(0, length - max_length))
        assert len(set(steps.tolist())) < 2 or np.ptp(steps) == 1
        assert (steps <= max_length - shared).all()
        one_fewer = (len(windows) - 1) * (max_length - shared) + shared
        assert len(windows) == 1 or one_fewer < length


def test_windows_of_one_long_sequence_among_short_ones():
    pieces = window_pieces(np.array([5, 22, 10]), 10)
    assert [column.tolist() for column in pieces] == [
        [0, 1, 1, 1, 2],
        [0, 0, 6, 12, 0],
        [5, 10, 16, 22, 10],
        [0, 0, 8, 14, 0],
        [5, 8, 14, 22, 10],
    ]
    assert pieces.lengths.tolist() == [5, 10, 10, 10, 10]
    assert pieces.owned.tolist() == [5, 8, 6, 8, 10]


@pytest.mark.parametrize("max_length", [None, 7])
def test_whole_pieces_are_cut_off(max_length):
    pieces = whole_pieces(np.array([5, 9]), max_length)
    assert pieces.sequence.tolist() == [0, 1]
    assert pieces.start.tolist() == pieces.own_start.tolist() == [0, 0]
    assert pieces.end.tolist() == pieces.own_end.tolist() == [5, max_length or 9]


def test_no_sequences_give_no_pieces():
    for pieces in (whole_pieces(np.array([])), window_pieces(np.array([]), 5)):
        assert [len(column) for column in pieces] == [0] * 5
