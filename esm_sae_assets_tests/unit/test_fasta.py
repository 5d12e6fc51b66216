import gzip
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats import fasta
from esm_sae.formats.fasta import parse_header, read_at, read_fasta, read_raw

HEADERS = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\x00", exclude_categories=["Cs"]),
    min_size=1,
    max_size=30,
).filter(lambda text: text.strip())
SEQUENCES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", min_size=1, max_size=40)
RECORDS = st.lists(st.tuples(HEADERS, SEQUENCES), min_size=1, max_size=8)


@st.composite
def layouts(draw):
    """A FASTA file in some layout, with the records it holds."""
    records = draw(RECORDS)
    newline = draw(st.sampled_from([b"\n", b"\r\n"]))
    blank = st.sampled_from([b"", newline, b"  " + newline])
    parts = [draw(blank)]
    for header, sequence in records:
        star = draw(st.sampled_from(["", "*"]))
        width = draw(st.integers(1, 50))
        residues = sequence + star
        parts.append(b">" + header.encode() + newline)
        for at in range(0, len(residues), width):
            parts += [residues[at : at + width].encode() + newline, draw(blank)]
    content = b"".join(parts)
    if draw(st.booleans()):
        content = content.rstrip()
    return records, content


def compressed(content: bytes, members: int) -> bytes:
    size = len(content) // members + 1
    return b"".join(gzip.compress(content[at : at + size]) for at in range(0, len(content), size))


@given(layouts(), st.integers(0, 3))
def test_records_of_any_layout_are_read(tmp_path_factory, layout, members):
    records, content = layout
    path = tmp_path_factory.mktemp("fasta") / "x.fasta"
    path.write_bytes(compressed(content, members) if members else content)
    found = list(read_fasta(path))
    assert [(record.header, record.sequence) for record in found] == [
        (header, sequence.upper()) for header, sequence in records
    ]
    raws = list(read_raw(path))
    assert b"".join(raw.raw for raw in raws) == content[raws[0].offset :]
    assert all(content[raw.offset : raw.offset + len(raw.raw)] == raw.raw for raw in raws)


@given(layouts(), st.booleans(), st.data())
def test_reading_at_offsets_equals_scanning(tmp_path_factory, layout, compress, data):
    _, content = layout
    path = tmp_path_factory.mktemp("fasta") / "x.fasta"
    path.write_bytes(gzip.compress(content) if compress else content)
    records = list(read_fasta(path))
    chosen = data.draw(st.sets(st.integers(0, len(records) - 1)))
    wanted = [records[number] for number in sorted(chosen)]
    assert list(read_at(path, [record.offset for record in wanted])) == wanted


def test_a_thousand_records_in_a_thousand_out(write_fasta, random_proteins, monkeypatch):
    records = random_proteins(1000)
    path = write_fasta(records, "x.fasta.gz", width=7)
    assert [(record.header, record.sequence) for record in read_fasta(path)] == records


def test_a_record_larger_than_every_buffer(write_fasta):
    titin = "M" + "ACDEFGHIKL" * 300_000
    path = write_fasta([("small", "MK"), ("titin", titin), ("last", "MW")], width=80)
    assert [len(record.sequence) for record in read_fasta(path)] == [2, len(titin), 2]


def test_a_remote_file_is_read():
    import fsspec

    content = b">a x\nMK\n>b y\nMW\n"
    for name, stored in {"x.fasta": content, "x.fasta.gz": gzip.compress(content)}.items():
        with fsspec.open(f"memory://fasta/{name}", "wb") as file:
            file.write(stored)
        records = list(read_fasta(f"memory://fasta/{name}"))
        assert [record.sequence for record in records] == ["MK", "MW"]
        assert list(read_at(f"memory://fasta/{name}", [records[1].offset])) == records[1:]


