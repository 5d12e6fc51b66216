import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_sae.clusters.taxa import cluster_taxa
from esm_sae.errors import InputError
from taxdumps import NODES, changed, dump, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("taxonomy") / "taxdump", dump())


def write_fasta(path, headers):
    path.write_text("".join(f">{header}\nMKV\n" for header in headers), encoding="utf-8")
    return path


def uniref(number, taxon, taxid, n=1, rep_id="UPI0001"):
    return f"UniRef50_A{number} Some protein n={n} Tax={taxon} TaxID={taxid} RepID={rep_id}"


def uniprot(number, taxon, taxid=None):
    ox = "" if taxid is None else f" OX={taxid}"
    return f"tr|B{number}|B{number}_X Some protein OS={taxon}{ox} PE=4 SV=1"


HEADERS = [
    uniref(0, "Escherichia coli K-12", 83333),
    uniref(1, "Escherichia coli", 1000, n=3),
    uniref(2, "Gone species", 2000, n=3),
    uniref(3, "New species", 424242, n=12),
    uniref(4, "Enterobacteriaceae", 543, n=12),
    uniref(5, "uncultured bacterium", 77133, n=2000),
    uniprot(6, "Escherichia coli (strain K12)"),
    uniprot(7, "Homo sapiens"),
    uniprot(8, "Bacillus"),
    uniprot(9, "Nobody knows"),
    uniprot(10, "Human", 9606),
    "Z9 Some protein",
]


def run(folder, headers, **options):
    fasta = write_fasta(folder / "in.fasta", headers)
    product = cluster_taxa(fasta, folder / "taxa.parquet", **options)
    table = pl.read_parquet(product.path)
    return dict(table.select("sequence_id", "cluster").iter_rows()), product.manifest.summary


def numbers(clusters):
    """Return the clusters by the numbers in the ids."""
    found = {}
    for sequence_id, cluster in clusters.items():
        found.setdefault(cluster, []).append(int(sequence_id.split("|")[-1].strip("UniRef50_ABX")))
    return found


def test_a_taxonomy_without_a_rank_updates_taxids_and_names(tmp_path, folder):
    clusters, summary = run(tmp_path, HEADERS, taxonomy=folder)
    by_cluster = {header.split()[0]: clusters.get(header.split()[0]) for header in HEADERS}.values()
    assert list(by_cluster) == [
        "Escherichia coli K-12",
        "Escherichia coli",
        "Gone species",
        "New species",
        "Enterobacteriaceae",
        'uncultured "odd" bacterium\'s',
        "Escherichia coli",
        "Homo sapiens",
        "Bacillus",
        "Nobody knows",
        "Homo sapiens",
        None,
    ]
    assert summary["taxid_state"] == {"current": 4, "deleted": 1, "merged": 1, "unknown": 1}
    assert summary["name_state"] == {
        "ambiguous": 1,
        "not_found": 1,
        "scientific_name": 1,
        "without_brackets": 1,
    }
    assert (summary["records"], summary["clustered"], summary["without_taxon"]) == (12, 11, 1)
    table = pl.read_parquet(tmp_path / "taxa.parquet")
    taxids = dict(table.select("cluster", "taxid").iter_rows())
    # A TaxID that the taxonomy does not know stays as it is given.
    assert taxids["Gone species"] == 2000
    assert taxids["New species"] == 424242
    assert taxids["Bacillus"] is None


