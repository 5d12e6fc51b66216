"""Tests of taxa: against loops, on planted families and taxa, and their calibration."""

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis.taxonomy.cmh import null_tails
from esm_sae.analysis.taxonomy.enrichment import Firing, _permuted_units, enrichment
from esm_sae.analysis.taxonomy.strata import strata_of
from esm_sae.analysis.taxonomy.taxon_tests import ProteinsOfTaxa, taxon_tests
from esm_sae.data import bundled_fasta
from esm_sae.formats.headers import parse_header
from esm_sae.formats.protein_names import family_of
from esm_sae.multiple_testing import benjamini_hochberg
from esm_sae.sequences import read_fasta
from esm_sae.split import cluster_ids_of, read_similarity_clusters

LETTERS = list("ACDEFGHIKLMNPQRSTVWY")


def firing_of(dense):
    """Sparse rows of a (units, latents) matrix of truth values."""
    starts = np.concatenate([[0], np.cumsum(dense.sum(axis=1))])
    return Firing(starts, np.nonzero(dense)[1].astype(np.int32), dense.shape[1])


def random_sequences(count, generator):
    lengths = generator.integers(40, 250, count)
    return ["".join(generator.choice(LETTERS, length)) for length in lengths]


def proteins_in(taxa, clusters, generator):
    ids = [f"P{number:05d}" for number in range(len(taxa))]
    names = [f"taxon {taxon}" for taxon in taxa]
    sequences = random_sequences(len(taxa), generator)
    return ProteinsOfTaxa(names, ids, np.array(clusters, dtype=object), sequences)


def naive_enrichment(dense, taxa, strata):
    """Every pair's p and whether it is tested, one stratum at a time."""
    rows = {}
    for taxon in range(taxa.max() + 1):
        inside = taxa == taxon
        for latent in range(dense.shape[1]):
            fires = dense[:, latent]
            chances = np.ones(1)
            most = hits = 0
            for stratum in range(strata.max() + 1):
                here = strata == stratum
                total, size, firing = here.sum(), (here & inside).sum(), (here & fires).sum()
                one = null_tails(np.array([total]), np.array([size]), np.array([[firing]]))[0]
                one[one <= 1e-25] = 0
                chances = np.convolve(chances, one - np.append(one[1:], 0))
                most += min(size, firing)
                hits += (here & inside & fires).sum()
            tail = np.cumsum(chances[::-1])[::-1]
            tested = inside.sum() >= 5 and fires.sum() >= 3 and not inside.all()
            tested = tested and tail[most] <= 0.05
            rows[taxon, latent] = (hits, tail[hits] if tested else None)
    return rows


def test_pairs_equal_a_loop_over_taxa_latents_and_strata():
    generator = np.random.default_rng(1)
    taxa = np.sort(np.concatenate([np.arange(5), generator.integers(0, 4, 120)]))
    strata = generator.integers(0, 4, len(taxa))
    dense = generator.random((len(taxa), 12)) < np.linspace(0, 1, 12)
    found = enrichment(firing_of(dense), taxa, strata, permutations=0, seed=0)
    expected = naive_enrichment(dense, taxa, strata)
    assert found.tests == sum(p is not None for _, p in expected.values())
    assert 0 < found.tests < len(expected)
    assert found.with_discovery.shape == (0,)
    for row in found.pairs.iter_rows(named=True):
        hits, p = expected[row["taxon"], row["latent"]]
        inside = taxa == row["taxon"]
        assert row["clusters"] == inside.sum()
        assert row["firing_clusters"] == hits
        assert row["specificity"] == pytest.approx(1 - dense[~inside, row["latent"]].mean())
        assert row["p_value"] == pytest.approx(p)
        assert (row["odds_ratio"] is None) == (p is None)


