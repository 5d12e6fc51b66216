"""Features of baselines and the probe, against naive loops and scikit-learn."""

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis.concepts import baseline_features, protein_rows
from esm_sae.analysis.concepts.baseline_features import (
    centroids,
    latents_of,
    principal_components,
    raw_dimensions,
)
from esm_sae.analysis.concepts.probe import PENALTIES, Standardised, fit_probes
from esm_sae.analysis.concepts.protein_rows import RowUnits, evenly_spaced_rows, proteins_in
from esm_sae.analysis.concepts.sequence_features import (
    AMINO_ACIDS,
    COMPOSITION_FEATURES,
    LETTER_FEATURES,
    composition,
    letters,
)
from esm_sae.errors import InputError
from esm_sae.formats.shards import Provenance
from plain_rows import PlainRows

SIZES = [3, 1, 5, 2, 4, 1]
WIDTH = 8


@pytest.fixture
def rows() -> PlainRows:
    """Return the residue rows of six proteins, of which two neighbours bear one id."""
    ids = ["A", "B", "C", "C", "D", "E"]
    table = pl.DataFrame(
        [
            {"sequence_id": name, "length": 9, "position": 1 + 2 * place}
            for name, size in zip(ids, SIZES, strict=True)
            for place in range(size)
        ]
    )
    matrix = np.random.default_rng(0).standard_normal((sum(SIZES), WIDTH)).astype(np.float32)
    return PlainRows(matrix, table, Provenance(pooling="residue"))


