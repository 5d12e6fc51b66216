from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_sae.clusters import clusters_to_json, subsample_clusters
from esm_sae.clusters.length_match import length_spread, matched_bins
from esm_sae.clusters.members import Members
from esm_sae.clusters.taxa import cluster_taxa
from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import read_sequences, write_sequences

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def members_of(*lengths):
    """Return the members of clusters with the given lengths, and all their numbers."""
    names = [f"c{number:02d}" for number in range(len(lengths))]
    clusters = np.repeat(np.arange(len(lengths)), [len(own) for own in lengths])
    found = Members(names, clusters.astype(np.uint32), np.concatenate(lengths).astype(np.int32))
    return found, np.arange(len(clusters)), np.arange(len(lengths))


def write_json(path, lengths):
    """Write clusters whose members have the given lengths."""
    write_sequences(
        path,
        {
            name: [("M" * length, f"{name}{number} x") for number, length in enumerate(own)]
            for name, own in lengths.items()
        },
    )
    return path


def drawn_lengths(path):
    drawn = {}
    for member in read_sequences(path):
        drawn.setdefault(member.cluster, []).append(len(member.sequence))
    return drawn


def counts_in(bins, lengths):
    return np.bincount(bins.of(np.asarray(lengths)), minlength=len(bins.longest)).tolist()


