from fractions import Fraction
from math import comb

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.clusters.cluster_terms import parsed_headers, taxon_bearers, taxon_names, word_bearers
from esm_sae.clusters.enrichment import enrichment
from esm_sae.formats.protein_names import words_of


def upper_tail(count, population, bearers, size):
    """The hypergeometric tail, by counting draws."""
    ways = sum(
        comb(bearers, hit) * comb(population - bearers, size - hit)
        for hit in range(count, min(bearers, size) + 1)
    )
    return Fraction(ways, comb(population, size))


def naive_q(p_values):
    """Benjamini and Hochberg's q: for each p the least over the larger ones of p m / rank."""
    ranked = sorted(p_values)
    steps = [p * len(ranked) / rank for rank, p in enumerate(ranked, 1)]
    return [min(1, *steps[ranked.index(p) :]) for p in p_values]


def words(name):
    return set(pl.select(words_of(pl.lit(name))).item())


proteins = st.lists(
    st.tuples(st.integers(-1, 2), st.sets(st.sampled_from("abcde"))), min_size=6, max_size=40
)


@given(proteins)
def test_every_pair_is_tested_as_by_counting(content):
    bearers = pl.DataFrame(
        [(cluster, term) for cluster, terms in content for term in sorted(terms)],
        schema={"cluster": pl.Int32, "term": pl.String},
        orient="row",
    )
    sizes = (
        pl.DataFrame({"cluster": [cluster for cluster, _ in content if cluster >= 0]})
        .cast(pl.Int32)
        .group_by("cluster")
        .len("size")
    )
    found = enrichment(bearers, sizes, len(content))
    size_of = dict(sizes.iter_rows())
    borne = {term: sum(term in terms for _, terms in content) for term in "abcde"}
    tested = [term for term in borne if borne[term] >= 3]
    assert found.tests == len(size_of) * len(tested)
    expected = {}
    for cluster, size in size_of.items():
        for term in tested:
            count = sum(at == cluster and term in terms for at, terms in content)
            p = float(upper_tail(count, len(content), borne[term], size))
            expected[cluster, term] = count, p
    q_of = dict(zip(expected, naive_q([p for _, p in expected.values()]), strict=True))
    rows = {(row["cluster"], row["term"]): row for row in found.pairs.iter_rows(named=True)}
    assert rows.keys() == {pair for pair, (count, _) in expected.items() if count}
    for (cluster, term), row in rows.items():
        count, p = expected[cluster, term]
        assert row["count"] == count
        assert row["share"] == pytest.approx(count / size_of[cluster])
        assert row["fold"] == pytest.approx(count * len(content) / size_of[cluster] / borne[term])
        assert row["p"] == pytest.approx(p, rel=1e-9)
        assert row["q"] == pytest.approx(q_of[cluster, term], rel=1e-9)


def test_pairs_are_ordered_by_count_then_chance():
    bearers = [(0, "common")] * 3 + [(0, "rare")] * 3 + [(0, "few")] * 2 + [(-1, "common")] * 9
    bearers += [(-1, "few")] * 2
    table = pl.DataFrame(bearers, schema={"cluster": pl.Int32, "term": pl.String}, orient="row")
    sizes = pl.DataFrame({"cluster": [0], "size": [4]}).cast({"cluster": pl.Int32})
    pairs = enrichment(table, sizes, 30).pairs
    assert pairs["term"].to_list() == ["rare", "common", "few"]


def test_nothing_to_test_is_no_error():
    empty = pl.DataFrame(schema={"cluster": pl.Int32, "term": pl.String})
    sizes = pl.DataFrame({"cluster": [0], "size": [3]}).cast({"cluster": pl.Int32})
    found = enrichment(empty, sizes, 3)
    assert found.pairs.is_empty()
    assert found.tests == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Putative 50S ribosomal protein L35 (Fragment)", {"50s", "ribosomal", "l35"}),
        ("NADH-ubiquinone chain 4L", {"nadh", "ubiquinone", "chain", "4l"}),
        ("Uncharacterized protein", set()),
        ("Cytochrome b, cytochrome B 7", {"cytochrome"}),
        ("β-lactamase", {"lactamase"}),
        ("", set()),
        ("a" * 300 + " kinase", {"a" * 300, "kinase"}),
    ],
)
def test_words_that_tell(name, expected):
    assert words(name) == expected


HEADERS = [
    "UniRef50_A Kinase n=1 Tax=Homo sapiens TaxID=9606 RepID=A",
    "UniRef50_B Kinase n=1 Tax=Human TaxID=9606 RepID=B",
    "UniRef50_C Kinase n=1 Tax=Human TaxID=9606 RepID=C",
    "UniRef50_D Kinase n=1 Tax=Drosophila TaxID=7215 RepID=D",
    "UniRef50_E Kinase n=1 Tax=Drosophila TaxID=2081351 RepID=E",
    "tr|F|F_X Kinase OS=9606",
    "bare",
    None,
]


def test_taxa_are_known_by_taxid_and_called_by_their_commonest_name():
    parsed = parsed_headers(pl.Series(HEADERS, dtype=pl.String))
    assert len(parsed) == len(HEADERS)
    named = taxon_names(parsed).sort("taxid", "taxon", nulls_last=True)
    assert named.select("taxid", "taxon").rows() == [
        (7215, "Drosophila (7215)"),
        (9606, "Human"),
        (2081351, "Drosophila (2081351)"),
        (None, "9606"),
    ]
    groups = pl.DataFrame({"cluster": 0, "group": range(len(HEADERS))})
    borne = taxon_bearers(parsed, groups)["term"].value_counts()
    assert sorted(borne["count"]) == [1, 1, 1, 3]


def test_copies_bear_the_terms_of_all_once():
    parsed = parsed_headers(pl.Series(HEADERS[:4]))
    names = pl.Series(["Kinase A1", "Kinase B2", "Kinase A1", "Kinase"])
    groups = pl.DataFrame({"cluster": [0, 0, 0, -1], "group": [0, 0, 0, 3]})
    borne = word_bearers(names, groups).sort("term", "cluster").rows()
    assert borne == [(0, "a1"), (0, "b2"), (-1, "kinase"), (0, "kinase")]
    assert sorted(taxon_bearers(parsed, groups)["cluster"]) == [-1, 0]
