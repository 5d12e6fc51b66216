import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.data import bundled_fasta
from esm_sae.embedding.batching import batch_end, computed_tokens, longest_first, pad
from esm_sae.formats.sequence_index import index_of

LENGTHS = st.lists(st.integers(1, 60), max_size=80).map(np.array)


def batches_of(lengths, budget, packed=False):
    """Return the lengths of each batch."""
    lengths = np.asarray(lengths, dtype=np.int64)
    ordered, batches, start = lengths[longest_first(lengths)], [], 0
    while start < len(ordered):
        end = batch_end(ordered, start, budget, packed=packed)
        batches.append(ordered[start:end])
        start = end
    return batches


def padding_share(batches):
    computed = sum(computed_tokens(batch, packed=False) for batch in batches)
    return 1 - sum(batch.sum() for batch in batches) / computed


@given(LENGTHS, st.integers(1, 200))
def test_batches_go_from_long_to_short_within_the_budget(lengths, budget):
    batches = batches_of(lengths, budget)
    assert np.concatenate([*batches, []]).tolist() == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * batch[0] <= budget


@given(LENGTHS, st.integers(1, 200))
def test_no_batch_is_padded_by_more_than_4_percent(lengths, budget):
    for batch in batches_of(lengths, budget):
        assert padding_share([batch]) <= 0.04 + 1e-12


@given(LENGTHS, st.integers(1, 200))
def test_a_batch_is_as_large_as_budget_and_padding_allow(lengths, budget):
    batches = batches_of(lengths, budget)
    for batch, following in itertools.pairwise(batches):
        larger = np.append(batch, following[0])
        assert len(larger) * larger[0] > budget or padding_share([larger]) > 0.04


@given(LENGTHS, st.integers(1, 200))
def test_packed_batches_are_filled_with_the_sequences_own_tokens(lengths, budget):
    batches = batches_of(lengths, budget, packed=True)
    assert np.concatenate([*batches, []]).tolist() == sorted(lengths, reverse=True)
    for batch in batches:
        assert computed_tokens(batch, packed=True) == batch.sum()
        assert len(batch) == 1 or batch.sum() <= budget
        assert padding_share([batch]) <= 0.5
    for batch, following in itertools.pairwise(batches):
        larger = np.append(batch, following[0])
        assert larger.sum() > budget or padding_share([larger]) > 0.5


def test_packed_batches_are_fewer():
    lengths = np.arange(100, 60, -1)
    assert len(batches_of(lengths, 4000)) > 4
    assert [len(batch) for batch in batches_of(lengths, 4000, packed=True)] == [40]


@pytest.mark.parametrize("budget", [1024, 4096, 16_384, 65_536])
@pytest.mark.parametrize(("count", "longest"), [(64, 256), (1792, 256), (1792, 2048)])
def test_padding_stays_under_5_percent_on_real_lengths(budget, count, longest):
    lengths = index_of(bundled_fasta())["length"].to_numpy()
    batches = batches_of(lengths[lengths <= longest][:count] + 2, budget)
    assert padding_share(batches) < 0.05


def test_sequences_of_one_length_fill_the_budget():
    assert [len(batch) for batch in batches_of([10] * 25, 100)] == [10, 10, 5]


def test_ties_keep_the_order_of_the_file():
    assert longest_first(np.array([3, 5, 3, 5])).tolist() == [1, 3, 0, 2]


def test_pad_fills_up_with_the_value():
    padded = pad([np.array([4, 5, 6]), np.array([7])], 1)
    assert padded.tolist() == [[4, 5, 6], [7, 1, 1]]
