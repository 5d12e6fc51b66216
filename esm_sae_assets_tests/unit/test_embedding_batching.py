import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.embedding.batching import pad, token_batches

LENGTHS = st.lists(st.integers(1, 60), max_size=80)


@given(LENGTHS, st.integers(1, 200))
def test_every_sequence_is_in_one_batch_within_the_budget(lengths, budget):
    batches = list(token_batches(lengths, budget))
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[number] for number in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


@given(LENGTHS, st.integers(1, 200))
def test_batches_go_from_long_to_short(lengths, budget):
    order = [lengths[number] for batch in token_batches(lengths, budget) for number in batch]
    assert order == sorted(lengths, reverse=True)


@given(LENGTHS.filter(len), st.integers(1, 200))
def test_a_batch_is_as_large_as_the_budget_allows(lengths, budget):
    batches = list(token_batches(lengths, budget))
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget


def test_pad_fills_up_with_the_value():
    padded = pad([np.array([4, 5, 6]), np.array([7])], 1)
    assert padded.tolist() == [[4, 5, 6], [7, 1, 1]]
