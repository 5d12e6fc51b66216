import numpy as np

from esm_sae.analysis.taxonomy.strata import amino_acid_shares, strata_of


def proteins(count, seed=0):
    generator = np.random.default_rng(seed)
    letters = list("ACDEFGHIKLMNPQRSTVWY")
    return [
        "".join(generator.choice(letters, generator.integers(30, 300), p=shares))
        for shares in generator.dirichlet(np.ones(20) * 5, count)
    ]


def test_strata_are_of_like_size_and_sorted_by_length():
    sequences = proteins(600)
    strata = strata_of(sequences)
    sizes = np.bincount(strata)
    assert len(sizes) == 48
    assert sizes.min() >= 10
    assert sizes.max() <= 16
    lengths = np.array([len(sequence) for sequence in sequences])
    thirds = strata // 16
    for third in range(2):
        assert lengths[thirds == third].max() <= lengths[thirds == third + 1].min()


def test_strata_hold_composition_together():
    sequences = proteins(600)
    strata, shares = strata_of(sequences), amino_acid_shares(sequences)
    within = sum(
        ((shares[strata == stratum] - shares[strata == stratum].mean(axis=0)) ** 2).sum()
        for stratum in np.unique(strata)
    )
    by_chance = np.random.default_rng(1).permutation(strata)
    without = sum(
        ((shares[by_chance == stratum] - shares[by_chance == stratum].mean(axis=0)) ** 2).sum()
        for stratum in np.unique(strata)
    )
    assert within < 0.8 * without


def test_the_order_of_proteins_has_no_say():
    sequences = proteins(150)
    order = np.random.default_rng(3).permutation(150)
    shuffled = strata_of([sequences[place] for place in order])
    assert (strata_of(sequences)[order] == shuffled).all()


def test_equal_proteins_are_never_parted():
    strata = strata_of(["MKV" * 20] * 70 + ["GASTPQ" * 30] * 50)
    assert len(set(strata[:70])) == len(set(strata[70:])) == 1


def test_few_proteins_are_one_stratum_and_an_empty_one_is_no_error():
    assert strata_of(["", "MK", "mkv", "XXX"]).tolist() == [0, 0, 0, 0]
    assert set(strata_of(["", "X"] * 10 + ["MKVL"] * 20).tolist()) == {0, 1}
    shares = amino_acid_shares(["", "XX", "kKaX"])
    assert shares[:2].sum() == 0
    assert shares[2].tolist() == [1 / 3] + [0] * 7 + [2 / 3] + [0] * 11
