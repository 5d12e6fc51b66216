from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.sequences.draw import Draw


@given(
    passes=st.lists(st.booleans(), max_size=60),
    n=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    seed=st.integers(0, 2**40),
    slack=st.integers(0, 30),
)
def test_chunks_do_not_change_the_draw(passes, n, cuts, seed, slack):
    keys = np.random.PCG64(np.random.SeedSequence((seed, n))).random_raw(len(passes))
    passing = [number for number, wanted in enumerate(passes) if wanted]
    expected = sorted(sorted(passing, key=lambda number: keys[number])[:n])
    draw = Draw(n, seed)
    draw._most = n + slack
    before = 0
    for chunk in np.split(np.array(passes, dtype=bool), sorted(min(c, len(passes)) for c in cuts)):
        candidates = draw.offer(chunk)
        assert chunk[candidates].all()
        draw.place(candidates + before, candidates + 1)
        before += len(chunk)
    numbers, _ = draw.chosen()
    assert numbers.tolist() == expected


class OneKey:
    """Random bits that are not random."""

    def random_raw(self, size):
        return np.full(size, 7, dtype=np.uint64)


def test_of_equal_keys_the_earliest_records_are_drawn():
    draw = Draw(3, 0)
    draw._bits, draw._most = OneKey(), 4
    for first in range(0, 20, 5):
        candidates = draw.offer(np.ones(5, dtype=bool))
        draw.place(candidates + first, candidates)
    assert draw.chosen()[0].tolist() == [0, 1, 2]


def counts_over_seeds(draw, seeds):
    counts = Counter()
    for seed in range(seeds):
        counts.update(draw(seed))
    return counts


def chi_square(counts, categories, draws):
    expected = draws / categories
    return sum((counts[category] - expected) ** 2 / expected for category in range(categories))


def drawn(draw, passes):
    numbers = draw.offer(np.array(passes))
    draw.place(numbers, numbers)
    return draw.chosen()[0].tolist()


def test_every_subset_is_equally_likely():
    def subset(seed):
        chosen = drawn(Draw(2, seed), [True, True, False, True, True, True])
        return [[0, 1, 3, 4, 5].index(chosen[0]) * 5 + [0, 1, 3, 4, 5].index(chosen[1])]

    counts = counts_over_seeds(subset, 4000)
    assert len(counts) == 10
    statistic = sum((count - 400) ** 2 / 400 for count in counts.values())
    # 99.9% of chi-square with 9 degrees of freedom. The seeds are fixed: this never flickers.
    assert statistic < 27.88


def test_every_record_is_equally_likely():
    def chosen(seed):
        return drawn(Draw(10, seed), [True] * 50)

    counts = counts_over_seeds(chosen, 2000)
    # Drawing without replacement shrinks the statistic by (50 - 10) / (50 - 1).
    assert chi_square(counts, 50, 20_000) / (40 / 49) < 85.35


def test_a_sample_of_a_sample_with_one_seed_is_uniform():
    # With the same keys in both draws, record 0 would come out of 42% instead of 25%.
    def chosen(seed):
        first, second = drawn(Draw(2, seed), [True] * 4), drawn(Draw(1, seed), [True] * 2)
        return [first[second[0]]]

    assert chi_square(counts_over_seeds(chosen, 4000), 4, 4000) < 16.27