def planted_families(generator):
    """Five taxa of 120 proteins; of taxon 0, 60 are of two families, and 3 each of the others."""
    taxa, clusters = np.repeat(np.arange(5), 120), []
    for taxon in range(5):
        of_family = 30 if taxon == 0 else 3
        clusters += ["family 0"] * of_family + ["family 1"] * of_family
        clusters += [f"{taxon}.{number}" for number in range(120 - 2 * of_family)]
    families = np.stack([np.array(clusters) == f"family {number}" for number in range(2)], axis=1)
    chance = generator.random((600, 60)) < generator.uniform(0.02, 0.5, 60)
    return taxa, clusters, np.concatenate([families, chance], axis=1)


def test_a_family_passes_for_taxonomy_where_proteins_count_and_not_where_clusters_do():
    generator = np.random.default_rng(3)
    taxa, clusters, dense = planted_families(generator)
    proteins = proteins_in(taxa, clusters, generator)
    table, summary = taxon_tests(firing_of(dense), proteins, permutations=0, seed=0)
    assert summary["naive_pairs"] == summary["naive_latents"] == 2
    assert summary["naive_taxa"] == 1
    assert summary["taxonomic_pairs"] == summary["significant_pairs"] == 0
    assert table.filter(pl.col("latent") < 2, taxon="taxon 0")["firing_clusters"].to_list() == [
        1,
        1,
    ]


def test_a_signal_of_a_taxon_across_families_is_found():
    generator = np.random.default_rng(3)
    taxa, clusters, dense = planted_families(generator)
    of_taxon = generator.random(600) < np.where(taxa == 2, 0.5, 0.04)
    dense = np.concatenate([dense, of_taxon[:, None]], axis=1)
    proteins = proteins_in(taxa, clusters, generator)
    table, summary = taxon_tests(firing_of(dense), proteins, permutations=0, seed=0)
    called = table.filter("taxonomic")
    assert called.select("latent", "taxon").rows() == [(62, "taxon 2")]
    row = called.row(0, named=True)
    assert row["odds_ratio_low"] > 5
    assert row["q_value"] <= row["q_value_dependent"] < 0.05
    assert row["specificity"] > 0.9
    assert summary["taxonomic_latents"] == summary["taxa_with_taxonomic_latents"] == 1
    assert summary["tested_pairs"] + summary["untested_pairs"] == 5 * 63
    assert table["q_value"].null_count() == summary["untested_pairs"]


def test_hits_on_two_clusters_are_not_taxonomic_however_significant():
    """Two taxa, of which one has two clusters of hundreds of taxa's worth of silent units."""
    taxa = np.repeat([0, 1], [5, 400])
    dense = np.zeros((405, 1), dtype=bool)
    dense[[0, 1, 100, 101, 102]] = True
    clusters = [str(number) for number in range(405)]
    proteins = proteins_in(taxa, clusters, np.random.default_rng(0))
    proteins = proteins._replace(sequences=["MKV"] * 405)
    table, summary = taxon_tests(firing_of(dense), proteins, permutations=0, seed=0)
    assert summary["significant_pairs"] == 1
    assert not table["taxonomic"].any()


def test_latents_confounded_with_length_or_composition_are_not_taxonomic():
    generator = np.random.default_rng(9)
    taxa = np.repeat(np.arange(3), 200)
    rich = [np.where(np.isin(LETTERS, list("KNIF")), 2 if taxon else 1, 1.0) for taxon in range(3)]
    sequences = [
        "".join(
            generator.choice(
                LETTERS, generator.integers(60, 120 + 60 * taxon), p=rich[taxon] / sum(rich[taxon])
            )
        )
        for taxon in taxa
    ]
    shares = np.array([sum(map(sequence.count, "KNIF")) / len(sequence) for sequence in sequences])
    lengths = np.array([len(sequence) for sequence in sequences])
    by_share = [generator.random(600) < (shares - 0.1) * factor for factor in (2, 3, 4)]
    by_length = [generator.random(600) < lengths / longest for longest in (300, 500, 900)]
    dense = np.stack([*by_share, *by_length], axis=1)
    proteins = proteins_in(taxa, range(600), generator)._replace(sequences=sequences)
    _, summary = taxon_tests(firing_of(dense), proteins, permutations=0, seed=0)
    assert summary["naive_latents"] >= 4
    assert summary["taxonomic_latents"] == 0


