"""The bundled proteins keep the promises of their provenance, and the cut that made them."""

import gzip
import os
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from esm_sae import data, storage
from esm_sae.data import cut_proteins
from esm_sae.errors import InputError
from esm_sae.formats.fasta import Record, read_fasta
from esm_sae.formats.headers import parse_header
from esm_sae.split import read_similarity_clusters


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(read_fasta(data.bundled_fasta()))


@pytest.fixture(scope="module")
def ids(records: list[Record]) -> list[str]:
    return [parse_header(record.header).sequence_id for record in records]


@pytest.fixture(scope="module")
def clusters() -> dict[str, str]:
    return read_similarity_clusters("bundled")


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    return data.provenance()["counts"]


def made_up(*lengths: int, taxon: str = "Homo sapiens") -> list[Record]:
    """Return records of the given lengths with the ids P0, P1, ..."""
    return [
        Record(f"P{i} Protein {i} OS={taxon} PE=4 SV=1 Split=0 ", "M" * length, 0)
        for i, length in enumerate(lengths)
    ]


def install_program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Make ``mmseqs`` the given shell script."""
    program = folder / "mmseqs"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


class TestBundle:
    def test_files_have_the_checksums_of_the_provenance(self):
        recorded = data.provenance()["sha256"]
        for path in (data.bundled_fasta(), data.bundled_clusters()):
            assert storage.sha256_of(path) == recorded[path.name]

    def test_fasta_is_small_and_its_gzip_header_has_no_clock_and_no_name(self):
        content = data.bundled_fasta().read_bytes()
        flags, time = content[3], content[4:8]
        assert len(content) < 4_000_000
        assert (flags, time) == (0, b"\0\0\0\0")

    def test_counts_are_those_of_the_provenance(self, records, ids, clusters, counts):
        short = [record for record in records if len(record.sequence) <= 256]
        assert len(records) == counts["bundled_records"]
        assert sum(len(record.sequence) for record in records) == counts["bundled_residues"]
        assert len(short) == counts["bundled_short_records"]
        assert sum(len(r.sequence) > 2048 for r in records) == counts["bundled_records_over_2048"]
        assert len(set(clusters.values())) == counts["source_clusters"]
        assert len({clusters[name] for name in ids}) == counts["bundled_clusters"]

    def test_demo_has_enough_short_proteins_and_large_taxa(self, records, counts):
        short = [record for record in records if len(record.sequence) <= 256]
        taxon = re.compile(r" OS=(.+?) (?:GN|PE)=")
        taxa = Counter(name for record in short for name in taxon.findall(record.header))
        assert taxa.total() == len(short)
        large = sum(size >= 20 for size in taxa.values())
        assert len(short) >= 7_000
        assert large >= 15
        assert large == counts["bundled_large_taxa"]

    def test_length_filter_has_work(self, counts):
        assert counts["bundled_records_over_2048"] > 10
        assert counts["bundled_records"] > counts["bundled_short_records"]

    def test_ids_are_unique(self, ids):
        assert len(set(ids)) == len(ids)

    def test_headers_and_lines_are_as_in_the_source(self):
        lines = gzip.decompress(data.bundled_fasta().read_bytes()).decode("ascii").splitlines()
        headers = [line for line in lines if line.startswith(">")]
        sequence_lines = [line for line in lines if not line.startswith(">")]
        style = re.compile(r">(sp|tr)\|\w+\|\w+ .+ OS=.+ PE=\d SV=\d+ Split=0 $")
        assert [header for header in headers if not style.match(header)] == []
        assert max(map(len, sequence_lines)) == 60

    def test_residues_are_plausible(self, records):
        letters = set().union(*(record.sequence for record in records))
        assert letters <= set("ACDEFGHIKLMNPQRSTVWYXBZUO")

    def test_every_record_has_a_cluster(self, ids, clusters):
        assert set(ids) <= clusters.keys()

    def test_clusters_cover_the_source_and_are_named_after_their_first_member(
        self, clusters, counts
    ):
        distinct = counts["source_records"] - counts["source_duplicate_ids_dropped"]
        assert len(clusters) == distinct
        assert cut_proteins.name_clusters(clusters) == clusters

    def test_cluster_table_is_sorted(self):
        table = pl.read_parquet(data.bundled_clusters())
        assert table.columns == ["sequence_id", "cluster_id"]
        assert table["sequence_id"].to_list() == sorted(table["sequence_id"].to_list())

    def test_identical_sequences_share_a_cluster(self, records, ids, clusters):
        of_sequence: dict[str, set[str]] = {}
        for name, record in zip(ids, records, strict=True):
            of_sequence.setdefault(record.sequence, set()).add(clusters[name])
        assert len(of_sequence) < len(records)
        assert all(len(found) == 1 for found in of_sequence.values())

    def test_licence_and_source_are_named(self):
        provenance = data.provenance()
        assert "UniProt Consortium" in provenance["creator"]
        assert "CC BY 4.0" in provenance["licence"]
        assert provenance["source"]["package"] == "Debian mmseqs2-examples"


class TestChooseRecords:
    def test_short_ones_are_all_kept_and_longer_ones_sampled_in_order(self):
        records = made_up(300, 256, 400, 1, 257, 5000, 100)
        chosen = cut_proteins.choose_records(records, long_records=2, seed=0)
        positions = [records.index(record) for record in chosen]
        assert positions == sorted(positions)
        assert {1, 3, 6} < set(positions)
        assert len(chosen) == 5

    def test_sample_follows_the_seed_and_not_the_order_of_records(self):
        records = made_up(*[300] * 40)

        def sample(source: list[Record], seed: int) -> set[Record]:
            return set(cut_proteins.choose_records(source, long_records=10, seed=seed))

        assert sample(records, 0) == sample(records[::-1], 0)
        assert sample(records, 0) != sample(records, 1)

    def test_sample_is_uniform(self):
        records = made_up(*[300] * 20)
        hits = Counter(
            record.header
            for seed in range(400)
            for record in cut_proteins.choose_records(records, long_records=5, seed=seed)
        )
        # Each is drawn with p = 1/4: 100 of 400, standard deviation 8.7.
        assert len(hits) == 20
        assert min(hits.values()) > 60
        assert max(hits.values()) < 140

    def test_letters_that_are_no_residues_are_left_out(self):
        records = [Record("A x", "MKJ", 0), Record("B x", "MKXBZUO", 0)]
        chosen = cut_proteins.choose_records(records, long_records=0, seed=0)
        assert chosen == [records[1]]


class TestCheckRecords:
    def test_too_few_short_records_are_refused(self):
        with pytest.raises(InputError, match="3 records of at most 256 residues, 7000 are needed"):
            cut_proteins.check_records(made_up(10, 20, 30, 300))

    def test_too_few_taxa_are_refused(self):
        with pytest.raises(InputError, match="1 taxa with 20 records"):
            cut_proteins.check_records(made_up(*[5] * 7_000))

    def test_large_taxa_count_short_records_only(self):
        human = made_up(*[5] * 20)
        mouse = made_up(*[5] * 19, 300, taxon="Mus musculus")
        assert cut_proteins.large_taxa([*human, *mouse]) == {"Homo sapiens": 20}


def test_without_duplicates_keeps_the_first_of_each_id():
    records = [Record("A one", "M", 0), Record("B", "K", 0), Record("A two", "R", 0)]
    assert cut_proteins.without_duplicates(records) == records[:2]


def test_encode_fasta_is_deterministic_and_keeps_records(tmp_path):
    records = made_up(1, 60, 61, 121)
    path = tmp_path / "records.fasta.gz"
    path.write_bytes(cut_proteins.encode_fasta(records))
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert path.read_bytes() == cut_proteins.encode_fasta(records)
    assert [(r.header, r.sequence) for r in read_fasta(path)] == [
        (r.header, r.sequence) for r in records
    ]
    assert [len(line) for line in lines if not line.startswith(">")] == [1, 60, 60, 1, 60, 60, 1]


def test_clusters_are_named_after_their_first_member_whatever_the_components_are_called():
    names = cut_proteins.name_clusters({"c": 7, "a": 7, "b": 1})
    assert names == {"a": "a", "b": "b", "c": "a"}
    assert cut_proteins.name_clusters({"b": "x", "a": "y", "c": "y"}) == names


def test_clusters_table_is_sorted_by_sequence_id():
    table = cut_proteins.clusters_table({"b": "a", "a": "a"})
    assert table.rows() == [("a", "a"), ("b", "a")]


def test_another_source_is_refused(tmp_path, capsys):
    (tmp_path / "DB.fasta.gz").write_bytes(b">A\nM\n")
    arguments = ["--source", str(tmp_path), "--output", str(tmp_path / "out"), "--quiet"]
    assert cut_proteins.main(arguments) == 2
    assert "not the file of Debian's mmseqs2-examples" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class TestSimilarityClusters:
    def test_ordinals_become_sequence_ids(self, tmp_path, monkeypatch):
        pairs = r"2\t2\n2\t0\n1\t1\n"
        install_program(tmp_path, monkeypatch, f"printf '{pairs}' > result_cluster.tsv")
        clusters = cut_proteins.similarity_clusters(made_up(5, 6, 7))
        assert clusters == {"P0": "P0", "P1": "P1", "P2": "P0"}

    def test_record_without_a_cluster_is_an_error(self, tmp_path, monkeypatch):
        install_program(tmp_path, monkeypatch, r"printf '0\t0\n' > result_cluster.tsv")
        with pytest.raises(InputError, match="clustered 1 records of 2"):
            cut_proteins.similarity_clusters(made_up(5, 6))

    def test_failure_of_the_program_is_told(self, tmp_path, monkeypatch):
        install_program(tmp_path, monkeypatch, "echo no space left >&2; exit 1")
        with pytest.raises(InputError, match="mmseqs failed: no space left"):
            cut_proteins.similarity_clusters(made_up(5))

    def test_missing_program_is_told(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(InputError, match="install Debian's package mmseqs2"):
            cut_proteins.similarity_clusters(made_up(5))
