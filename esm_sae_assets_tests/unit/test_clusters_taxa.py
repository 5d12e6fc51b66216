import gzip
import json
import os
import random
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_sae.clusters import cluster_taxa
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Manifest, manifest_beside
from esm_sae.formats.sequence_index import index_of, index_path
from esm_sae.storage import publish, publish_json, sha256_of

UNIREF = "UniRef50_{id} Some protein n=3 Tax={taxon} TaxID={taxid} RepID={id}_X"
UNIPROT = "tr|{id}|{id}_X Some protein OS={taxon} OX={taxid} GN=abc PE=4 SV=1"
OLD_UNIPROT = "tr|{id}|{id}_X Some protein (Fragment) OS={taxon} PE=4 SV=1 Split=0"


def write_fasta(path, members, styles=(UNIREF, UNIPROT)):
    """Write records of (taxon, taxid); None leaves that part of the header out."""
    lines = []
    for number, (taxon, taxid) in enumerate(members):
        style = styles[number % len(styles)]
        if taxon is None:
            header = f"P{number} Some protein"
            header += "" if taxid is None else f" n=1 TaxID={taxid}"
        elif taxid is None:
            header = OLD_UNIPROT.format(id=f"P{number}", taxon=taxon)
        else:
            header = style.format(id=f"P{number}", taxon=taxon, taxid=taxid)
        lines += [f">{header}", "MKV" + "A" * number]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def clusters_of(folder, members):
    product = cluster_taxa(write_fasta(folder / "in.fasta", members), folder / "taxa.parquet")
    return pl.read_parquet(product.path), product


def sizes(table):
    return dict(table["cluster"].value_counts().iter_rows())


def test_both_header_styles_make_one_cluster_and_the_table_is_as_promised(tmp_path):
    members = [("Homo sapiens", 9606)] * 3 + [(None, None)] + [("Mus musculus", 10090)]
    table, product = clusters_of(tmp_path, members)
    assert table.columns == ["sequence_id", "header", "cluster", "taxid", "length", "offset"]
    assert table["cluster"].to_list() == ["Homo sapiens"] * 3 + ["Mus musculus"]
    assert table["taxid"].to_list() == [9606] * 3 + [10090]
    assert table["length"].to_list() == [3, 4, 5, 7]
    content = (tmp_path / "in.fasta").read_bytes()
    for row in table.iter_rows(named=True):
        line = content[row["offset"] :].split(b"\n", 1)[0]
        assert line.decode() == ">" + row["header"]
    metadata = pl.read_parquet_metadata(product.path)
    assert metadata["fasta"] == "in.fasta"
    assert metadata["fasta_sha256"] == sha256_of(tmp_path / "in.fasta")
    assert product.manifest_path == manifest_beside(product.path)


def test_statistics_equal_naive_ones(tmp_path):
    counts = {("Alpha", 1): 7, ("Beta", 2): 3, ("Gamma", 3): 1, ("Delta", None): 1}
    members = [taxon for taxon, count in counts.items() for _ in range(count)] + [(None, None)] * 2
    _, product = clusters_of(tmp_path, members)
    content = json.loads((tmp_path / "cluster_statistics.json").read_text())
    assert content["totals"] == {
        "records": 14,
        "clustered": 12,
        "without_taxon": 2,
        "clusters": 4,
    }
    assert content["sizes"]["mean"] == 3
    assert content["sizes"]["median"] == statistics.median(counts.values())
    assert content["sizes"]["max"] == 7
    assert content["sizes"]["singletons"] == 2
    alpha, delta = content["clusters"]["Alpha"], content["clusters"]["Delta"]
    assert (alpha["taxid"], alpha["size"], alpha["mean_length"]) == (1, 7, 6.0)
    assert (delta["taxid"], delta["size"], delta["mean_length"]) == (None, 1, 14.0)
    # Of the lengths 3 to 9.
    quantiles = ["q05_length", "q25_length", "median_length", "q75_length", "q95_length"]
    assert [alpha[name] for name in quantiles] == [3.3, 4.5, 6.0, 7.5, 8.7]
    assert [delta[name] for name in quantiles] == [14.0] * 5
    assert set(product.manifest.files) == {"taxa.parquet", "cluster_statistics.json"}
    top = product.manifest.summary["top_taxa"]
    assert [(entry["cluster"], entry["size"]) for entry in top] == [
        ("Alpha", 7),
        ("Beta", 3),
        ("Delta", 1),
        ("Gamma", 1),
    ]


def test_two_taxids_of_one_name_stay_apart(tmp_path):
    table, product = clusters_of(tmp_path, [("Bacillus", 1386), ("Bacillus", 55087)] * 2)
    assert sizes(table) == {"Bacillus (1386)": 2, "Bacillus (55087)": 2}
    assert product.manifest.summary["names_of_several_taxids"] == 1