def test_a_rank_lifts_taxa_and_counts_what_lies_above_it_by_member_count(tmp_path, folder):
    clusters, summary = run(tmp_path, HEADERS, taxonomy=folder, rank="genus")
    assert sorted(clusters.values()) == ["Escherichia"] * 3 + ["Homo"] * 2
    totals = {
        "records": 12,
        "clustered": 5,
        "without_taxon": 1,
        "unknown_taxon": 4,
        "above_rank": 1,
        "rank_missing": 1,
        "clusters": 2,
    }
    assert {name: summary[name] for name in totals} == totals
    reasons = ["without_taxon", "unknown_taxon", "above_rank", "rank_missing"]
    rows = [
        (row["members"], row["records"], *(row[reason] for reason in reasons))
        for row in summary["left_out"]
    ]
    assert rows == [
        ("1", 1, 0, 0, 0, 0),
        ("2-4", 2, 0, 1, 0, 0),
        ("10-99", 2, 0, 1, 1, 0),
        ("1000+", 1, 0, 0, 0, 1),
        ("no UniRef header", 6, 1, 2, 0, 0),
    ]
    assert [row["left_out_share"] for row in summary["left_out"]] == [0, 0.5, 1, 1, 0.5]
    content = json.loads((tmp_path / "cluster_statistics.json").read_text())
    assert content["totals"] == totals
    assert content["left_out"] == summary["left_out"]
    assert content["rank"] == "genus"
    assert content["clusters"]["Escherichia"]["taxid"] == 561


def test_no_taxon_of_the_rank_is_an_error_that_leaves_nothing(tmp_path, folder):
    fasta = write_fasta(tmp_path / "in.fasta", [uniref(0, "Bacteria", 2)])
    with pytest.raises(InputError, match=r"in\.fasta: no header names a taxon .* of rank species"):
        cluster_taxa(fasta, tmp_path / "out" / "t.parquet", taxonomy=folder, rank="species")
    assert not list((tmp_path / "out").glob("*"))


def test_two_genera_of_one_name_stay_apart(tmp_path, folder):
    clusters, _ = run(
        tmp_path, [uniref(0, "B", 1386), uniref(1, "B", 55087)], taxonomy=folder, rank="genus"
    )
    assert sorted(clusters.values()) == ["Bacillus (1386)", "Bacillus (55087)"]


def test_another_rank_or_taxonomy_is_another_output_and_the_same_is_unchanged(tmp_path, folder):
    fasta = write_fasta(tmp_path / "in.fasta", HEADERS)

    def again(**options):
        return cluster_taxa(fasta, tmp_path / "taxa.parquet", **options).unchanged

    assert not again(taxonomy=folder, rank="genus")
    assert again(taxonomy=folder, rank="genus")
    assert not again(taxonomy=folder, rank="species")
    other = write_folder(tmp_path / "other", changed("names.dmp", "Homo sapiens", "Homo ludens"))
    assert not again(taxonomy=other, rank="species")
    assert again(taxonomy=Path(other), rank="species")


@settings(max_examples=25, deadline=None)
@given(
    members=st.lists(
        st.tuples(
            st.sampled_from([node[0] for node in NODES] + [1000, 1002, 2000, 424242]),
            st.sampled_from([1, 2, 4, 5, 9, 10, 99, 100, 999, 1000, 123456, None]),
        ),
        min_size=1,
        max_size=30,
    ),
    rank=st.sampled_from(["species", "genus", "phylum", "superkingdom"]),
)
def test_no_record_is_lost_from_the_counts(tmp_path_factory, folder, members, rank):
    # One that has all ranks.
    members = [*members, (83333, 1)]
    headers = [
        uniprot(number, "T", taxid) if n is None else uniref(number, "T", taxid, n)
        for number, (taxid, n) in enumerate(members)
    ]
    home = tmp_path_factory.mktemp("counts")
    clusters, summary = run(home, headers, taxonomy=folder, rank=rank)
    reasons = ["without_taxon", "unknown_taxon", "above_rank", "rank_missing"]
    left_out = {reason: sum(row[reason] for row in summary["left_out"]) for reason in reasons}
    assert left_out == {reason: summary[reason] for reason in reasons}
    assert sum(row["records"] for row in summary["left_out"]) == len(members)
    assert len(clusters) == summary["clustered"] == len(members) - sum(left_out.values())
    for row in summary["left_out"]:
        counts = [n for _, n in members if n is None or n >= 1]
        first, _, last = row["members"].rstrip("+").partition("-")
        if row["members"].startswith("no"):
            expected = counts.count(None)
        else:
            most = float("inf") if row["members"].endswith("+") else int(last or first)
            expected = sum(n is not None and int(first) <= n <= most for n in counts)
        assert row["records"] == expected