def test_permutations_yield_a_discovery_in_at_most_5_percent():
    """Pooled over data sets with families, whose latents depend on each other."""
    with_discovery = tests = 0
    for seed in range(4):
        generator = np.random.default_rng(seed)
        taxa, clusters, dense = planted_families(generator)
        noisy = dense[:, 2:] & (generator.random((600, 60)) < 0.9)
        proteins = proteins_in(taxa, clusters, generator)
        _, summary = taxon_tests(
            firing_of(np.concatenate([dense, noisy], axis=1)), proteins, permutations=100, seed=seed
        )
        with_discovery += summary["permutations_with_discovery"]
        tests += summary["tested_pairs"]
    assert tests > 1_000
    assert with_discovery <= 0.05 * 400


def test_permutations_tell_of_a_test_that_is_too_bold(monkeypatch):
    """The normal approximation without a correction, which is what makes the exact one needed."""
    from scipy.stats import norm

    def approximate(totals, sizes, firing):
        share = (sizes / totals)[:, None]
        expected = (share * firing).sum(axis=0)
        spread = share * (1 - share) * firing * (1 - firing / totals[:, None])
        variance = (spread * (totals / np.maximum(totals - 1, 1))[:, None]).sum(axis=0)
        z = np.arange(sizes.sum() + 1) - expected[:, None]
        return norm.sf(z / np.sqrt(np.maximum(variance, 1e-12))[:, None])

    generator = np.random.default_rng(5)
    taxa, strata = np.repeat(np.arange(10), 40), generator.integers(0, 6, 400)
    dense = generator.random((400, 200)) < 0.02
    shares = []
    for tails in (null_tails, approximate):
        monkeypatch.setattr("esm_sae.analysis.taxonomy.enrichment.null_tails", tails)
        found = enrichment(firing_of(dense), taxa, strata, permutations=100, seed=1)
        shares.append(found.with_discovery.mean())
    assert shares[0] <= 0.05
    assert shares[1] > 0.5


def test_a_permutation_is_a_run_on_permuted_taxa(monkeypatch):
    # A level at which about half of the permutations yield a discovery.
    monkeypatch.setattr("esm_sae.analysis.taxonomy.enrichment.LEVEL", 0.6)
    generator = np.random.default_rng(8)
    taxa, strata = generator.integers(0, 3, 90), generator.integers(0, 3, 90)
    dense = generator.random((90, 3)) < 0.3
    found = enrichment(firing_of(dense), taxa, strata, permutations=20, seed=4)
    expected = []
    order = np.argsort(strata, kind="stable")
    for draw in _permuted_units(strata, 20, 4):
        assert (strata[draw] == strata[order]).all()
        permuted = np.empty_like(taxa)
        permuted[draw] = taxa[order]
        pairs = enrichment(firing_of(dense), permuted, strata, permutations=0, seed=0)
        p = pairs.pairs["p_value"].drop_nulls().to_numpy()
        assert pairs.tests == found.tests
        expected.append(bool((benjamini_hochberg(p, len(p)) < 0.6).any()))
    assert found.with_discovery.tolist() == expected
    assert 0 < sum(expected) < 20


def test_the_order_of_latents_has_no_say():
    generator = np.random.default_rng(3)
    taxa, clusters, dense = planted_families(generator)
    proteins = proteins_in(taxa, clusters, generator)
    order = generator.permutation(dense.shape[1])
    one, summary = taxon_tests(firing_of(dense), proteins, permutations=20, seed=0)
    other, shuffled = taxon_tests(firing_of(dense[:, order]), proteins, permutations=20, seed=0)
    renamed = other.with_columns(latent=pl.Series(order, dtype=pl.UInt32).gather(other["latent"]))
    assert renamed.sort("taxon", "latent").equals(one.sort("taxon", "latent"))
    assert shuffled == summary