BAD = {
    "empty": (b"", "empty, it holds no FASTA record"),
    "blank lines only": (b"\n\n", "empty, it holds no FASTA record"),
    "empty gzip": (gzip.compress(b""), "empty, it holds no FASTA record"),
    "no '>' first": (b"MKV\n>a\nMK\n", "does not start with '>'"),
    "no sequence": (b">a\nMK\n>b\n\n>c\nMK\n", "record 'b' at byte 6 has no sequence"),
    "no sequence at the end": (b">a\nMK\n>b", "record 'b' at byte 6 has no sequence"),
    "only a star": (b">a\n*\n", "record 'a' at byte 0 has no sequence"),
    "no id": (b">\nMK\n", "has no id"),
    "a digit": (b">a x y\nMK\nV1W\n", "record 'a x y' at byte 0 has '1' at residue 4"),
    "a gap": (b">a\nMK-V\n", "has '-' at residue 3"),
    "a star inside": (b">a\nMK*V\n", "has '*' at residue 3"),
    "not ASCII": (">a\nMÄ\n".encode(), "at residue 2"),
    "binary": (bytes(range(256)), "does not start with '>'"),
    "truncated gzip": (
        gzip.compress(b">a\n" + b"ACDEFGHIKLMNPQRSTVWY" * 99 + b"\n")[:-9],
        "the gzip stream is truncated or damaged",
    ),
    "gzip header only": (b"\x1f\x8b\x08", "the gzip stream is truncated or damaged"),
    "garbage behind gzip": (
        gzip.compress(b">a\nMK\n") + b"garbage",
        "the gzip stream is truncated or damaged",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line_that_names_file_and_record(tmp_path, case):
    content, message = BAD[case]
    path = tmp_path / "bad.fasta"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_fasta(path))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_gzip_is_found(tmp_path):
    content = bytearray(gzip.compress(b">a\n" + b"ACDEFGHIKLMNPQRSTVWY" * 99 + b"\n"))
    content[-8] ^= 1
    path = tmp_path / "bad.fasta.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="truncated or damaged"):
        list(read_fasta(path))


@given(st.binary(max_size=200))
@example(b">\xff\nMK")
@example(b"\x1f\x8b")
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fasta") / "x"
    path.write_bytes(content)
    try:
        records = list(read_fasta(path))
    except InputError:
        return
    assert all(re.fullmatch("[A-Z]+", record.sequence) for record in records)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_fasta(tmp_path / "missing.fasta"))
    with pytest.raises(InputError, match="is a directory"):
        list(read_fasta(tmp_path))


@pytest.mark.parametrize("name", ["x.fasta", "x.fasta.gz"])
@pytest.mark.parametrize("offset", [1, 3, 10_000])
def test_an_offset_at_no_record_is_refused(write_fasta, name, offset):
    path = write_fasta([("a>b", "MK"), ("c", "MK")], name)
    with pytest.raises(InputError, match=f"no record starts at byte {offset}"):
        list(read_at(path, [offset]))


def test_a_greater_sign_inside_a_header_starts_no_record(write_fasta):
    path = write_fasta([("a >b", "MK")])
    with pytest.raises(InputError, match="no record starts at byte 3"):
        list(read_at(path, [3]))


UNIREF = "UniRef50_A0A5A9P0L4 peptidylprolyl isomerase n=1 Tax=Triplophysa tibetana TaxID=1572043"
UNIPROT = (
    "tr|W0FSK4|W0FSK4_9FLAV Genome polyprotein (Fragment) OS=Dengue virus 3 PE=4 SV=1 Split=0 "
)


def test_uniref_header():
    header = parse_header(UNIREF + " RepID=A0A5A9P0L4_9TELE")
    assert header == (
        "UniRef50_A0A5A9P0L4",
        "peptidylprolyl isomerase",
        "Triplophysa tibetana",
        1572043,
        1,
        "A0A5A9P0L4_9TELE",
    )