@pytest.fixture(params=[1, 4, 100])
def batch_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read rows in batches that cut proteins in two, and in one."""
    monkeypatch.setattr(protein_rows, "BATCH_ROWS", request.param)
    monkeypatch.setattr(protein_rows, "_INDEX_ROWS", request.param)


def naive(rows: PlainRows, chosen: np.ndarray) -> list[np.ndarray]:
    parts = np.split(rows.matrix, np.cumsum(SIZES)[:-1])
    return [part for part, wanted in zip(parts, chosen, strict=True) if wanted]


@pytest.mark.usefixtures("batch_rows")
def test_units_of_proteins_equal_a_loop(rows: PlainRows) -> None:
    proteins = proteins_in(rows)
    assert proteins.sizes.tolist() == SIZES
    assert proteins.ids.to_list() == ["A", "B", "C", "C", "D", "E"]
    for chosen in ([True] * 6, [False, True, False, True, True, False], [False] * 6):
        mask = np.array(chosen)
        units = RowUnits(rows, proteins, mask, by_row=False)
        parts = naive(rows, mask)
        assert units.count == len(parts)
        largest = units.extremes(lambda x: x, signed=True)
        if parts:
            wanted = np.array([[*part.max(axis=0), *-part.min(axis=0)] for part in parts])
            np.testing.assert_array_equal(largest, wanted)
            means = np.array([part.mean(axis=0) for part in parts])
            np.testing.assert_allclose(units.means(), means, atol=1e-6)
        by_row = RowUnits(rows, proteins, mask, by_row=True)
        assert by_row.count == by_row.mask.sum() == sum(map(len, parts))
        values = by_row.extremes(lambda x: x, signed=False)
        assert values.shape[0] == by_row.count
        if parts:
            np.testing.assert_array_equal(values, np.concatenate(parts))


@pytest.mark.usefixtures("batch_rows")
def test_evenly_spaced_rows_are_of_the_chosen_proteins(rows: PlainRows) -> None:
    chosen = np.array([True, False, True, False, True, False])
    units = RowUnits(rows, proteins_in(rows), chosen, by_row=True)
    all_rows = np.concatenate(naive(rows, chosen))
    np.testing.assert_array_equal(evenly_spaced_rows(units, 100), all_rows)
    np.testing.assert_array_equal(evenly_spaced_rows(units, 3), all_rows[[0, 5, 11]])


def test_a_row_that_is_no_number_is_named(rows: PlainRows) -> None:
    rows.matrix[4, 2] = np.nan
    proteins = proteins_in(rows)
    units = RowUnits(rows, proteins, np.ones(6, dtype=bool), by_row=False)
    with pytest.raises(InputError, match="rows: row 4 holds NaN"):
        units.means()
    other = RowUnits(rows, proteins, np.arange(6) > 2, by_row=False)
    assert np.isfinite(other.means()).all()


@pytest.mark.parametrize("by_row", [False, True])
def test_blocks_of_features_say_which_they_are(
    rows: PlainRows, by_row: bool, fake_sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = RowUnits(rows, proteins_in(rows), np.arange(6) != 2, by_row=by_row)
    for features in (raw_dimensions(WIDTH), latents_of(fake_sae())):
        (whole,) = features.blocks(units)
        assert whole.numbers.tolist() == list(range(features.candidates))
        with monkeypatch.context() as patch:
            patch.setattr(baseline_features, "_VALUES_PER_BLOCK", 60)
            blocks = list(features.blocks(units))
        assert len(blocks) > 1
        numbers = np.concatenate([block.numbers for block in blocks])
        assert sorted(numbers) == list(range(features.candidates))
        values = np.concatenate([block.values for block in blocks], axis=1)
        np.testing.assert_array_equal(values[:, np.argsort(numbers)], whole.values)


def test_latents_are_those_of_the_sae(rows: PlainRows, fake_sae: Any) -> None:
    sae = fake_sae()
    found = latents_of(sae).of_rows(rows.matrix, slice(0, 24))
    np.testing.assert_array_equal(found, sae.dense(rows.matrix))


def test_components_are_those_of_the_singular_value_decomposition(rows: PlainRows) -> None:
    sample = rows.matrix * np.arange(1, WIDTH + 1) + 5
    found = principal_components(sample).of_rows(sample, slice(0, WIDTH))
    u, s, _ = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(u * s), atol=1e-4)


def test_nearness_is_minus_the_squared_distance() -> None:
    generator = np.random.default_rng(0)
    places = np.array([[0, 0], [9, 0], [0, 9]], dtype=np.float32) + 100
    sample = np.repeat(places, 50, axis=0)
    features = centroids(sample + generator.normal(0, 0.1, sample.shape), 3, seed=0)
    found = features.of_rows(places, slice(0, 3))
    assert features.candidates == 3
    assert np.allclose(np.sort(found, axis=1)[:, -1], 0, atol=0.1)
    assert np.allclose(np.sort(found, axis=1)[:, 0], -np.array([81, 162, 162]), rtol=0.05)
    assert centroids(sample, 64, seed=0).candidates == 3


def test_composition_counts_letters_and_pairs() -> None:
    sequences = ["ACXCA", "a", "WWWW"]
    block = composition(sequences)
    assert block.values.shape == (3, COMPOSITION_FEATURES)
    for values, sequence in zip(block.values, ("ACXCA", "A", "WWWW"), strict=True):
        known = [letter for letter in sequence if letter != "X"]
        pairs = [a + b for a, b in itertools.pairwise(sequence) if "X" not in a + b]
        singles = [known.count(letter) / len(known) for letter in AMINO_ACIDS]
        doubles = [
            pairs.count(a + b) / max(len(pairs), 1) for a in AMINO_ACIDS for b in AMINO_ACIDS
        ]
        np.testing.assert_allclose(values[:420], [*singles, *doubles], rtol=1e-6)
    np.testing.assert_array_equal(block.values[:, 420:], -block.values[:, :420])


def test_letters_see_neighbours_of_their_own_protein_only() -> None:
    sequences = ["ACD", "XYA"]
    protein, positions = np.array([0, 0, 1, 1, 1]), np.array([1, 3, 1, 2, 3])
    blocks = list(letters(sequences, protein, positions))
    numbers = np.concatenate([block.numbers for block in blocks])
    values = np.concatenate([block.values for block in blocks], axis=1)[:, np.argsort(numbers)]
    assert values.shape == (5, LETTER_FEATURES)
    names = [
        *AMINO_ACIDS,
        *(a + b.lower() for a in AMINO_ACIDS for b in AMINO_ACIDS),
        *(a.lower() + b for a in AMINO_ACIDS for b in AMINO_ACIDS),
    ]
    # With the pair before, the residue itself is the lower letter; behind, likewise.
    found = [{names[at] for at in np.flatnonzero(row[:820])} for row in values]
    assert found == [{"A", "aC"}, {"D", "Cd"}, set(), {"Y", "yA"}, {"A", "Ya"}]
    np.testing.assert_array_equal(values[:, 820:], -values[:, :820])


def test_probes_are_logistic_regressions() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((800, 12)).astype(np.float32) * 3 + 1
    vectors[:, 11] = 7
    odds = vectors @ generator.standard_normal((12, 4)) / 3 + generator.standard_normal((800, 4))
    bears = (odds > np.quantile(odds, [0.5, 0.8, 0.9, 0.97], axis=0).diagonal()).astype(np.float32)
    counts = np.ones_like(bears)
    counts[:300, 1] = 0
    x = Standardised(vectors)(vectors)
    np.testing.assert_allclose(x.mean(axis=0), [0] * 12 + [1], atol=1e-5)
    for penalty, weights in zip(PENALTIES, fit_probes(x, bears, counts), strict=True):
        for concept in range(4):
            known = counts[:, concept] > 0
            model = LogisticRegression(C=1 / penalty, max_iter=1000, tol=1e-8)
            model.fit(x[known, :-1], bears[known, concept])
            theirs = model.decision_function(x[:, :-1])
            ours = x @ weights[:, concept]
            assert np.corrcoef(theirs, ours)[0, 1] > 0.999
            assert roc_auc_score(bears[known, concept], ours[known]) == pytest.approx(
                roc_auc_score(bears[known, concept], theirs[known]), abs=0.005
            )
