import json
import os
import subprocess
import sys
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_sae.clusters import cluster_taxa, clusters_to_json, subsample_clusters
from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import write_sequences

SIZES = {"Alpha/a": 12, 'Beta "b"': 12, "Gamma" * 60: 20, "Delta": 3}


def write_fasta(path, sizes=SIZES):
    """Write the members of the taxa in turns, the n-th record with n + 1 residues."""
    pending = dict(sizes)
    lines = []
    while any(pending.values()):
        for number, taxon in enumerate(sizes, start=1):
            if pending[taxon]:
                pending[taxon] -= 1
                count = len(lines) // 2
                lines += [f">P{count} Protein n=1 Tax={taxon} TaxID={number}", "M" * (count + 1)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_json(path, clusters):
    write_sequences(path, clusters)
    return path


def counted_clusters(**sizes):
    return {
        name: [("M" * (number + 1), f"{name}{number}") for number in range(size)]
        for name, size in sizes.items()
    }


def sample(clusters, output, **options):
    product = subsample_clusters(clusters, output, **{"min_size": 1, "per_cluster": 3, **options})
    return json.loads(product.path.read_text()), product


@pytest.fixture
def taxa(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    return cluster_taxa(fasta, tmp_path / "taxa.parquet").path


@pytest.mark.parametrize("lengths", [{}, {"min_length": 6, "max_length": 40}])
def test_json_and_table_give_the_same_bytes(tmp_path, taxa, lengths):
    exported = clusters_to_json(taxa, tmp_path / "taxa.json").path
    options = {"min_size": 4, "per_cluster": 5, "seed": 7, **lengths}
    one = subsample_clusters(exported, tmp_path / "one.json", **options)
    two = subsample_clusters(taxa, tmp_path / "two.json", **options)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.manifest.summary == two.manifest.summary


def test_form_order_and_counts(tmp_path, taxa):
    content, product = sample(taxa, tmp_path / "sample.json", min_size=4, per_cluster=5)
    assert list(content) == ["Gamma" * 60, "Alpha/a", 'Beta "b"']
    for taxon, members in content.items():
        assert len(members) == 5
        assert all(type(member) is list and len(member) == 2 for member in members)
        lengths = [len(sequence) for sequence, _ in members]
        assert lengths == sorted(set(lengths))
        assert all(f"Tax={taxon} " in header for _, header in members)
    summary = product.manifest.summary
    assert summary["clusters"] == 3
    assert summary["dropped_clusters"] == 1
    assert summary["sequences"] == 15
    assert summary["incomplete_clusters"] == 0


def test_size_counts_members_in_the_length_range(tmp_path):
    clusters = write_json(tmp_path / "c.json", counted_clusters(a=30, b=10))
    content, product = sample(
        clusters, tmp_path / "o.json", min_size=10, max_length=10, min_length=1
    )
    assert set(content) == {"a", "b"}
    assert all(len(sequence) <= 10 for sequence, _ in content["a"])
    assert product.manifest.summary["outside_length_range"] == 20
    with pytest.raises(
        InputError, match=r"no cluster has 10 members.*'a', has 9; lower --min_size"
    ):
        sample(clusters, tmp_path / "o.json", min_size=10, max_length=9)


def test_a_cluster_smaller_than_per_cluster_gives_all(tmp_path):
    clusters = write_json(tmp_path / "c.json", counted_clusters(a=4, b=9))
    content, product = sample(clusters, tmp_path / "o.json", min_size=4, per_cluster=6)
    assert {name: len(members) for name, members in content.items()} == {"b": 6, "a": 4}
    assert product.manifest.summary["incomplete_clusters"] == 1


def test_noise_is_never_sampled(tmp_path):
    clusters = write_json(tmp_path / "c.json", counted_clusters(**{"-1": 50, "0": 9}))
    content, product = sample(clusters, tmp_path / "o.json", min_size=5)
    assert list(content) == ["0"]
    assert product.manifest.summary["noise"] == 50
    assert product.manifest.summary["dropped_clusters"] == 0


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.dictionaries(
        st.text(min_size=1, max_size=5), st.integers(1, 15), min_size=1, max_size=6
    ),
    per_cluster=st.integers(1, 16),
    seed=st.integers(-5, 2**40),
)
def test_a_sample_is_a_subset_of_its_cluster_whatever_the_others(
    tmp_path_factory, sizes, per_cluster, seed
):
    folder = tmp_path_factory.mktemp("sample")
    clusters = counted_clusters(**sizes)
    names = [name for name in clusters if name != "-1"]
    if not names:
        return
    content, _ = sample(
        write_json(folder / "c.json", clusters),
        folder / "o.json",
        per_cluster=per_cluster,
        seed=seed,
    )
    assert list(content) == sorted(names, key=lambda name: (-sizes[name], name.encode()))
    for name, members in content.items():
        originals = [list(member) for member in clusters[name]]
        positions = [originals.index(member) for member in members]
        assert positions == sorted(set(positions))
        assert len(members) == min(per_cluster, sizes[name])
    alone, _ = sample(
        write_json(folder / "d.json", {names[0]: clusters[names[0]]}),
        folder / "p.json",
        per_cluster=per_cluster,
        seed=seed,
    )
    assert alone[names[0]] == content[names[0]]


def test_drawing_is_uniform_over_seeds(tmp_path):
    names = "abcdefghijklmnopqrst"
    clusters = write_json(tmp_path / "c.json", counted_clusters(**dict.fromkeys(names, 10)))
    drawn = Counter()
    seeds = 20
    for seed in range(seeds):
        content, _ = sample(clusters, tmp_path / "o.json", per_cluster=3, seed=seed)
        drawn.update(header[1:] for members in content.values() for _, header in members)
    expected = seeds * len(names) * 3 / 10
    chi_squared = sum((drawn[str(number)] - expected) ** 2 / expected for number in range(10))
    # 9 degrees of freedom; without replacement the statistic is smaller still.
    assert chi_squared < 27.9


def test_clusters_are_drawn_apart_from_each_other(tmp_path):
    clusters = write_json(tmp_path / "c.json", counted_clusters(**{c: 40 for c in "abcdef"}))
    content, _ = sample(clusters, tmp_path / "o.json", per_cluster=10)
    chosen = {tuple(len(sequence) for sequence, _ in members) for members in content.values()}
    assert len(chosen) == 6


def test_the_bytes_depend_on_the_seed_and_not_on_the_hash_of_python(tmp_path):
    clusters = write_json(tmp_path / "c.json", counted_clusters(a=30, b=30))
    program = (
        "import sys\nfrom esm_sae.clusters import subsample_clusters\n"
        "subsample_clusters(sys.argv[1], sys.argv[2], min_size=5, per_cluster=5, seed=1)"
    )
    outputs = []
    for number in ("1", "2"):
        output = tmp_path / number / "o.json"
        subprocess.run(
            [sys.executable, "-c", program, clusters, output],
            env={**os.environ, "PYTHONHASHSEED": number},
            check=True,
        )
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]
    content, _ = sample(clusters, tmp_path / "o.json", min_size=5, per_cluster=5, seed=2)
    assert content != json.loads(outputs[0])


