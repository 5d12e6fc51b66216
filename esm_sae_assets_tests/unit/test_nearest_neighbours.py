import numpy as np
import pytest

from esm_sae.data.nearest_neighbours import (
    composition,
    dipeptides,
    nearest_in_other_clusters,
    precision,
    queries_of,
    whiten,
)
from esm_sae.formats.protein_names import family_of

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Cytochrome b", "cytochrome b"),
        ("Putative cytochrome  B (Fragment)", "cytochrome b"),
        ("ATP synthase a (EC 3.6.3.14), chloroplastic", "atp synthase a, chloroplastic"),
        ("Uncharacterized protein YqhQ", None),
        ("Hypothetical membrane protein", None),
        ("Protein FAM72A", None),
        ("", None),
        ("(Fragment)", None),
    ],
)
def test_the_family_that_a_name_tells(name, family):
    assert family_of(name) == family


def test_a_query_has_a_relative_by_name_in_another_cluster():
    families = ["a", "a", "b", "b", None, None, "c"]
    clusters = ["1", "2", "3", "3", "4", "5", "6"]
    assert queries_of(families, clusters).tolist() == [0, 1]


def test_the_nearest_is_that_of_a_plain_search(monkeypatch):
    monkeypatch.setattr("esm_sae.data.nearest_neighbours._CHUNK", 7)
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(60, 5))
    clusters = [str(number) for number in generator.integers(15, size=60)]
    queries = np.arange(0, 60, 3)
    found = nearest_in_other_clusters(vectors, queries, clusters)
    for query, nearest in zip(queries, found, strict=True):
        cosines = {
            other: vectors[query]
            @ vectors[other]
            / np.linalg.norm(vectors[query])
            / np.linalg.norm(vectors[other])
            for other in range(60)
            if clusters[other] != clusters[query]
        }
        assert nearest == max(cosines, key=lambda other: cosines[other])


def test_whitened_vectors_have_no_covariance_but_the_unit():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(500, 6)) @ generator.normal(size=(6, 6)) + 3.0
    vectors = np.column_stack([vectors, vectors[:, 0]])
    fitted_to = np.arange(0, 500, 2)
    whitened = whiten(vectors, fitted_to)
    assert whitened.shape == (500, 6)
    np.testing.assert_allclose(np.cov(whitened[fitted_to], rowvar=False), np.eye(6), atol=1e-8)


def test_the_interval_of_clustered_hits_is_wider():
    hits = np.repeat([1.0, 0.0], 50)
    apart = precision(hits, [str(n) for n in range(100)])
    together = precision(hits, [str(n // 10) for n in range(100)])
    assert apart.value == together.value == 0.5
    assert apart.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_composition_and_dipeptides_are_counts():
    sequences = ["ACACX", "WW", "A" * 9]
    shares = dipeptides(sequences, LETTERS)
    assert shares[0, LETTERS.index("C")] == pytest.approx(2 / 3)
    assert shares[0].sum() == pytest.approx(1.0)
    assert shares[1].argmax() == LETTERS.index("W") * len(LETTERS) + LETTERS.index("W")
    features = composition(sequences, "AW")
    assert features.shape == (3, 3)
    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-12)
    assert features[2, 0] == features[:, 0].max()