def test_many_latents_at_once_are_taken_in_parts(monkeypatch):
    generator = np.random.default_rng(3)
    taxa, strata = np.repeat(np.arange(5), 120), generator.integers(0, 3, 600)
    dense = planted_families(generator)[2]
    whole = enrichment(firing_of(dense), taxa, strata, permutations=10, seed=0)
    monkeypatch.setattr("esm_sae.analysis.taxonomy.enrichment._NUMBERS_AT_ONCE", 600)
    parts = enrichment(firing_of(dense), taxa, strata, permutations=10, seed=0)
    assert parts.pairs.equals(whole.pairs)
    assert parts.tests == whole.tests
    assert (parts.with_discovery == whole.with_discovery).all()


@pytest.mark.parametrize("sizes", [[40], [1], [39, 1], [1, 1]])
def test_nothing_is_tested_where_there_is_nothing_to_compare(sizes):
    generator = np.random.default_rng(0)
    taxa = np.repeat(np.arange(len(sizes)), sizes)
    proteins = proteins_in(taxa, range(len(taxa)), generator)
    # Of the latents one never fires, one always does, and one sometimes.
    dense = np.stack([np.zeros(len(taxa)), np.ones(len(taxa)), np.arange(len(taxa)) % 2], axis=1)
    table, summary = taxon_tests(firing_of(dense > 0), proteins, permutations=5, seed=0)
    assert summary["tested_pairs"] == 0
    assert summary["untested_pairs"] == len(table) == 3 * len(sizes)
    for name in ("odds_ratio", "p_value", "q_value", "q_value_dependent"):
        assert table[name].null_count() == len(table)
    assert not table["taxonomic"].any()
    assert summary["permutations_with_discovery"] == 0
    assert table["specificity"].null_count() == (3 if len(sizes) == 1 else 0)


def test_families_of_the_bundled_proteins():
    """Latents that fire on all proteins of one name and on no other, as perfect as can be."""
    records = list(read_fasta(bundled_fasta()))
    parsed = [parse_header(record.header) for record in records]
    known = read_similarity_clusters("bundled")
    proteins = pl.DataFrame(
        {
            "taxon": [header.taxon for header in parsed],
            "family": [family_of(header.name) for header in parsed],
            "id": [header.sequence_id for header in parsed],
            "sequence": [record.sequence for record in records],
        }
    ).filter(pl.len().over("taxon") >= 20, pl.col("taxon").is_not_null())
    named = proteins.filter(pl.len().over("family") >= 3)["family"].drop_nulls().unique().sort()
    dense = np.stack([(proteins["family"] == name).fill_null(False) for name in named], axis=1)
    table, summary = taxon_tests(
        firing_of(dense),
        ProteinsOfTaxa(
            proteins["taxon"].to_list(),
            proteins["id"].to_list(),
            cluster_ids_of(proteins["id"].to_list(), known),
            proteins["sequence"].to_list(),
        ),
        permutations=100,
        seed=0,
    )
    assert summary["naive_latents"] >= 15
    assert summary["permutations_with_discovery"] <= 5
    # What is left are pentatricopeptide repeats, of which a plant has hundreds of families.
    left = {named[latent] for latent in table.filter("taxonomic")["latent"]}
    assert left <= {
        "pentatricopeptide repeat-containing protein",
        "ppr containing plant-like protein",
    }


def test_strata_of_a_test_are_those_of_the_proteins_drawn():
    generator = np.random.default_rng(3)
    taxa, clusters, dense = planted_families(generator)
    proteins = proteins_in(taxa, clusters, generator)
    _, summary = taxon_tests(firing_of(dense), proteins, permutations=0, seed=0)
    assert summary["drawn_proteins"] == 4 * 116 + 62
    assert summary["strata"] == 48
    assert summary["smallest_stratum"] >= 10
    assert len(np.unique(strata_of(proteins.sequences))) == 48
