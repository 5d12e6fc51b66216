import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esm_sae.clusters.organisms import member_count, read_species_list, representative_code
from esm_sae.clusters.taxa import cluster_taxa
from esm_sae.errors import InputError
from esm_sae.formats.headers import parse_header

SPECIES_LIST = """\
----------------------------------------------------------------------------
        UniProt - Swiss-Prot Protein Knowledgebase
----------------------------------------------------------------------------
Description: Controlled vocabulary of species
Name:        speclist.txt

=======================
(1) Real organism codes
=======================

Code    Taxon    N=Official (scientific) name
        Node     C=Common name
                 S=Synonym
_____ _ _______  ____________________________________________________________
ECOLI B   83333: N=Escherichia coli (strain K12)
HUMAN E    9606: N=Homo sapiens
                 C=Human
PIG   E    9823: N=Sus scrofa

=======================================================================
(2) "Virtual" codes that regroup organisms at a certain taxonomic level
=======================================================================

9TELE E   32443: N=Teleostei
9ZZZZ X       1: N=root

-----------------------------------------------------------------------
Copyrighted by the UniProt Consortium, see https://www.uniprot.org/terms
"""


def uniref(number, taxon, taxid, n=1, rep_id="UPI0001"):
    return f"UniRef50_A{number} Some protein n={n} Tax={taxon} TaxID={taxid} RepID={rep_id}"


HEADERS = [
    uniref(0, "Bacteria", 2, n=30, rep_id="A0_ECOLI"),
    uniref(1, "Homo sapiens", 9606, rep_id="A1_HUMAN"),
    uniref(2, "Danio", 7954, n=3, rep_id="A2_9TELE"),
    uniref(3, "Escherichia coli K-12", 83333),
    uniref(4, "Felis catus", 9685, rep_id="A4_FELCA"),
    "tr|B5|B5_PIG Some protein OS=Sus scrofa OX=9823 PE=4 SV=1",
    "Z6 Some protein",
]
NODES = [
    (1, 1, "no rank", "root"),
    (2, 1, "domain", "Bacteria"),
    (561, 2, "genus", "Escherichia"),
    (562, 561, "species", "Escherichia coli"),
    (83333, 562, "strain", "Escherichia coli K-12"),
    (32443, 1, "clade", "Teleostei"),
    (7954, 32443, "genus", "Danio"),
    (9605, 1, "genus", "Homo"),
    (9606, 9605, "species", "Homo sapiens"),
    (9822, 1, "genus", "Sus"),
    (9823, 9822, "species", "Sus scrofa"),
]


@pytest.fixture
def species_list(tmp_path):
    path = tmp_path / "speclist.txt"
    path.write_text(SPECIES_LIST)
    return path


@pytest.fixture
def taxonomy(tmp_path):
    folder = tmp_path / "taxdump"
    folder.mkdir()
    nodes = [f"{taxid}\t|\t{parent}\t|\t{rank}\t|\n" for taxid, parent, rank, _ in NODES]
    names = [f"{node[0]}\t|\t{node[3]}\t|\t\t|\tscientific name\t|\n" for node in NODES]
    (folder / "nodes.dmp").write_text("".join(nodes))
    (folder / "names.dmp").write_text("".join(names))
    return folder


def run(folder, headers, **options):
    fasta = folder / "in.fasta"
    fasta.write_text("".join(f">{header}\nMKV\n" for header in headers))
    product = cluster_taxa(fasta, folder / "taxa.parquet", organism="representative", **options)
    table = pl.read_parquet(product.path).select("sequence_id", "cluster", "taxid")
    found = {row[0]: row[1:] for row in table.iter_rows()}
    return [found.get(header.split()[0]) for header in headers], product.manifest.summary


def test_without_a_species_list_the_codes_are_the_names(tmp_path):
    clusters, summary = run(tmp_path, HEADERS)
    assert clusters == [
        ("ECOLI", None),
        ("HUMAN", None),
        ("9TELE", None),
        None,
        ("FELCA", None),
        ("Sus scrofa", 9823),
        None,
    ]
    assert summary["code_state"] == {"group": 1, "none": 1, "species": 3}
    assert (summary["without_code"], summary["without_taxon"], summary["clustered"]) == (1, 1, 5)


def test_a_species_list_gives_the_codes_taxids_and_names(tmp_path, species_list):
    clusters, summary = run(tmp_path, HEADERS, species_list=species_list)
    assert clusters == [
        ("Escherichia coli (strain K12)", 83333),
        ("Homo sapiens", 9606),
        ("Teleostei", 32443),
        None,
        ("FELCA", None),
        ("Sus scrofa", 9823),
        None,
    ]
    assert summary["code_state"] == {"group": 1, "none": 1, "not_listed": 1, "species": 2}