def test_one_taxid_of_two_names_is_one_cluster_by_its_commonest_name(tmp_path):
    members = [("Old name", 5), ("New name", 5), ("New name", 5), ("B", 6), ("A", 6)]
    table, product = clusters_of(tmp_path, members)
    assert sizes(table) == {"New name": 3, "A": 2}
    assert product.manifest.summary["taxids_of_several_names"] == 2


def test_a_name_without_taxid_joins_the_one_taxid_that_bears_it(tmp_path):
    members = [("Homo sapiens", 9606), ("Homo sapiens", None), ("Nobody", None)]
    table, _ = clusters_of(tmp_path, members)
    assert sizes(table) == {"Homo sapiens": 2, "Nobody": 1}
    assert table["taxid"].to_list() == [9606, 9606, None]


def test_a_name_without_taxid_that_several_taxids_bear_is_its_own_taxon(tmp_path):
    members = [("Bacillus", 1386), ("Bacillus", 55087), ("Bacillus", None)]
    table, _ = clusters_of(tmp_path, members)
    assert sizes(table) == {"Bacillus (1386)": 1, "Bacillus (55087)": 1, "Bacillus": 1}


def test_a_name_given_apart_does_not_meet_the_plain_name_of_another_taxon(tmp_path):
    members = [("Foo", 5), ("Foo", 6), ("Foo (5)", 7), ("Foo (6)", None)]
    table, _ = clusters_of(tmp_path, members)
    assert sorted(sizes(table).values()) == [1, 1, 1, 1]


def test_a_taxon_named_as_noise_is_not_noise(tmp_path):
    members = [("-1", None), ("-1", None), ("taxon -1", None), ("-1", 5), ("-1", 6)]
    table, _ = clusters_of(tmp_path, members)
    assert "-1" not in sizes(table)
    assert sum(sizes(table).values()) == len(members)
    assert table["cluster"].n_unique() == 4


def test_names_that_no_file_could_have_are_kept_whole(tmp_path):
    names = ["a/b", "a_b", "a b", 'say "x"', "it's", "T" * 300, "T" * 299, "Æ é", "../x", "NUL"]
    table, _ = clusters_of(tmp_path, [(name, None) for name in names])
    assert table["cluster"].to_list() == names
    assert set(json.loads((tmp_path / "cluster_statistics.json").read_text())["clusters"]) == set(
        names
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "in.fasta",
        "taxa.parquet",
        "taxa.parquet.manifest.json",
        "cluster_statistics.json",
    }


def test_a_taxid_without_a_name_is_a_cluster(tmp_path):
    table, _ = clusters_of(tmp_path, [(None, 77), ("Named", 78)])
    assert sizes(table) == {"TaxID 77": 1, "Named": 1}