@settings(max_examples=150, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=6), st.integers(10, 60))
def test_bins_and_quotas(lengths, per_cluster):
    members, rows, clusters = members_of(*lengths)
    bins, filling = matched_bins(members, rows, clusters, per_cluster)
    assert bins.quotas.sum() == per_cluster
    assert (bins.quotas >= 0).all()
    assert (np.diff(bins.longest) > 0).all()
    assert bins.longest[-1] == max(map(max, lengths))
    assert len(bins.longest) <= min(20, per_cluster // 5)
    shares = np.mean([np.array(counts_in(bins, own)) / len(own) for own in lengths], axis=0)
    np.testing.assert_allclose(bins.quotas, shares * per_cluster, atol=1 + 1e-9)
    expected = [n for n, own in enumerate(lengths) if (counts_in(bins, own) >= bins.quotas).all()]
    assert filling.tolist() == expected


def test_bins_lie_between_the_quantiles_and_clusters_weigh_the_same():
    small, large = np.arange(1, 101), np.repeat(np.arange(101, 201), 50)
    members, rows, clusters = members_of(small, large)
    bins, _ = matched_bins(members, rows, clusters, 20)
    assert bins.longest.tolist() == [50, 100, 150, 200]
    assert bins.quotas.tolist() == [5, 5, 5, 5]


def test_the_order_of_members_is_no_matter():
    generator = np.random.default_rng(0)
    members, rows, clusters = members_of(*(generator.integers(1, 90, 300) for _ in range(7)))
    mixed = generator.permutation(rows)
    other = Members(members.names, members.clusters[mixed], members.lengths[mixed])
    one, two = (matched_bins(m, rows, clusters, 100) for m in (members, other))
    np.testing.assert_array_equal(one[0].longest, two[0].longest)
    np.testing.assert_array_equal(one[0].quotas, two[0].quotas)


def naive_spread(lengths):
    values = np.unique(np.concatenate(lengths))
    shares = [np.searchsorted(np.sort(own), values, side="right") / len(own) for own in lengths]
    return max(float(np.abs(own - np.mean(shares, axis=0)).max()) for own in shares)


@settings(max_examples=100, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_spread_is_that_of_a_naive_count(lengths, random):
    clusters = np.repeat(np.arange(len(lengths)), [len(own) for own in lengths])
    order = list(range(len(clusters)))
    random.shuffle(order)
    found = length_spread(np.concatenate(lengths)[order], clusters[order])
    means = [np.mean(own) for own in lengths]
    assert found["largest_ks"] == pytest.approx(naive_spread(lengths), abs=1e-4)
    assert found["mean_length_sd"] == pytest.approx(np.std(means), abs=1e-4)
    assert found["shortest_mean"] == pytest.approx(min(means), abs=1e-4)
    assert found["longest_mean"] == pytest.approx(max(means), abs=1e-4)


def test_all_samples_have_the_same_lengths(tmp_path):
    generator = np.random.default_rng(1)
    lengths = {
        f"c{number}": generator.normal(100 + 4 * number, 20, 400).clip(5, 200).astype(int)
        for number in range(6)
    }
    source = write_json(tmp_path / "c.json", lengths)
    options = {"min_size": 300, "per_cluster": 50, "seed": 2}
    plain = subsample_clusters(source, tmp_path / "p.json", **options)
    matched = subsample_clusters(source, tmp_path / "m.json", match_lengths=True, **options)
    summary = matched.manifest.summary
    assert summary["clusters"] == 6
    assert summary["sequences"] == 300
    assert summary["clusters_without_common_lengths"] == 0
    assert summary["lengths_without_match"] == plain.manifest.summary["lengths"]
    assert summary["lengths"]["largest_ks"] < 0.1 < summary["lengths_without_match"]["largest_ks"]
    longest = [one["longest"] for one in summary["length_bins"]]
    quotas = [one["per_cluster"] for one in summary["length_bins"]]
    for own in drawn_lengths(matched.path).values():
        found = np.bincount(np.searchsorted(longest, own), minlength=len(longest))
        assert found.tolist() == quotas
    assert "length_bins" not in plain.manifest.summary


def test_a_cluster_that_lacks_lengths_is_left_out_and_counted(tmp_path):
    wide = {name: list(range(1, 101)) for name in "abc"}
    source = write_json(tmp_path / "c.json", {**wide, "narrow": [50] * 120, "small": [9]})
    options = {"min_size": 50, "per_cluster": 20, "match_lengths": True}
    product = subsample_clusters(source, tmp_path / "o.json", **options)
    assert list(drawn_lengths(product.path)) == ["a", "b", "c"]
    summary = product.manifest.summary
    assert summary["clusters_without_common_lengths"] == 1
    assert summary["dropped_clusters"] == 1
    assert summary["incomplete_clusters"] == 0


def test_no_cluster_with_enough_lengths_is_an_error(tmp_path):
    lengths = {"a": list(range(1, 30)), "b": list(range(50, 80))}
    source = write_json(tmp_path / "c.json", lengths)
    options = {"min_size": 5, "per_cluster": 20, "match_lengths": True}
    with pytest.raises(
        InputError, match=r"c\.json: none of 2 clusters has enough.*--match_lengths"
    ):
        subsample_clusters(source, tmp_path / "o.json", **options)
    with pytest.raises(InputError, match="per_cluster is 9; to match lengths it must be at least"):
        subsample_clusters(source, tmp_path / "o.json", **(options | {"per_cluster": 9}))


def test_drawing_within_a_bin_is_uniform(tmp_path):
    names = [f"c{number:02d}" for number in range(30)]
    source = write_json(tmp_path / "c.json", {name: range(1, 31) for name in names})
    drawn = Counter()
    for seed in range(6):
        options = {"min_size": 30, "per_cluster": 10, "match_lengths": True, "seed": seed}
        product = subsample_clusters(source, tmp_path / "o.json", **options)
        drawn.update(length for own in drawn_lengths(product.path).values() for length in own)
    # Two bins of 15 lengths, of each of which 5 are drawn: a third of 180 samples.
    assert [one["longest"] for one in product.manifest.summary["length_bins"]] == [15, 30]
    chi_squared = sum((drawn[length] - 60) ** 2 / 60 for length in range(1, 31))
    # 28 degrees of freedom, and less than that without replacement.
    assert chi_squared < 56.9


def test_json_and_table_give_the_same_bytes(tmp_path):
    generator = np.random.default_rng(4)
    fasta = tmp_path / "in.fasta"
    fasta.write_text(
        "".join(
            f">P{n} X n=1 Tax=T{n % 3} TaxID={n % 3 + 1}\n{'M' * generator.integers(1, 60)}\n"
            for n in range(400)
        )
    )
    table = cluster_taxa(fasta, tmp_path / "t.parquet").path
    exported = clusters_to_json(table, tmp_path / "t.json").path
    options = {"min_size": 50, "per_cluster": 30, "match_lengths": True, "seed": 3}
    one = subsample_clusters(table, tmp_path / "one.json", **options)
    two = subsample_clusters(exported, tmp_path / "two.json", **options)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.manifest.summary == two.manifest.summary
    again = subsample_clusters(table, tmp_path / "one.json", **options)
    assert again.unchanged
    assert not subsample_clusters(table, tmp_path / "one.json", **(options | {"seed": 5})).unchanged
