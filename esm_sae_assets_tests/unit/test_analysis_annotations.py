import gzip
import re

import polars as pl
import pytest

from esm_sae.analysis.concepts.annotations import annotate_concepts
from esm_sae.analysis.concepts.motifs import find_motifs
from esm_sae.analysis.concepts.uniprot_export import ExportCounts, read_export
from esm_sae.errors import InputError

# Sperm whale myoglobin's N-terminus, which no membrane holds.
SOLUBLE = "VLSEGEWQLVLHVWAKVEADVAGHGQDILIRLFKSHPETLEKFDRFKHLKTEAEMKASEDLKKHG"


def motifs_of(*sequences):
    return {
        (row["concept"], row["number"], row["start"], row["end"])
        for row in find_motifs(sequences).iter_rows(named=True)
    }


@pytest.mark.parametrize(
    ("sequence", "stretches"),
    [
        ("AANGSA", {(3, 5)}),
        ("AANGTA", {(3, 5)}),
        ("aangta", {(3, 5)}),
        ("AANPSA", set()),
        ("AANXSA", set()),
        ("AANGCA", set()),
        ("NNSS", {(1, 3), (2, 4)}),
        ("NG", set()),
    ],
)
def test_sequons_are_exact(sequence, stretches):
    found = {m[2:] for m in motifs_of(sequence) if m[0] == "N-glycosylation sequon"}
    assert found == stretches


def test_motifs_are_where_they_are_and_do_not_run_into_the_next_sequence():
    assert motifs_of("AAC", "AAC", "MN", "GS", "", "DCDECD") == {
        ("C-X2-C", 5, 2, 5),
        ("initiator methionine", 2, 1, 1),
    }
    # Walker A of human HRAS: G10 to S17.
    ras = "MTEYKLVVVGAGGVGKSALTIQLIQ"
    assert ("P-loop", 0, 10, 17) in motifs_of(ras)


def test_a_membrane_stretch_is_every_window_above_the_bound():
    helix = "LLLLLLLLLAVVILLAVIL"
    (found,) = [m for m in motifs_of("KDE" * 9 + helix + "KDE" * 9) if m[0].startswith("trans")]
    start, end = found[2:]
    # 19 residues of the helix, and neighbours in windows that still reach the bound.
    assert start < 28 <= 46 < end
    assert end - start < 19 + 2 * 12
    assert not [m for m in motifs_of(SOLUBLE) if m[0].startswith("trans")]
    # 18 residues are no window; one unknown letter breaks each of those it is in.
    assert not [m for m in motifs_of("L" * 18, "L" * 18 + "X") if m[0].startswith("trans")]
    assert [m[2:] for m in motifs_of("L" * 19) if m[0].startswith("trans")] == [(1, 19)]
    # The mean of 8 W (-0.9) and 11 L (3.8) is 1.82, of 9 and 10 is 1.57.
    assert [m[2:] for m in motifs_of("W" * 8 + "L" * 11) if m[0].startswith("trans")] == [(1, 19)]
    assert not [m for m in motifs_of("W" * 9 + "L" * 10) if m[0].startswith("trans")]


def test_low_complexity_is_of_windows_of_little_entropy():
    varied = "ACDEFGHIKLMN"
    (found,) = [m for m in motifs_of(varied + "Q" * 12 + varied) if m[0] == "low complexity"]
    assert found[2] < 13 <= 24 < found[3]
    assert not [m for m in motifs_of(varied * 3, "Q" * 11, "X" * 30) if m[0] == "low complexity"]
    # Six letters twice each have log2(6) = 2.58 bits, none is low; five and a half do not trigger.
    assert not [m for m in motifs_of("AACCDDEEFFGG") if m[0] == "low complexity"]
    assert not [m for m in motifs_of("AAACCDDEEFFG") if m[0] == "low complexity"]
    # Four letters three times each have 2 bits.
    assert [m[2:] for m in motifs_of("AAACCCDDDEEE") if m[0] == "low complexity"] == [(1, 12)]


FASTA = """>sp|P1|A_X Serine kinase OS=X
MKNGSACDE
>tr|P2|B_X Serine kinase (Fragment) OS=X
ACDEFGHIK
>UniRef50_P3 Uncharacterized protein n=1 Tax=X TaxID=1 RepID=C_X
MCDDCFGHIK
>P4 Putative serine kinase
ACDEFGHIK
>P5 Serine protease
ACDEFGHIK
>P5 again
MMMMM
"""
COLUMNS = [
    "Entry", "Entry Name", "Keywords", "EC number", "Gene Ontology (GO)", "Gene Ontology IDs",
    "Pfam", "InterPro", "Domain [FT]", "Active site", "Disulfide bond", "Binding site",
    "Signal peptide", "Length",
]  # fmt: skip
P1 = [
    "P1", "A_X", "ATP-binding;Kinase;Reference proteome", "2.7.11.1; 3.6.-.-",
    "ATP binding [GO:0005524]; ATP hydrolysis; coupled [GO:0016887]", "GO:0005524; GO:0016887",
    "PF00069;", "IPR000719;IPR011009;",
    'DOMAIN 2..5; /note="Ig-like 2; truncated"; /evidence="ECO:1"; DOMAIN 6..8; /note="SH2; 1..3"',
    'ACT_SITE 4; /note="Proton acceptor; DOMAIN 1..2"; /evidence="ECO:0000255|PROSITE:PS00108"',
    'DISULFID 3..7; /evidence="ECO:1"',
    'BINDING 2..3; /ligand="ATP"; /ligand_id="ChEBI:CHEBI:30616"; BINDING 5; /ligand="ATP"',
    'SIGNAL <1..3; /evidence="ECO:1"', "9",
]  # fmt: skip


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "x.fasta"
    path.write_text(FASTA)
    return path


