import gzip
import json

import polars as pl
import pytest

from esm_sae.clusters import cluster_taxa, clusters_to_json
from esm_sae.clusters import export as export_module
from esm_sae.errors import InputError

RECORDS = [
    ("P1 One OS=Alpha OX=1", "MKV"),
    ("P2 Two OS=Beta OX=2", "MKL"),
    ("P3 Three OS=Alpha OX=1", "MKI"),
    ("P4 Four OS=Gamma OX=3", "MKF"),
]


def write_fasta(path, records=RECORDS):
    path.write_text("".join(f">{header}\n{sequence}\n" for header, sequence in records))
    return path


def write_table(path, rows):
    pl.DataFrame(
        rows,
        schema={"sequence_id": pl.String, "header": pl.String, "cluster": pl.Int32},
        orient="row",
    ).write_parquet(path)
    return path


def export(table, output, fasta=None):
    return json.loads(clusters_to_json(table, output, fasta=fasta).path.read_text())


@pytest.mark.parametrize("packed", [False, True])
def test_a_taxon_table_finds_its_own_fasta(tmp_path, packed):
    fasta = write_fasta(tmp_path / "in.fasta")
    if packed:
        data = gzip.compress(fasta.read_bytes())
        fasta = tmp_path / "in2.fasta.gz"
        fasta.write_bytes(data)
    table = cluster_taxa(fasta, tmp_path / "out" / "taxa.parquet").path
    content = export(table, tmp_path / "out" / "taxa.json")
    assert content == {
        "Alpha": [["MKV", "P1 One OS=Alpha OX=1"], ["MKI", "P3 Three OS=Alpha OX=1"]],
        "Beta": [["MKL", "P2 Two OS=Beta OX=2"]],
        "Gamma": [["MKF", "P4 Four OS=Gamma OX=3"]],
    }
    assert list(content) == ["Alpha", "Beta", "Gamma"]


