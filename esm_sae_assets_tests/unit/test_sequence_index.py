import polars as pl
import pytest

from esm_sae.errors import InputError
from esm_sae.formats import fasta_reading, sequence_index
from esm_sae.formats.fasta import read_at, read_fasta
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import manifest_beside, produce_files
from esm_sae.formats.sequence_index import SCHEMA, IndexWriter, index_of, index_path


def naive_index(path):
    rows = []
    for record in read_fasta(path):
        header = parse_header(record.header)
        rows.append(
            {
                "sequence_id": header.sequence_id,
                "header": record.header,
                "taxon": header.taxon,
                "taxid": header.taxid,
                "length": len(record.sequence),
                "offset": record.offset,
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA)


@pytest.mark.parametrize("name", ["x.fasta", "x.fasta.gz"])
def test_the_index_of_a_file_with_nothing_beside_it(write_fasta, random_proteins, name):
    path = write_fasta(random_proteins(50), name)
    index = index_of(path)
    assert index.equals(naive_index(path))
    assert dict(index.schema) == SCHEMA
    assert [record.header for record in read_at(path, index["offset"].to_list())] == index[
        "header"
    ].to_list()


@pytest.mark.parametrize("rows_per_part", [7, 10_000])
def test_a_table_written_in_parts_is_the_same(
    tmp_path, write_fasta, random_proteins, monkeypatch, rows_per_part
):
    monkeypatch.setattr(sequence_index, "_ROWS_PER_PART", rows_per_part)
    monkeypatch.setattr(fasta_reading, "_BLOCK_BYTES", 500)
    path = write_fasta(random_proteins(50))
    writer = IndexWriter(tmp_path)
    for block in fasta_reading.read_blocks(path):
        writer.add(block)
    writer.finish(tmp_path / "x.index.parquet")
    assert pl.read_parquet(tmp_path / "x.index.parquet").equals(naive_index(path))
    assert index_of(path).equals(naive_index(path))


def publish(path, table):
    def build(paths):
        paths[0].write_bytes(path.read_bytes())
        table.write_parquet(paths[1])
        return {}

    produce_files(
        [path, index_path(path)],
        manifest=manifest_beside(path),
        kind="test",
        determinants={},
        build=build,
    )


def test_a_table_that_a_manifest_names_is_used(write_fasta, random_proteins):
    path = write_fasta(random_proteins(5))
    table = naive_index(path).with_columns(taxon=pl.lit("from the table"))
    publish(path, table)
    assert index_of(path).equals(table)


def test_a_table_without_manifest_or_of_another_file_is_not_used(write_fasta, random_proteins):
    path = write_fasta(random_proteins(5))
    naive_index(path).head(2).write_parquet(index_path(path))
    assert len(index_of(path)) == 5
    publish(path, naive_index(path).head(2))
    write_fasta(random_proteins(9))
    assert len(index_of(path)) == 9


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "x.fasta").write_text("no fasta")
    with pytest.raises(InputError, match="does not start with '>'"):
        index_of(tmp_path / "x.fasta")


def test_files_whose_names_differ_after_a_dot_have_indexes_of_their_own():
    assert index_path("a/sample.10k.fasta") != index_path("a/sample.1k.fasta")
    assert index_path("a/x.fasta.gz").name == "x.index.parquet"
