import json
import os
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis import cluster_rows, feature_taxonomy, open_cluster_rows
from esm_sae.embedding import EmbeddingOptions, embed_clusters, load_encoder
from esm_sae.errors import InputError
from esm_sae.formats.embedded_clusters import write_embedded_table
from esm_sae.formats.manifest import manifest_beside

runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))
CLUSTERS = {
    "Mus musculus (10090)": [["MKVLAAW", "P1 one OS=Mus musculus OX=10090"], ["MK", "P2 two"]],
    "Homo sapiens (9606)": [["ACDEFGHIKLMNPQRSTVWY", "P3 three"]],
}


@pytest.fixture
def embedded(tmp_path):
    """Return a function that embeds the clusters; the JSON's path."""

    def run(pooling="mean"):
        source = tmp_path / "sampled_sequences.json"
        source.write_text(json.dumps(CLUSTERS))
        output = tmp_path / "out" / "embedded_clusters.json"
        options = EmbeddingOptions(pooling=pooling)
        encoder = load_encoder("toy", device="cpu")
        return embed_clusters(source, output, encoder=encoder, options=options).path

    return run


@pytest.fixture
def refuse(monkeypatch):
    """Return a function that lets a reader fail, to show that another one is used."""

    def run(name):
        def refused(path):
            raise AssertionError(f"{name} was called")

        monkeypatch.setattr(cluster_rows, name, refused)

    return run


def content(rows):
    return rows.fingerprint, rows.provenance, rows.table.rows(), rows.sequences, rows.taxa


def test_the_table_is_read_where_the_manifest_vouches_for_it(embedded, refuse):
    path = embedded()
    table = path.with_suffix(".parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_rows, "is_untouched", lambda *_: False)
        slow = open_cluster_rows(path, pooling="mean")
    assert slow.provenance.encoder == "toy"
    refuse("read_embedded_json")
    for named in (path, table):
        rows = open_cluster_rows(named, pooling="mean")
        assert content(rows) == content(slow)
        np.testing.assert_array_equal(rows.matrix, slow.matrix)
        assert rows.directory == named
    path.unlink()
    assert content(open_cluster_rows(table, pooling="mean")) == content(slow)
    with pytest.raises(AssertionError, match="read_embedded_json was called"):
        open_cluster_rows(path, pooling="mean")


def test_residues_are_found_beside_either_file(embedded, refuse):
    path = embedded("residue")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_rows, "is_untouched", lambda *_: False)
        slow = open_cluster_rows(path, pooling="residue")
    refuse("identity_of")
    for named in (path, path.with_suffix(".parquet")):
        rows = open_cluster_rows(named, pooling="residue")
        assert content(rows) == content(slow)
        assert rows.rows == 29


@pytest.mark.parametrize("touched", [".json", ".parquet"])
def test_a_file_that_was_written_to_is_not_vouched_for(embedded, refuse, touched):
    path = embedded()
    before = open_cluster_rows(path, pooling="mean")
    written = path.with_suffix(touched)
    later = manifest_beside(path).stat().st_mtime_ns + 10**9
    os.utime(written, ns=(later, later))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_rows, "read_embedded_table", lambda _: pytest.fail("not vouched for"))
        assert content(open_cluster_rows(path, pooling="mean")) == content(before)
    if touched == ".parquet":
        refuse("read_embedded_json")
        other = open_cluster_rows(written, pooling="mean")
        assert other.fingerprint != before.fingerprint
        assert other.table.equals(before.table)


def test_a_table_alone_has_unknown_provenance(tmp_path, write_clusters):
    path, clusters, _ = write_clusters(tmp_path / "in", {"A": 3, "B": 2})
    table = tmp_path / "x.parquet"
    write_embedded_table(table, clusters)
    alone = open_cluster_rows(table, pooling="mean")
    of_json = open_cluster_rows(path, pooling="mean")
    assert alone.provenance == of_json.provenance
    assert alone.table.equals(of_json.table)
    np.testing.assert_array_equal(alone.matrix, of_json.matrix)


def test_tables_of_another_kind_are_refused(tmp_path):
    pl.DataFrame({"cluster": [1]}).write_parquet(tmp_path / "clusters.parquet")
    with pytest.raises(InputError, match=r"clusters\.parquet: not a table of embedded clusters"):
        open_cluster_rows(tmp_path / "clusters.parquet", pooling="mean")
    with pytest.raises(InputError, match=r"none\.parquet: no such file"):
        open_cluster_rows(tmp_path / "none.parquet", pooling="mean")


def test_what_is_made_from_either_is_the_same_output(embedded, tmp_path, fake_sae):
    path = embedded()
    sae = fake_sae(width=load_encoder("toy", device="cpu").width)
    assert not feature_taxonomy(sae, path, tmp_path / "taxonomy").unchanged
    again = feature_taxonomy(sae, path.with_suffix(".parquet"), tmp_path / "taxonomy")
    assert again.unchanged
