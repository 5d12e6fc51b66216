import gzip
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_at, read_fasta, read_raw
from esm_sae.formats.sequence_index import index_of, index_path
from esm_sae.sequences import sampling
from esm_sae.sequences.sampling import sample_fasta


def ids(path):
    return [record.header.split()[0] for record in read_fasta(path)]


def naive_sample(source, n, min_length, max_length, seed):
    """Return the raw records of the sample: keys of all records, sorted, in one go."""
    raws = list(read_raw(source))
    lengths = [len(record.sequence) for record in read_fasta(source)]
    keys = np.random.PCG64(np.random.SeedSequence((seed, n))).random_raw(len(raws))
    longest = max_length or max(lengths)
    passing = [number for number, size in enumerate(lengths) if min_length <= size <= longest]
    chosen = sorted(sorted(passing, key=lambda number: (keys[number], number))[:n])
    return [raws[number].raw for number in chosen]


@pytest.fixture
def source(write_fasta, random_proteins):
    return write_fasta(random_proteins(300), "source.fasta", width=15)


@pytest.mark.parametrize("n", [1, 17, 150, 299, 300, 1000])
@pytest.mark.parametrize(("shortest", "longest"), [(1, None), (10, 30)])
def test_equals_the_naive_sampler(tmp_path, source, n, shortest, longest):
    target = tmp_path / "sample.fasta"
    report = sample_fasta(source, target, n, min_length=shortest, max_length=longest, seed=7)
    assert target.read_bytes() == b"".join(naive_sample(source, n, shortest, longest, 7))
    lengths = [len(record.sequence) for record in read_fasta(source)]
    too_long = sum(size > longest for size in lengths) if longest else 0
    too_short = sum(size < shortest for size in lengths)
    assert report.read == 300
    assert report.dropped == {"too short": too_short, "too long": too_long}
    assert report.passing == 300 - too_short - too_long
    assert report.sampled == min(n, report.passing) == len(ids(target))


@given(
    passes=st.lists(st.booleans(), max_size=60),
    n=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    seed=st.integers(0, 2**40),
)
def test_chunks_do_not_change_the_draw(passes, n, cuts, seed):
    keys = np.random.PCG64(np.random.SeedSequence((seed, n))).random_raw(len(passes))
    passing = [number for number, wanted in enumerate(passes) if wanted]
    expected = sorted(sorted(passing, key=lambda number: keys[number])[:n])
    draw = sampling._Draw(n, seed)
    for chunk in np.split(np.array(passes, dtype=bool), sorted(min(c, len(passes)) for c in cuts)):
        draw.offer(chunk)
    assert draw.chosen().tolist() == expected


def test_a_thousand_records_in_a_thousand_out(tmp_path, write_fasta, random_proteins, monkeypatch):
    source = write_fasta(random_proteins(1000))
    monkeypatch.setattr(sampling, "_CHUNK", 64)
    report = sample_fasta(source, tmp_path / "sample.fasta", 1000)
    assert (tmp_path / "sample.fasta").read_bytes() == source.read_bytes()
    assert (report.read, report.sampled) == (1000, 1000)


def test_neither_chunk_size_nor_compression_changes_the_sample(
    tmp_path, source, write_fasta, random_proteins, monkeypatch
):
    content = source.read_bytes()
    one_member = tmp_path / "one.fasta.gz"
    one_member.write_bytes(gzip.compress(content))
    members = tmp_path / "members.fasta.gz"
    half = len(content) // 2
    members.write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))
    samples = []
    for chunk in (1, 7, 16_384):
        monkeypatch.setattr(sampling, "_CHUNK", chunk)
        for path in (source, one_member, members):
            target = tmp_path / f"{path.name}.{chunk}" / "sample.fasta"
            sample_fasta(path, target, 40, max_length=30, seed=3)
            samples.append((target.read_bytes(), index_path(target).read_bytes()))
    assert len(set(samples)) == 1