def test_the_statistics_are_json_with_one_line_for_each_cluster_in_the_order_of_names(tmp_path):
    names = ["b", 'a "quoted" \\ name', "Ä", "a", "c\u2028d"]
    clusters_of(tmp_path, [(name, None) for name in names for _ in name])
    text = (tmp_path / "cluster_statistics.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert list(content) == ["sizes", "totals", "clusters"]
    assert list(content["clusters"]) == sorted(names)
    assert {name: content["clusters"][name]["size"] for name in names} == {
        name: len(name) for name in names
    }
    assert text.count('"mean_length"') == len([line for line in text.split("\n") if "_len" in line])


@settings(max_examples=30, deadline=None)
@given(
    members=st.lists(
        st.tuples(
            st.sampled_from(["Foo", "Bar", "Foo (1)", "Foo (2)", "a/b", None]),
            st.sampled_from([1, 2, 3, None]),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_clusters_are_a_partition_keyed_by_taxid(tmp_path_factory, members):
    folder = tmp_path_factory.mktemp("taxa")
    if all(pair == (None, None) for pair in members):
        with pytest.raises(InputError, match="no header names a taxon"):
            clusters_of(folder, members)
        return
    table, product = clusters_of(folder, members)
    named = [pair for pair in members if pair != (None, None)]
    assert len(table) == len(named)
    owners = {
        name: {taxid for taxon, taxid in named if taxon == name and taxid} for name, _ in named
    }
    expected = Counter()
    for taxon, taxid in named:
        owner = owners[taxon] if taxid is None else {taxid}
        expected[next(iter(owner)) if len(owner) == 1 else taxon] += 1
    assert sorted(sizes(table).values()) == sorted(expected.values())
    assert table.group_by("cluster").agg(pl.col("taxid").n_unique())["taxid"].to_list() == [
        1
    ] * len(expected)
    assert product.manifest.summary["without_taxon"] == len(members) - len(named)


def test_gzip_and_plain_give_the_same_clusters(tmp_path):
    plain = write_fasta(tmp_path / "in.fasta", [("Alpha", 1), ("Beta", 2)])
    packed = tmp_path / "in2.fasta.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    one = pl.read_parquet(cluster_taxa(plain, tmp_path / "one" / "taxa.parquet").path)
    two = pl.read_parquet(cluster_taxa(packed, tmp_path / "two" / "taxa.parquet").path)
    assert one.equals(two)


def test_the_bytes_do_not_depend_on_where_the_data_are(tmp_path):
    files = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        clusters_of(folder, [("Alpha", 1), ("Beta", 2), ("Beta", 3)] * 5)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1]


def test_a_second_run_is_unchanged_and_a_changed_fasta_is_not(tmp_path):
    members = [("Alpha", 1), ("Beta", 2)]
    assert not clusters_of(tmp_path, members)[1].unchanged
    assert clusters_of(tmp_path, members)[1].unchanged
    assert not clusters_of(tmp_path, [*members, ("Beta", 2)])[1].unchanged


def test_statistics_elsewhere_are_refused(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta", [("Alpha", 1)])
    for other in (tmp_path / "other" / "s.json", tmp_path / "taxa.parquet"):
        with pytest.raises(InputError, match="the statistics go into the table's folder"):
            cluster_taxa(fasta, tmp_path / "taxa.parquet", statistics_path=other)
    product = cluster_taxa(
        fasta, tmp_path / "taxa.parquet", statistics_path=tmp_path / "statistics.json"
    )
    assert set(product.manifest.files) == {"taxa.parquet", "statistics.json"}


@pytest.mark.parametrize("content", ["", "MKV\n", ">a OS=X OX=1\n\n>b\nMK\n", ">a OS=X\nM1K\n"])
def test_a_bad_fasta_leaves_nothing_behind(tmp_path, content):
    fasta = tmp_path / "bad.fasta"
    fasta.write_text(content)
    with pytest.raises(InputError, match=r"bad\.fasta"):
        cluster_taxa(fasta, tmp_path / "out" / "taxa.parquet")
    assert not list((tmp_path / "out").glob("*"))


def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path):
    taxa = [("Alpha", 1), ("Beta", 2), ("Gamma", None), (None, 4), (None, None)]
    generator = random.Random(0)
    fasta = write_fasta(tmp_path / "in.fasta", generator.choices(taxa, k=3000))
    # Several row groups, each read by another thread.
    index_beside(fasta, row_group_size=100)
    script = (
        "import sys; from esm_sae.clusters import cluster_taxa; "
        "print(cluster_taxa(sys.argv[1], sys.argv[2]).manifest.data_version)"
    )
    versions = set()
    for threads in ("1", "2", "7"):
        result = subprocess.run(
            [sys.executable, "-c", script, fasta, tmp_path / threads / "taxa.parquet"],
            env=os.environ | {"POLARS_MAX_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
        versions.add(result.stdout)
    assert len(versions) == 1


def index_beside(fasta, row_group_size):
    """Put an index with its manifest beside a FASTA file, as sampling does."""
    path = index_path(fasta)
    with publish(path) as temporary:
        index_of(fasta).write_parquet(temporary, row_group_size=row_group_size)
    files = {
        file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        for file in (fasta, path)
    }
    publish_json(manifest_beside(fasta), asdict(Manifest("sample", "0" * 64, {}, files, {})))


def test_the_order_of_the_file_is_kept_across_row_groups(tmp_path):
    members = [(f"Taxon {number % 37}", number % 37 + 1) for number in range(2000)]
    fasta = write_fasta(tmp_path / "in.fasta", members)
    index_beside(fasta, row_group_size=64)
    table = pl.read_parquet(cluster_taxa(fasta, tmp_path / "taxa.parquet").path)
    assert table["cluster"].to_list() == [name for name, _ in members]
    assert table["offset"].is_sorted()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": "genus"}, "rank genus needs a taxonomy"),
        ({"rank": "tribe", "taxonomy": "x"}, "rank 'tribe' is none of superkingdom, kingdom"),
        ({"organism": "host"}, "organism 'host' is none of common_ancestor, representative"),
        ({"species_list": "x"}, "a species list goes with organism 'representative'"),
        ({"organism": "representative", "taxonomy": "x"}, "needs the species list"),
        ({"taxonomy": "nowhere"}, "nowhere: no such file"),
        ({"organism": "representative", "species_list": "nowhere"}, "nowhere: no such file"),
        ({"taxonomy": "https://a.org/t.tar.gz"}, "fetch it first with python -m esm_sae.download"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, message):
    fasta = write_fasta(tmp_path / "in.fasta", [("Alpha", 1)])
    with pytest.raises(InputError, match=message):
        cluster_taxa(fasta, tmp_path / "out" / "taxa.parquet", **options)
    assert not list((tmp_path / "out").glob("*"))