def test_a_rerun_is_unchanged(tmp_path, taxa):
    assert not sample(taxa, tmp_path / "o.json")[1].unchanged
    assert sample(taxa, tmp_path / "o.json")[1].unchanged
    assert not sample(taxa, tmp_path / "o.json", seed=1)[1].unchanged


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": [["MK", "h"]', "not valid JSON"),
        ("[1, 2]", "expected an object of clusters"),
        ("{}", "holds no cluster"),
        ('{"a": 3}', "'a' is not a list"),
        ('{"a": [["MK"]]}', "entry 1 of cluster 'a'"),
        ('{"a": [["MK", 4]]}', "entry 1 of cluster 'a'"),
        ('{"-1": [["MK", "h"]]}', "no member at all"),
        ('{"a": []}', "no member at all"),
    ],
)
def test_a_json_of_another_shape_is_refused(tmp_path, content, message):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        sample(path, tmp_path / "out" / "o.json")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    "options",
    [{"min_size": 0}, {"per_cluster": 0}, {"min_length": 0}, {"min_length": 5, "max_length": 4}],
)
def test_options_out_of_range_are_refused(tmp_path, taxa, options):
    with pytest.raises(InputError, match="must be at least"):
        sample(taxa, tmp_path / "o.json", **options)


def test_a_fasta_beside_a_json_is_refused(tmp_path):
    clusters = write_json(tmp_path / "c.json", counted_clusters(a=5))
    with pytest.raises(InputError, match="leave out --fasta"):
        sample(clusters, tmp_path / "o.json", fasta=tmp_path / "in.fasta")


def test_a_damaged_table_is_refused(tmp_path, taxa):
    whole = taxa.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a readable parquet table"):
        sample(tmp_path / "cut.parquet", tmp_path / "o.json")
    pl.DataFrame({"sequence_id": ["a"]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="lacks the column header"):
        sample(tmp_path / "other.parquet", tmp_path / "o.json")