def test_with_a_rank_the_common_ancestor_helps_where_the_code_does_not(
    tmp_path, species_list, taxonomy
):
    options = {"species_list": species_list, "taxonomy": taxonomy, "rank": "genus"}
    clusters, summary = run(tmp_path, HEADERS, **options)
    assert clusters == [
        # By its code; the common ancestor is Bacteria.
        ("Escherichia", 561),
        ("Homo", 9605),
        # By the common ancestor; the code is that of a group.
        ("Danio", 7954),
        ("Escherichia", 561),
        None,
        ("Sus", 9822),
        None,
    ]
    assert summary["clustered"] == 5
    assert (summary["unknown_taxon"], summary["without_taxon"]) == (1, 1)
    assert [row["members"] for row in summary["left_out"]] == [
        "1",
        "2-4",
        "10-99",
        "no UniRef header",
    ]


def test_the_representative_keeps_what_the_common_ancestor_loses(tmp_path, species_list, taxonomy):
    fasta = tmp_path / "in.fasta"
    fasta.write_text("".join(f">{header}\nMKV\n" for header in HEADERS))
    by_ancestor = cluster_taxa(
        fasta, tmp_path / "ancestor" / "t.parquet", taxonomy=taxonomy, rank="species"
    )
    options = {"species_list": species_list, "taxonomy": taxonomy, "rank": "species"}
    _, summary = run(tmp_path, HEADERS, **options)
    kept = set(pl.read_parquet(by_ancestor.path)["sequence_id"])
    assert kept < set(pl.read_parquet(tmp_path / "taxa.parquet")["sequence_id"])
    assert summary["clustered"] == by_ancestor.manifest.summary["clustered"] + 1


# Parts of headers, in the usual form and in none.
WORDS = st.sampled_from(
    [
        *("", "  ", "\t", "n=4", "n=", "n=x", "n=9999999999999999999", "n=4Tax=A"),
        *("Tax=", "Tax=A b", "TaxID=5", "RepID=", "RepID=X_HUMAN", "RepID=UPI01"),
        *("RepID=A_B_9TELE", "RepID=X_", "RepID=X_human", "a=b", "name", "UniRef50_A"),
        *("OS=A b", "OX=5", "x_HUMAN", "é", "\u2028"),
    ]
)


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.tuples(WORDS, st.sampled_from([" ", "", "\t", "  "])), max_size=9))
@example(parts=[("UniRef50_A b n=4 Tax=A b TaxID=5 RepID=A0_9TELE", "")])
@example(parts=[("UniRef50_A n=4 n=5 Tax=A TaxID=5 RepID=A0_9TELE", "")])
@example(parts=[("a n=1 RepID=A_B RepID=C_D", "")])
@example(parts=[(" a n=1 b n=2 Tax=n=3 RepID=A_B ", "")])
def test_the_columns_say_what_parse_header_says(parts):
    header = "".join(word + gap for word, gap in parts)
    parsed = parse_header(header)
    found = pl.DataFrame({"header": [header]}).select(
        size=member_count(pl.col("header")), code=representative_code(pl.col("header"))
    )
    rep_id = parsed.rep_id or ""
    code = rep_id.rpartition("_")[2] if "_" in rep_id else ""
    is_code = code.isascii() and code.isalnum() and code == code.upper()
    assert found.row(0) == (parsed.size, code if is_code else None)


def test_the_columns_of_no_row_are_empty():
    empty = pl.DataFrame({"header": []}, schema={"header": pl.String})
    found = empty.select(
        size=member_count(pl.col("header")), code=representative_code(pl.col("header"))
    )
    assert found.schema == {"size": pl.Int64, "code": pl.String}


def test_the_species_list_is_read(species_list):
    assert read_species_list(species_list).rows() == [
        ("ECOLI", 83333, "Escherichia coli (strain K12)"),
        ("HUMAN", 9606, "Homo sapiens"),
        ("PIG", 9823, "Sus scrofa"),
        ("9TELE", 32443, "Teleostei"),
        ("9ZZZZ", 1, "root"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no organism code"),
        ("MKV\n>x\n", "holds no organism code"),
        ("<html>404</html>", "holds no organism code"),
        (SPECIES_LIST.replace("   9606:", "   96O6:"), "line 16 is not of the list's form .*HUMAN"),
        (SPECIES_LIST.replace("HUMAN E ", "HUMAN "), "line 16 is not of the list's form"),
        (SPECIES_LIST.replace("PIG  ", "HUMAN"), "line 18 has the code HUMAN a second time"),
    ],
)
def test_another_file_is_no_species_list(tmp_path, content, message):
    path = tmp_path / "speclist.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"speclist\.txt: {message}"):
        read_species_list(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"speclist\.txt: is not UTF-8"):
        read_species_list(path)