def counts_over_seeds(draw, seeds):
    counts = Counter()
    for seed in range(seeds):
        counts.update(draw(seed))
    return counts


def chi_square(counts, categories, draws):
    expected = draws / categories
    return sum((counts[category] - expected) ** 2 / expected for category in range(categories))


def test_every_subset_is_equally_likely():
    def subset(seed):
        draw = sampling._Draw(2, seed)
        draw.offer(np.array([True, True, False, True, True, True]))
        chosen = draw.chosen().tolist()
        return [[0, 1, 3, 4, 5].index(chosen[0]) * 5 + [0, 1, 3, 4, 5].index(chosen[1])]

    counts = counts_over_seeds(subset, 4000)
    assert len(counts) == 10
    statistic = sum((count - 400) ** 2 / 400 for count in counts.values())
    # 99.9% of chi-square with 9 degrees of freedom. The seeds are fixed: this never flickers.
    assert statistic < 27.88


def test_every_record_is_equally_likely():
    def chosen(seed):
        draw = sampling._Draw(10, seed)
        draw.offer(np.ones(50, dtype=bool))
        return draw.chosen().tolist()

    counts = counts_over_seeds(chosen, 2000)
    # Drawing without replacement shrinks the statistic by (50 - 10) / (50 - 1).
    assert chi_square(counts, 50, 20_000) / (40 / 49) < 85.35


def test_a_sample_of_a_sample_with_one_seed_is_uniform():
    # With the same keys in both draws, record 0 would come out of 42% instead of 25%.
    def chosen(seed):
        first = sampling._Draw(2, seed)
        first.offer(np.ones(4, dtype=bool))
        second = sampling._Draw(1, seed)
        second.offer(np.ones(2, dtype=bool))
        return [first.chosen()[second.chosen()[0]]]

    assert chi_square(counts_over_seeds(chosen, 4000), 4, 4000) < 16.27


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


def test_nothing_that_passes_is_an_error_that_says_why(tmp_path, source):
    with pytest.raises(
        InputError, match=r"none of its 300 records has 50 to 60 residues"
    ) as caught:
        sample_fasta(source, tmp_path / "out" / "s.fasta", 10, min_length=50, max_length=60)
    assert "300 too short and 0 too long" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "cannot draw 0 records"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"min_length": 9, "max_length": 8}, "at least 9 and at most 8"),
        ({"max_length": 0}, "at least 1 and at most 0"),
        ({"target": "s.fasta.gz"}, "give a name without .gz"),
        ({"target": "source.fasta"}, "is the source itself"),
    ],
)
def test_arguments_out_of_range(tmp_path, source, options, message):
    content = source.read_bytes()
    arguments = {"n": 10} | options
    target = tmp_path / arguments.pop("target", "s.fasta")
    with pytest.raises(InputError, match=message):
        sample_fasta(source, target, **arguments)
    assert source.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["source.fasta"]


@pytest.mark.parametrize("content", [b"", b"MK\n", b">a\n>b\nMK\n", b">a\nM1\n", b"\x1f\x8b\x08"])
def test_a_bad_source_leaves_the_older_sample(tmp_path, source, content):
    target = tmp_path / "out" / "s.fasta"
    sample_fasta(source, target, 10)
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    bad = tmp_path / "bad.fasta"
    bad.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.fasta: "):
        sample_fasta(bad, target, 10)
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == before


def test_a_source_that_shrinks_between_the_passes_is_noticed(tmp_path, source, monkeypatch):
    survey = sampling._survey

    def shrinking_survey(*arguments):
        found = survey(*arguments)
        source.write_bytes(b">only one\nMK\n")
        return found

    monkeypatch.setattr(sampling, "_survey", shrinking_survey)
    with pytest.raises(InputError, match="changed while it was read"):
        sample_fasta(source, tmp_path / "s.fasta", 100)
    assert not (tmp_path / "s.fasta").exists()
