import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.data.masked_residues import (
    Alphabet,
    Rows,
    mask_for_testing,
    mask_for_training,
    pack,
    training_batches,
)

BOS, EOS, UNKNOWN, MASK = 0, 2, 3, 32
RESIDUES = np.arange(4, 24)
ALPHABET = Alphabet(RESIDUES, MASK)


def made_up(lengths, seed=0):
    """Return tokenised proteins whose residues tell the protein's number."""
    generator = np.random.default_rng(seed)
    return [np.r_[BOS, generator.choice(RESIDUES, length), EOS] for length in lengths]


def batches(proteins, count, **options):
    settings = {"width": 8, "rows": 3, "share": 0.3, "alphabet": ALPHABET, "seed": 0, **options}
    generator = training_batches(proteins, **settings)
    return [next(generator) for _ in range(count)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(2, 9), st.integers(0, 99))
def test_rows_are_the_proteins_end_to_end(lengths, width, seed):
    proteins = made_up(lengths)
    order = np.random.default_rng(seed).permutation(len(proteins))
    rows = pack(proteins, order, width)
    laid = np.concatenate([proteins[number] for number in order])
    whole = len(laid) // width * width
    assert rows.tokens.shape == (len(laid) // width, width)
    np.testing.assert_array_equal(rows.tokens.ravel(), laid[:whole])
    for number in order:
        mine = rows.tokens[rows.proteins == number]
        np.testing.assert_array_equal(mine, proteins[number][: len(mine)])


def test_an_epoch_shows_every_row_once():
    proteins = made_up([22] * 10)
    per_epoch = 24 * 10 // 8 // 3
    seen = [batch.proteins for batch in batches(proteins, per_epoch)]
    counts = np.bincount(np.concatenate(seen).ravel(), minlength=10)
    assert counts.tolist() == [24] * 10


def test_epochs_differ_in_order_and_masks():
    proteins = made_up([22] * 10)
    one, *_, other = batches(proteins, 11)
    assert (one.proteins != other.proteins).any()


@given(st.integers(0, 25))
def test_batches_can_be_had_from_any_number_on(first):
    proteins = made_up([22] * 10)
    every = batches(proteins, first + 3)[first:]
    for resumed, whole in zip(batches(proteins, 3, first=first), every, strict=True):
        for one, other in zip(resumed, whole, strict=True):
            np.testing.assert_array_equal(one, other)


def large_rows():
    tokens = np.random.default_rng(1).choice(np.r_[BOS, EOS, UNKNOWN, RESIDUES], (200, 500))
    return Rows(tokens, np.zeros_like(tokens))


def test_masks_for_testing_hide_the_share_of_the_residues():
    rows = large_rows()
    masked = mask_for_testing(rows, 0.15, ALPHABET, np.random.default_rng(0))
    known = np.isin(rows.tokens, RESIDUES)
    assert len(masked.where) / known.sum() == pytest.approx(0.15, abs=0.005)
    assert (masked.tokens.ravel()[masked.where] == MASK).all()
    np.testing.assert_array_equal(masked.residues, rows.tokens.ravel()[masked.where])
    assert np.isin(masked.residues, RESIDUES).all()
    changed = masked.tokens != rows.tokens
    assert set(np.flatnonzero(changed)) == set(masked.where)


def test_masks_for_training_hide_replace_and_show():
    rows = large_rows()
    masked = mask_for_training(rows, 0.2, ALPHABET, np.random.default_rng(0))
    shown = masked.tokens.ravel()[masked.where]
    # Of the replaced ones, one in twenty is by chance the residue itself.
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (shown == masked.residues).mean() == pytest.approx(0.1 + 0.1 / 20, abs=0.01)
    assert np.isin(shown, np.r_[MASK, RESIDUES]).all()
    elsewhere = np.setdiff1d(np.arange(rows.tokens.size), masked.where)
    np.testing.assert_array_equal(masked.tokens.ravel()[elsewhere], rows.tokens.ravel()[elsewhere])