def test_uniprot_headers_with_and_without_ox():
    assert parse_header(UNIPROT) == (
        "tr|W0FSK4|W0FSK4_9FLAV",
        "Genome polyprotein (Fragment)",
        "Dengue virus 3",
        None,
        None,
        None,
    )
    header = parse_header("sp|P1|A_HUMAN Kinase A OS=Homo sapiens OX=9606 GN=KA PE=1 SV=2")
    assert (header.name, header.taxon, header.taxid) == ("Kinase A", "Homo sapiens", 9606)


@pytest.mark.parametrize(
    ("header", "taxon", "taxid"),
    [
        ("UniRef50_X Name n=2", None, None),
        ("UniRef50_X Name n=2 Tax= TaxID=5 RepID=R", None, 5),
        (
            "UniRef50_X Name n=2 Tax=Some virus (strain n=3) TaxID=5 RepID=R",
            "Some virus (strain n=3)",
            5,
        ),
        ("UniRef50_X n=2 Tax=Bacteria TaxID=2 RepID=R", "Bacteria", 2),
        ("UniRef50_X Protein n=4 like n=2 Tax=Bacteria TaxID=2 RepID=R", "Bacteria", 2),
        (
            "sp|P1|X Name OS=Escherichia coli (strain K12) OX=83333 PE=1",
            "Escherichia coli (strain K12)",
            83333,
        ),
        ("sp|P1|X Name OS= OX=abc PE=1", None, None),
        (f"sp|P1|X Name OS=A OX={'9' * 5000} PE=1", "A", None),
        ("sp|P1|X OS=Only organism", "Only organism", None),
        ("\tindented\tby tabs OS=Tab", "Tab", None),
        ("plain", None, None),
        ("plain with a description", None, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_odd_headers(header, taxon, taxid):
    parsed = parse_header(header)
    assert (parsed.taxon, parsed.taxid) == (taxon, taxid)
    assert parsed.sequence_id == header.split()[0]


WORDS = st.sampled_from(
    ["n=1", "n=", "Tax=", "Tax=Homo", "TaxID=9606", "TaxID=x", "RepID=R", "RepID=", "OS=", "OX=1",
     "OX=", "PE=1", "Split=0", "word", "=", ""]
)  # fmt: skip


@given(st.text(max_size=60) | st.lists(WORDS, max_size=9).map(" ".join))
@example("x n=" + "9" * 5000)
@example("x n=1 TaxID=" + "9" * 5000)
@example("x OX=٣")
def test_no_header_is_an_error(header):
    parsed = parse_header(header)
    assert parsed.sequence_id == (header.split() or [""])[0]
    for number in (parsed.taxid, parsed.size):
        assert number is None or 0 <= number < 2**63
    assert parsed.taxon is None or parsed.taxon


@given(
    name=st.from_regex(r"[A-Za-z][A-Za-z ]{0,20}[a-z]", fullmatch=True),
    taxon=st.from_regex(r"[A-Z][a-z]{1,9}( [a-z]{2,9}){0,2}", fullmatch=True),
    taxid=st.integers(1, 10**7),
    size=st.integers(1, 10**6),
)
def test_both_styles_give_back_what_was_written(name, taxon, taxid, size):
    uniref = parse_header(f"UniRef50_A {name} n={size} Tax={taxon} TaxID={taxid} RepID=A_B")
    assert uniref == ("UniRef50_A", name, taxon, taxid, size, "A_B")
    uniprot = parse_header(f"tr|A|A_B {name} OS={taxon} OX={taxid} GN=g PE=1 SV=1")
    assert uniprot == ("tr|A|A_B", name, taxon, taxid, None, None)


def test_seekable_is_what_is_local_and_plain(write_fasta):
    records = [("a", "MK")]
    assert fasta.is_seekable(write_fasta(records))
    assert not fasta.is_seekable(write_fasta(records, "x.fasta.gz"))
    assert storage.is_url("memory://x")
    assert not fasta.is_seekable("memory://x")
