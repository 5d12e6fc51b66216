import polars as pl
import pytest

from esm_sae.errors import InputError
from esm_sae.formats.fasta import parse_header, read_at, read_fasta
from esm_sae.formats.manifest import manifest_beside, produce_files
from esm_sae.formats.sequence_index import SCHEMA, IndexBuilder, index_of, index_path


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


def test_chunks_do_not_show(write_fasta, random_proteins, monkeypatch):
    path = write_fasta(random_proteins(50))
    monkeypatch.setattr("esm_sae.formats.sequence_index._ROWS_PER_CHUNK", 7)
    assert index_of(path).equals(naive_index(path))


def test_an_empty_builder_gives_an_empty_index():
    index = IndexBuilder().finish()
    assert len(index) == 0
    assert dict(index.schema) == SCHEMA


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
