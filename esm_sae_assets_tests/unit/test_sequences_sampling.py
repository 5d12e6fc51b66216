import gzip
import re
from collections import Counter

import numpy as np
import polars as pl
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.errors import InputError
from esm_sae.formats import fasta_reading, sequence_index
from esm_sae.formats.fasta import read_at, read_fasta
from esm_sae.formats.headers import parse_header
from esm_sae.formats.sequence_index import index_of, index_path
from esm_sae.sequences import drawn_records, identical
from esm_sae.sequences.figures import sample_figure
from esm_sae.sequences.sampling import sample_fasta


def ids(path):
    return [record.header.split()[0] for record in read_fasta(path)]


def naive_sample(content, n, seed, *, passes):
    """Return the sample: the keys of all records, sorted, in one go."""
    raws = re.split(rb"(?m)^(?=>)", content)[1:]
    keys = np.random.PCG64(np.random.SeedSequence((seed, n))).random_raw(len(raws))
    passing = [number for number, raw in enumerate(raws) if passes(raw)]
    chosen = sorted(sorted(passing, key=lambda number: (keys[number], number))[:n])
    return b"".join(raws[number] for number in chosen)


def parts_of(raw):
    header, _, lines = raw.partition(b"\n")
    return header[1:].rstrip(b"\r").decode(), b"".join(lines.split()).upper().removesuffix(
        b"*"
    ).decode()


def length_within(shortest, longest):
    return lambda raw: shortest <= len(parts_of(raw)[1]) <= (longest or 10**9)


@pytest.mark.parametrize("n", [1, 17, 150, 299, 300, 1000])
@pytest.mark.parametrize(("shortest", "longest"), [(1, None), (10, 30)])
def test_equals_the_naive_sampler(tmp_path, source, n, shortest, longest):
    target = tmp_path / "sample.fasta"
    report = sample_fasta(source, target, n, min_length=shortest, max_length=longest, seed=7)
    passes = length_within(shortest, longest)
    assert target.read_bytes() == naive_sample(source.read_bytes(), n, 7, passes=passes)
    lengths = [len(record.sequence) for record in read_fasta(source)]
    too_long = sum(size > longest for size in lengths) if longest else 0
    too_short = sum(size < shortest for size in lengths)
    assert report.read == 300
    assert report.dropped == {"too short": too_short, "too long": too_long}
    assert report.passing == 300 - too_short - too_long
    assert report.sampled == min(n, report.passing) == len(ids(target))


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(
            ["a n=1 Tax=Homo sapiens TaxID=9606 RepID=r", "b n=1 Tax=Mus TaxID=10090 RepID=r",
             "c OS=Homo sapiens OX=9606", "d OS=Bos PE=1", "e", "f OS=9606"]
        ),
        st.text("ACDEFUacdxX", min_size=1, max_size=4),
        st.sampled_from(["", "*"]),
    ),
    min_size=1,
    max_size=30,
)  # fmt: skip


@given(
    records=RECORDS,
    n=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    shortest=st.integers(1, 3),
    longest=st.none() | st.integers(3, 4),
    letters=st.sampled_from([None, "ACDEF", "acdefx"]),
    taxa=st.sampled_from([None, ("9606",), ("Mus", "Bos"), ("Homo sapiens", "Mus")]),
    drop_identical=st.booleans(),
    layout=st.sampled_from(["plain", "crlf", "gzip", "zstd"]),
    block_bytes=st.sampled_from([8, 64, 1 << 20]),
)
def test_any_selection_equals_the_naive_one(
    tmp_path_factory, records, n, seed, shortest, longest, letters, taxa, drop_identical, layout,
    block_bytes,
):  # fmt: skip
    newline = "\r\n" if layout == "crlf" else "\n"
    content = "".join(
        f">{header}{newline}{sequence[:2]}{newline}{sequence[2:]}{star}{newline}"
        for header, sequence, star in records
    ).encode()
    seen = set()

    def passes(raw):
        header, sequence = parts_of(raw)
        parsed = parse_header(header)
        good = (
            length_within(shortest, longest)(raw)
            and (letters is None or set(sequence) <= set(letters.upper()))
            and (taxa is None or bool({parsed.taxon, str(parsed.taxid)} & set(taxa)))
            and not (drop_identical and sequence in seen)
        )
        if good:
            seen.add(sequence)
        return good

    expected = naive_sample(content, n, seed, passes=passes)
    folder = tmp_path_factory.mktemp("sample")
    pack = {"gzip": gzip.compress, "zstd": zstd.compress}.get(layout, bytes)
    (folder / "x.fasta").write_bytes(pack(content))
    options = {
        "min_length": shortest, "max_length": longest, "letters": letters, "taxa": taxa,
        "drop_identical": drop_identical, "seed": seed,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta_reading, "_BLOCK_BYTES", block_bytes)
        patch.setattr(identical, "_DIGESTS_AT_ONCE", 3)
        patch.setattr(drawn_records, "_BATCH_BYTES", 90)
        if not expected:
            with pytest.raises(InputError, match="none of its"):
                sample_fasta(folder / "x.fasta", folder / "s.fasta", n, **options)
            assert [path.name for path in folder.iterdir()] == ["x.fasta"]
            return
        report = sample_fasta(folder / "x.fasta", folder / "s.fasta", n, **options)
    assert (folder / "s.fasta").read_bytes() == expected
    assert report.passing == len(seen) if drop_identical else report.passing >= report.sampled
    assert report.read == len(records) == report.passing + sum(report.dropped.values())
    assert sorted(path.name for path in folder.iterdir()) == [
        "s.fasta", "s.fasta.manifest.json", "s.index.parquet", "x.fasta",
    ]  # fmt: skip


