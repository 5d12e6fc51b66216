import re

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esm_sae.formats.headers import HEADER_SCHEMA, parse_header, parse_headers

UNIREF = "UniRef50_A0A5A9P0L4 peptidylprolyl isomerase n=1 Tax=Triplophysa tibetana TaxID=1572043"
UNIPROT = (
    "tr|W0FSK4|W0FSK4_9FLAV Genome polyprotein (Fragment) OS=Dengue virus 3 PE=4 SV=1 Split=0 "
)


def test_uniref_header():
    header = parse_header(UNIREF + " RepID=A0A5A9P0L4_9TELE")
    assert header == (
        "UniRef50_A0A5A9P0L4",
        "A0A5A9P0L4",
        "peptidylprolyl isomerase",
        "Triplophysa tibetana",
        1572043,
        1,
        "A0A5A9P0L4_9TELE",
        "UniRef",
    )


def test_uniprot_headers_with_and_without_ox():
    assert parse_header(UNIPROT) == (
        "tr|W0FSK4|W0FSK4_9FLAV",
        "W0FSK4",
        "Genome polyprotein (Fragment)",
        "Dengue virus 3",
        None,
        None,
        None,
        "UniProtKB",
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
    assert parsed.sequence_id == (re.split("[ \t]+", header.strip(" \t")) or [""])[0]
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
    assert uniref == ("UniRef50_A", "A", name, taxon, taxid, size, "A_B", "UniRef")
    uniprot = parse_header(f"tr|A|A_B {name} OS={taxon} OX={taxid} GN=g PE=1 SV=1")
    assert uniprot == ("tr|A|A_B", "A", name, taxon, taxid, None, None, "UniProtKB")


@given(
    st.lists(
        st.text(max_size=60)
        | st.lists(WORDS, max_size=9).map(" ".join)
        | st.tuples(st.sampled_from(["UniRef50_A ", "sp|A|B "]), st.lists(WORDS, max_size=9)).map(
            lambda parts: parts[0] + " ".join(parts[1])
        ),
        max_size=5,
    )
)
@example([UNIREF + " RepID=A", UNIPROT, "", "x n=1 Tax=a TaxID=5 RepID=b", UNIREF + " RepID=a b"])
@example(["UniRef100_A  n=1 Tax=  TaxID=5 RepID=b", "UniRef90_ b  n=1 Tax=\tx TaxID=5 RepID=b"])
def test_many_headers_are_parsed_as_one_by_one(headers):
    parsed = parse_headers(pl.Series(headers, dtype=pl.String)).collect()
    assert parsed.rows() == [tuple(parse_header(header)) for header in headers]
    assert dict(parsed.schema) == HEADER_SCHEMA


@pytest.mark.parametrize(
    ("sequence_id", "accession"),
    [
        ("UniRef90_P12345", "P12345"),
        ("UniRef100_UPI000000001A", "UPI000000001A"),
        ("UniRef50_", None),
        ("UniRef51_P12345", None),
        ("sp|P12345|X_HUMAN", "P12345"),
        ("tr|P12345-2|", "P12345-2"),
        ("tr||X", None),
        ("pdb|1ABC|A", None),
    ],
)
def test_accessions_of_uniref_and_uniprot_ids(sequence_id, accession):
    assert parse_header(f"{sequence_id} name").accession == accession


@pytest.mark.parametrize(
    "piece", [" n=1", " n=1 Tax=a", " TaxID=1", " OS=", "\t", "n=", " RepID=a b"]
)
def test_absurdly_long_headers_take_linear_time(piece):
    # Quadratic time would be hours.
    header = "UniRef50_A" + piece * (1 << 20)
    parsed = parse_header(header)
    assert parsed.sequence_id.startswith("UniRef50_A")
    assert parse_headers(pl.Series([header])).collect().rows() == [tuple(parsed)]
