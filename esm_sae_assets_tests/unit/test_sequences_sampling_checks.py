import gzip
import os

import pytest

from esm_sae.errors import InputError
from esm_sae.formats.sequence_index import index_of
from esm_sae.sequences import drawn_records, sampling
from esm_sae.sequences.sampling import sample_fasta
from file_limits import largest_file


def test_nothing_that_passes_is_an_error_that_says_why(tmp_path, source):
    with pytest.raises(InputError, match=r"none of its 300 records passes") as caught:
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
        ({"target": "s.fasta.zst"}, "give a name without .zst"),
        ({"target": "source.fasta"}, "is the source itself"),
        ({"letters": ""}, "letters '': expected residue letters"),
        ({"letters": "AC-"}, "letters 'AC-': expected residue letters"),
        ({"taxa": ["9606", " "]}, "taxa: expected names or TaxIDs, one is empty"),
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


@pytest.mark.parametrize("content", [b">only one\nMK\n", b"", b"M" * 100_000, b">a\n" * 9000])
def test_a_source_that_changes_before_it_is_copied_is_noticed(
    tmp_path, source, monkeypatch, content
):
    copy = sampling._copy

    def changing(*arguments):
        source.write_bytes(content)
        return copy(*arguments)

    monkeypatch.setattr(sampling, "_copy", changing)
    with pytest.raises(InputError, match="changed while it was read"):
        sample_fasta(source, tmp_path / "s.fasta", 100)
    assert [path.name for path in tmp_path.iterdir()] == ["source.fasta"]


@pytest.mark.parametrize("change", ["cut", "replaced"])
def test_a_source_that_changes_while_it_is_copied(tmp_path, source, monkeypatch, change):
    monkeypatch.setattr(drawn_records, "_BATCH_BYTES", 500)
    locate, calls = drawn_records._locate, []

    def changing(*arguments):
        calls.append(arguments)
        if len(calls) == 2 and change == "cut":
            os.truncate(source, 1000)
        elif len(calls) == 2:
            (tmp_path / "other").write_bytes(b">other\nMK\n" * 999)
            os.replace(tmp_path / "other", source)
        return locate(*arguments)

    monkeypatch.setattr(drawn_records, "_locate", changing)
    with pytest.raises(InputError, match="changed while it was read"):
        sample_fasta(source, tmp_path / "s.fasta", 300)
    assert [path.name for path in tmp_path.iterdir()] == ["source.fasta"]


def test_a_source_that_changes_before_it_is_read_is_noticed(tmp_path, source, monkeypatch):
    draw = sampling._drawn

    def changing(*arguments):
        source.write_bytes(source.read_bytes().replace(b"Protein", b"protein"))
        return draw(*arguments)

    monkeypatch.setattr(sampling, "_drawn", changing)
    with pytest.raises(InputError, match="changed while it was read"):
        sample_fasta(source, tmp_path / "s.fasta", 10)
    assert [path.name for path in tmp_path.iterdir()] == ["source.fasta"]


def test_an_edited_sample_of_the_same_size_is_no_source(tmp_path, source):
    first = tmp_path / "first.fasta"
    sample_fasta(source, first, 100)
    first.write_bytes(first.read_bytes().replace(b"Protein", b"protein"))
    with pytest.raises(InputError, match=r"first\.fasta: incomplete or changed"):
        sample_fasta(first, tmp_path / "second.fasta", 10)
    (tmp_path / "first.fasta.manifest.json").unlink()
    assert sample_fasta(first, tmp_path / "second.fasta", 10).sampled == 10


def test_half_a_sample_is_no_source(tmp_path, source):
    first = tmp_path / "first.fasta"
    sample_fasta(source, first, 100)
    os.truncate(first, 2000)
    with pytest.raises(InputError, match=r"first\.fasta: incomplete or changed"):
        sample_fasta(first, tmp_path / "second.fasta", 10)


@pytest.mark.parametrize("name", ["s.fasta", "s.index.parquet", "s.fasta.manifest.json"])
def test_nothing_of_a_sample_takes_the_place_of_its_source(tmp_path, source, name):
    source = source.rename(tmp_path / name)
    content = source.read_bytes()
    for location in (source, f"file://{source}"):
        with pytest.raises(InputError, match="is the source itself"):
            sample_fasta(location, tmp_path / "s.fasta", 10)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert source.read_bytes() == content


def test_the_index_of_another_sample_is_not_replaced(tmp_path, source):
    sample_fasta(source, tmp_path / "x.fasta", 10)
    with pytest.raises(InputError, match=r"would replace x\.index\.parquet"):
        sample_fasta(source, tmp_path / "x.fa", 20)
    assert len(index_of(tmp_path / "x.fasta")) == 10


def test_a_manifest_that_is_not_of_a_sample_is_named(tmp_path, source):
    target = tmp_path / "s.fasta"
    manifest = tmp_path / "s.fasta.manifest.json"
    sample_fasta(source, target, 10)
    for old, new in ((b'"passing"', b'"pasing"'), (b'"kind"', b'"kin"'), (b"{", b"")):
        good = manifest.read_bytes()
        manifest.write_bytes(good.replace(old, new, 1))
        with pytest.raises(InputError, match=r"s\.fasta\.manifest\.json: .*remove it"):
            sample_fasta(source, target, 10)
        manifest.write_bytes(good)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_disk_that_fills_up_is_named(tmp_path, source, compressed):
    if compressed:
        source.write_bytes(gzip.compress(source.read_bytes()))
    sample_fasta(source, tmp_path / "expected.fasta", 300)
    total = (tmp_path / "expected.fasta").stat().st_size
    target = tmp_path / "new" / "s.fasta"
    for limit in (total // 2, total - 1):
        with (
            largest_file(limit),
            pytest.raises(InputError, match=r"s\.fasta: cannot be written .* make room"),
        ):
            sample_fasta(source, target, 300)
        assert list((tmp_path / "new").iterdir()) == []
    with largest_file(total):
        sample_fasta(source, target, 300)