def test_a_thousand_records_in_a_thousand_out(tmp_path, write_fasta, random_proteins, monkeypatch):
    source = write_fasta(random_proteins(1000))
    monkeypatch.setattr(drawn_records, "_BATCH_BYTES", 999)
    report = sample_fasta(source, tmp_path / "sample.fasta", 1000)
    assert (tmp_path / "sample.fasta").read_bytes() == source.read_bytes()
    assert (report.read, report.sampled) == (1000, 1000)


def test_neither_block_size_nor_compression_nor_threads_change_the_sample(
    tmp_path, source, monkeypatch
):
    content = source.read_bytes()
    half = len(content) // 2
    forms = {
        "plain.fasta": content,
        "one.fasta.gz": gzip.compress(content),
        "members.fasta.gz": gzip.compress(content[:half]) + gzip.compress(content[half:]),
        "x.fasta.zst": zstd.compress(content),
    }
    samples = []
    for block_bytes, locators in ((64, 1), (1000, 3), (1 << 20, 2)):
        monkeypatch.setattr(fasta_reading, "_BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(fasta_reading, "_LOCATORS", locators)
        monkeypatch.setattr(sequence_index, "_ROWS_PER_PART", block_bytes)
        for name, packed in forms.items():
            (tmp_path / name).write_bytes(packed)
            target = tmp_path / f"{name}.{block_bytes}" / "sample.fasta"
            sample_fasta(tmp_path / name, target, 40, max_length=30, seed=3)
            samples.append((target.read_bytes(), index_path(target).read_bytes()))
    assert len(set(samples)) == 1


def test_records_are_copied_byte_for_byte(tmp_path):
    source = tmp_path / "odd.fasta"
    source.write_bytes(b"\n>a one\r\nmkv\r\nLL*\r\n\r\n>b two \n M K\n\n>c \xff three\nMW")
    sample_fasta(source, tmp_path / "sample.fasta", 10)
    assert (tmp_path / "sample.fasta").read_bytes() == source.read_bytes()[1:] + b"\n"


def test_another_seed_is_another_sample_and_the_same_one_the_same(tmp_path, source):
    samples = [tmp_path / name / "s.fasta" for name in ("a", "b", "c")]
    for target, seed in zip(samples, (0, 0, 1), strict=True):
        sample_fasta(source, target, 50, seed=seed)
    assert samples[0].read_bytes() == samples[1].read_bytes() != samples[2].read_bytes()


def test_the_index_finds_every_record(tmp_path, source):
    target = tmp_path / "sample.fasta"
    sample_fasta(source, target, 40)
    index = pl.read_parquet(index_path(target))
    records = list(read_at(target, index["offset"].to_list()))
    assert records == list(read_fasta(target))
    assert index["header"].to_list() == [record.header for record in records]
    assert index["length"].to_list() == [len(record.sequence) for record in records]
    assert index["taxid"].null_count() == 0
    assert index_of(target).equals(index)


def test_an_unchanged_rerun_tells_the_same(tmp_path, source):
    first = sample_fasta(source, tmp_path / "sample.fasta", 40, max_length=30)
    second = sample_fasta(source, tmp_path / "sample.fasta", 40, max_length=30)
    assert (first.product.unchanged, second.product.unchanged) == (False, True)
    assert second.product.manifest == first.product.manifest
    assert (second.read, second.passing, second.sampled, second.dropped) == (
        first.read,
        first.passing,
        first.sampled,
        first.dropped,
    )
    for changed in ({"n": 41}, {"seed": 1}, {"min_length": 2}, {"max_length": 29}):
        options = {"n": 40, "max_length": 30} | changed
        assert not sample_fasta(source, tmp_path / "sample.fasta", **options).product.unchanged


def test_a_changed_source_is_sampled_again(tmp_path, write_fasta, random_proteins):
    source = write_fasta(random_proteins(20), "source.fasta")
    sample_fasta(source, tmp_path / "sample.fasta", 40)
    write_fasta(random_proteins(21), "source.fasta")
    assert sample_fasta(source, tmp_path / "sample.fasta", 40).sampled == 21


def test_the_summary_adds_up(tmp_path, source):
    report = sample_fasta(source, tmp_path / "sample.fasta", 40, min_length=8, max_length=30)
    summary = report.product.manifest.summary
    records = list(read_fasta(source))
    sampled = list(read_fasta(tmp_path / "sample.fasta"))
    assert summary["read"] == summary["passing"] + sum(summary["dropped"].values())
    assert summary["not_drawn"] == summary["passing"] - 40
    assert summary["residues_read"] == sum(len(record.sequence) for record in records)
    assert summary["residues_sampled"] == sum(len(record.sequence) for record in sampled)
    assert sum(row["read"] for row in summary["lengths"]) == 300
    assert sum(row["sampled"] for row in summary["lengths"]) == 40
    taxa = Counter(record.header.split("Tax=")[1].split(" TaxID")[0] for record in sampled)
    assert {row["taxon"]: row["records"] for row in summary["top_taxa"]} == dict(taxa)
    counts = [row["records"] for row in summary["top_taxa"]]
    assert counts == sorted(counts, reverse=True)
    assert (summary["taxa"], summary["without_taxon"]) == (len(taxa), 0)
    assert summary["unrecognised_headers"] == 0


def test_headers_of_no_known_style_are_counted(tmp_path, write_fasta, random_proteins, monkeypatch):
    monkeypatch.setattr(sequence_index, "_ROWS_PER_PART", 8)
    odd = [(f"p{number} what n=many", "MK") for number in range(13)]
    source = write_fasta([*random_proteins(20), *odd, ("sp|A|B c OS=d", "MK")], "source.fasta")
    summary = sample_fasta(source, tmp_path / "s.fasta", 99).product.manifest.summary
    assert (summary["unrecognised_headers"], summary["without_taxon"]) == (13, 13)


def test_a_sample_is_drawn_as_a_picture(tmp_path, source, write_fasta):
    summary = sample_fasta(source, tmp_path / "s.fasta", 40, max_length=30).product.manifest.summary
    assert sample_figure(summary) == sample_figure(summary)
    odd = summary | {"top_taxa": [{"taxon": "a $ b_{c$ " + "d" * 99, "records": 3}]}
    no_taxa = summary | {"top_taxa": [], "taxa": 0}
    pictures = {sample_figure(each) for each in (summary, odd, no_taxa)}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(pictures) == 3


def test_length_bins_hold_their_upper_end(tmp_path, write_fasta):
    lengths = [64, 65, 256, 257, 4096, 4097]
    source = write_fasta([(f"p{size}", "A" * size) for size in lengths], "source.fasta")
    summary = sample_fasta(source, tmp_path / "s.fasta", 9, max_length=256).product.manifest.summary
    rows = {row["length"]: (row["read"], row["sampled"]) for row in summary["lengths"]}
    assert {name: row for name, row in rows.items() if any(row)} == {
        "1-64": (1, 1),
        "65-128": (1, 1),
        "129-256": (1, 1),
        "257-384": (1, 0),
        "2049-4096": (1, 0),
        ">4096": (1, 0),
    }
    assert summary["without_taxon"] == 3
    assert summary["top_taxa"] == []


def test_two_taxa_of_one_name_are_two(tmp_path, write_fasta):
    headers = ["a n=1 Tax=Twin TaxID=1", "b n=1 Tax=Twin TaxID=2", "c n=1 Tax=Twin TaxID=2"]
    headers += ["d n=1 TaxID=3", "e n=1 Tax=Nameless"]
    source = write_fasta([(header, "MK") for header in headers], "source.fasta")
    summary = sample_fasta(source, tmp_path / "s.fasta", 9).product.manifest.summary
    assert summary["taxa"] == 4
    assert summary["top_taxa"] == [
        {"taxon": "Twin", "taxid": 2, "records": 2},
        {"taxon": "TaxID 3", "taxid": 3, "records": 1},
        {"taxon": "Nameless", "taxid": None, "records": 1},
        {"taxon": "Twin", "taxid": 1, "records": 1},
    ]


def test_records_without_a_taxon_are_counted_apart(tmp_path, write_fasta):
    headers = ["a n=1 Tax=A TaxID=1", "b n=1 Tax=B TaxID=2", "c what", "d n=5", "e OS=A"]
    source = write_fasta([(header, "MK") for header in headers], "source.fasta")
    report = sample_fasta(source, tmp_path / "s.fasta", 9, taxa=["A"])
    assert report.sampled == 2
    assert report.dropped == {"too short": 0, "too long": 0, "no taxon": 2, "another taxon": 1}