def row(**cells):
    return "\t".join(cells.get(name.replace(" ", "_"), "") for name in COLUMNS)


def write_export(path, *rows):
    path.write_bytes("\r\n".join(["\t".join(COLUMNS), *rows, ""]).encode())
    return path


def test_names_words_and_motifs_without_an_export(fasta, tmp_path):
    product = annotate_concepts(fasta, tmp_path / "out.parquet")
    table = pl.read_parquet(product.path)
    assert table.rows() == sorted(table.rows(), key=lambda r: tuple(x or "" for x in r[:3]))
    of_source = table.partition_by("source", as_dict=True)
    assert of_source["name",].drop("source").rows() == [
        ("serine kinase", "P4", None, None),
        ("serine kinase", "sp|P1|A_X", None, None),
        ("serine kinase", "tr|P2|B_X", None, None),
        ("serine protease", "P5", None, None),
    ]
    # 'kinase' is borne by three, one too few.
    assert set(of_source["word",]["concept"]) == {"serine"}
    assert ("C-X2-C", "UniRef50_P3", 2, 5) in of_source["sequence",].drop("source").rows()
    universe = pl.read_parquet(tmp_path / "out.universe.parquet")
    assert universe.group_by("source").len().sort("source").rows() == [
        ("name", 4), ("sequence", 5), ("word", 4),
    ]  # fmt: skip
    summary = product.manifest.summary
    assert (summary["proteins"], summary["proteins_with_repeated_id"]) == (5, 1)
    assert summary["proteins_without_family"] == 1
    before = product.path.read_bytes()
    assert annotate_concepts(fasta, tmp_path / "out.parquet").unchanged
    assert annotate_concepts(fasta, tmp_path / "b.parquet").path.read_bytes() == before


@pytest.mark.parametrize("compress", [False, True])
def test_an_export_in_uniprots_own_form(fasta, tmp_path, compress):
    path = write_export(
        tmp_path / "export.tsv",
        "\t".join(P1),
        row(Entry="P1", Keywords="Late"),
        row(Entry="P3", Keywords="Membrane", Signal_peptide="SIGNAL ?..2; SIGNAL P3-2:1..2"),
        row(Entry="P4", **{"Active_site": "ACT_SITE 10"}),
        row(Entry="Q9", Keywords="Unwanted"),
    )
    if compress:
        path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_suffix(".gz")
    product = annotate_concepts(fasta, tmp_path / "out.parquet", annotations=path)
    table = pl.read_parquet(product.path).filter(pl.col("source") == "uniprot")
    whole = table.filter(pl.col("start").is_null())
    assert set(whole.select("concept", "sequence_id").rows()) == {
        *(
            (concept, "sp|P1|A_X")
            for concept in (
                "keyword: ATP-binding", "keyword: Kinase", "EC 2.-.-.-", "EC 2.7.-.-",
                "EC 2.7.11.-", "EC 2.7.11.1", "EC 3.-.-.-", "EC 3.6.-.-",
                "GO:0005524 ATP binding", "GO:0016887 ATP hydrolysis; coupled",
                "Pfam PF00069", "InterPro IPR000719", "InterPro IPR011009",
            )
        ),
        ("keyword: Membrane", "UniRef50_P3"),
    }  # fmt: skip
    placed = table.filter(pl.col("start").is_not_null())
    assert placed.select("concept", "start", "end").rows() == [
        ("active site", 4, 4),
        ("binding site: ATP", 2, 3),
        ("binding site: ATP", 5, 5),
        ("disulfide bond", 3, 3),
        ("disulfide bond", 7, 7),
        ("domain: Ig-like", 2, 5),
        ("domain: SH2", 6, 8),
    ]
    universe = pl.read_parquet(tmp_path / "out.universe.parquet")
    known = universe.filter(pl.col("source") == "uniprot")["sequence_id"].to_list()
    assert known == ["P4", "UniRef50_P3", "sp|P1|A_X"]
    summary = product.manifest.summary
    assert summary["entries"] == 5
    assert summary["entries_used"] == 3
    assert summary["entries_repeated"] == 1
    assert summary["features_unplaced"] == 3
    assert summary["features_beyond_the_sequence"] == 1
    assert summary["proteins_without_entry"] == 2
    assert summary["columns_unused"] == ["Entry Name", "Gene Ontology IDs", "Length"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no column 'Entry'"),
        ("<html></html>\n", "no column 'Entry'"),
        ("Entry\tLength\nP1\t9\n", "no column holds annotations"),
        ("Entry\tKeywords\nP1\tKinase\nP2\n", "line 3 has 1 columns, not 2"),
        ("Entry\tKeywords\nQ1\tKinase\n", "none of its 1 entries is a protein of"),
        (b"Entry\tKeywords\nP1\t\xff\n", "line 2 is not text"),
        (gzip.compress(b"Entry\tKeywords\nP1\tKinase\n")[:-6], "truncated"),
    ],
)
def test_an_export_that_cannot_be_used_is_told(fasta, tmp_path, content, told):
    path = tmp_path / "export.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=re.escape(told)) as error:
        annotate_concepts(fasta, tmp_path / "out.parquet", annotations=path)
    assert str(path) in str(error.value)
    assert not (tmp_path / "out.parquet").exists()


def test_bare_numbers_of_go_count_where_no_column_has_names(tmp_path):
    path = tmp_path / "export.tsv"
    path.write_text("\ufeffEntry\tGene Ontology IDs\nP1\tGO:1; GO:2\n")
    counts = ExportCounts()
    assert list(read_export(path, ["P1"], counts)) == [
        ("P1", [("GO:1", None, None), ("GO:2", None, None)])
    ]
    assert counts.columns_used == ["Gene Ontology IDs"]