def test_table_and_json_of_one_stem_keep_their_own_manifests(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    table = cluster_taxa(fasta, tmp_path / "x.parquet")
    product = clusters_to_json(table.path, tmp_path / "x.json")
    assert product.manifest_path != table.manifest_path
    assert cluster_taxa(fasta, tmp_path / "x.parquet").unchanged
    assert clusters_to_json(table.path, tmp_path / "x.json").unchanged


def test_an_embedding_table_is_matched_by_id_with_noise_last(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    headers = [header for header, _ in RECORDS]
    rows = list(zip(["P1", "P2", "P3", "P4"], headers, [-1, 0, -1, -1], strict=True))
    product = clusters_to_json(
        write_table(tmp_path / "t.parquet", rows), tmp_path / "o.json", fasta=fasta
    )
    content = json.loads(product.path.read_text())
    assert list(content) == ["0", "-1"]
    assert content["0"] == [["MKL", headers[1]]]
    assert [sequence for sequence, _ in content["-1"]] == ["MKV", "MKI", "MKF"]
    assert product.manifest.summary["clusters"] == 1
    assert product.manifest.summary["noise"] == 3


def test_ids_without_headers_are_matched_too(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    table = write_table(tmp_path / "t.parquet", [("P4", None, 0), ("P1", None, 0)])
    assert export(table, tmp_path / "o.json", fasta)["0"] == [
        ["MKF", RECORDS[3][0]],
        ["MKV", RECORDS[0][0]],
    ]


def test_missing_ids_are_counted_and_the_first_is_named(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    rows = [("P1", None, 0), ("Q7", "x", 0), ("Q8", "x", 1)]
    with pytest.raises(InputError, match=r"in\.fasta: lacks 2 of 3 sequences.*first 'Q7'"):
        export(write_table(tmp_path / "t.parquet", rows), tmp_path / "o.json", fasta)
    assert not (tmp_path / "o.json").exists()


def test_records_of_one_id_are_told_apart_by_header_and_then_by_order(tmp_path):
    records = [("P1 a", "MA"), ("P1 b", "MC"), ("P1 a", "MD"), ("P2 c", "ME")]
    fasta = write_fasta(tmp_path / "in.fasta", records)
    rows = [("P1", "P1 a", 0), ("P1", "P1 b", 1), ("P1", "P1 a", 2), ("P2", "P2 c", 3)]
    content = export(write_table(tmp_path / "t.parquet", rows), tmp_path / "o.json", fasta)
    assert [content[str(n)][0][0] for n in range(4)] == ["MA", "MC", "MD", "ME"]


def test_records_that_cannot_be_told_apart_are_refused(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta", [("P1 a", "MA"), ("P1 a", "MD"), ("P2 c", "ME")])
    with pytest.raises(InputError, match=r"2 records have the id 'P1' and one header.*holds 1"):
        export(write_table(tmp_path / "t.parquet", [("P1", "P1 a", 0)]), tmp_path / "o", fasta)
    with pytest.raises(InputError, match="lacks 1 of 2 sequences"):
        export(
            write_table(tmp_path / "u.parquet", [("P2", "P2 c", 0), ("P2", "P2 c", 1)]),
            tmp_path / "o",
            fasta,
        )


def test_repeated_ids_in_a_taxon_table_are_found_by_offset(tmp_path):
    records = [("P1 a OS=X OX=1", "MA"), ("P1 a OS=X OX=1", "MD")]
    table = cluster_taxa(write_fasta(tmp_path / "in.fasta", records), tmp_path / "t.parquet").path
    assert [sequence for sequence, _ in export(table, tmp_path / "o.json")["X"]] == ["MA", "MD"]


def test_another_fasta_is_refused(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    table = cluster_taxa(fasta, tmp_path / "taxa.parquet").path
    other = write_fasta(tmp_path / "other.fasta", RECORDS[::-1])
    with pytest.raises(InputError, match=r"other\.fasta: not the file that .*taxa\.parquet"):
        export(table, tmp_path / "o.json", other)
    write_fasta(fasta, RECORDS[::-1])
    with pytest.raises(InputError, match=r"in\.fasta: not the file that"):
        export(table, tmp_path / "o.json")
    fasta.unlink()
    with pytest.raises(InputError, match=r"in\.fasta: no such file.*name it with --fasta"):
        export(table, tmp_path / "o.json")


def test_offsets_that_lead_to_other_records_are_noticed(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    table = pl.read_parquet(cluster_taxa(fasta, tmp_path / "taxa.parquet").path)
    bare = tmp_path / "bare.parquet"
    table.with_columns(pl.col("offset").reverse()).write_parquet(bare)
    with pytest.raises(InputError, match="is not the one that"):
        export(bare, tmp_path / "o.json", fasta)


def test_a_table_without_fasta_says_so(tmp_path):
    table = write_table(tmp_path / "t.parquet", [("P1", "P1", 0)])
    with pytest.raises(InputError, match=r"records no FASTA file; name it with --fasta"):
        export(table, tmp_path / "o.json")


def test_rows_without_a_cluster_and_empty_tables_are_refused(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    with pytest.raises(InputError, match="1 rows have no cluster"):
        export(write_table(tmp_path / "t.parquet", [("P1", "x", None)]), tmp_path / "o", fasta)
    with pytest.raises(InputError, match="holds no member"):
        export(write_table(tmp_path / "u.parquet", []), tmp_path / "o", fasta)


def test_members_are_brought_into_order_part_by_part(tmp_path, monkeypatch):
    records = [
        (f"P{n} Prötein OS=Taxon {n * n % 7} OX={n * n % 7 + 1}", "M" + "AK" * (n * 7 % 40))
        for n in range(200)
    ]
    fasta = tmp_path / "in.fasta.gz"
    fasta.write_bytes(gzip.compress(write_fasta(tmp_path / "in.fasta", records).read_bytes()))
    table = cluster_taxa(fasta, tmp_path / "t.parquet").path
    members = {}
    for header, sequence in records:
        members.setdefault(header.split("OS=")[1].split(" OX")[0], []).append([sequence, header])
    ordered = dict(sorted(members.items(), key=lambda item: (-len(item[1]), item[0])))
    expected = json.dumps(ordered, ensure_ascii=False).encode() + b"\n"
    for part_bytes in (1 << 26, 4000, 1):
        monkeypatch.setattr(export_module, "_PART_BYTES", part_bytes)
        output = clusters_to_json(table, tmp_path / "out" / f"{part_bytes}.json").path
        assert output.read_bytes() == expected
    assert len(list((tmp_path / "out").iterdir())) == 6


def placed_table(path, fasta, **change):
    """Write a table by taxon without a recorded FASTA, with columns changed."""
    table = pl.read_parquet(cluster_taxa(fasta, path.with_name("whole.parquet")).path)
    table.with_columns(**change).write_parquet(path)
    return path


BAD_PLACES = {
    "null offset": ({"offset": pl.col("offset").shift(1)}, "1 rows have no offset"),
    "null length": ({"length": pl.col("length").shift(1)}, "1 rows have no length"),
    "negative": ({"offset": pl.col("offset") - 5}, "1 rows have no offset or one below 0"),
    "float": ({"offset": pl.col("offset").cast(float)}, "column offset holds no whole numbers"),
    "text": ({"length": pl.col("length").cast(str)}, "column length holds no whole numbers"),
    "within a record": ({"offset": pl.col("offset") + 1}, "no record starts at byte 1;"),
    "behind the end": ({"offset": pl.col("offset") + 10**7}, "no record starts at byte 10000000"),
    "no header": ({"header": pl.lit(None, pl.String)}, "byte 0 is not the one that .*t.parquet"),
}


@pytest.mark.parametrize("case", BAD_PLACES)
@pytest.mark.parametrize("packed", [False, True])
def test_rows_that_lead_nowhere_are_refused(tmp_path, case, packed):
    change, message = BAD_PLACES[case]
    fasta = write_fasta(tmp_path / "in.fasta")
    table = placed_table(tmp_path / "t.parquet", fasta, **change)
    if packed:
        fasta = tmp_path / "in.fasta.gz"
        fasta.write_bytes(gzip.compress((tmp_path / "in.fasta").read_bytes()))
    with pytest.raises(InputError, match=message):
        export(table, tmp_path / "out" / "o.json", fasta)
    assert not list(tmp_path.glob("out/*"))


def test_rows_of_one_record_and_in_another_order_are_exported_as_they_stand(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    whole = pl.read_parquet(cluster_taxa(fasta, tmp_path / "whole.parquet").path)
    table = tmp_path / "t.parquet"
    pl.concat([whole.reverse(), whole.head(1)]).write_parquet(table)
    content = export(table, tmp_path / "o.json", fasta)
    assert [sequence for sequence, _ in content["Alpha"]] == ["MKI", "MKV", "MKV"]


def test_ids_that_are_null_are_refused(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    table = write_table(tmp_path / "t.parquet", [("P1", None, 0), (None, "P2 Two", 0)])
    with pytest.raises(InputError, match="1 rows have no sequence_id; remove them"):
        export(table, tmp_path / "o.json", fasta)


def test_a_table_with_damaged_columns_is_refused(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta")
    table = placed_table(tmp_path / "t.parquet", fasta)
    content = bytearray(table.read_bytes())
    content[4:400] = b"\xff" * 396
    table.write_bytes(content)
    with pytest.raises(InputError, match=r"t\.parquet: not a readable parquet table"):
        export(table, tmp_path / "o.json", fasta)


@pytest.mark.parametrize("names", [["1.5", "-1"], ["", "a"], ["x" * 300, 'a"/b']])
def test_any_name_is_kept(tmp_path, names):
    fasta = write_fasta(tmp_path / "in.fasta")
    table = tmp_path / "t.parquet"
    clusters = [names[0], names[1], names[0], names[1]]
    ids = {"sequence_id": ["P1", "P2", "P3", "P4"], "header": [None] * 4, "cluster": clusters}
    pl.DataFrame(ids).write_parquet(table)
    content = export(table, tmp_path / "o.json", fasta)
    assert set(content) == set(names)
    assert [sequence for sequence, _ in content[names[0]]] == ["MKV", "MKI"]
