import json
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from esm_sae.embedding import EmbeddingOptions, embed_clusters, journal, load_encoder
from esm_sae.errors import InputError, ResumableError
from esm_sae.formats.embedded_clusters import read_embedded_json, read_embedded_table
from esm_sae.formats.manifest import manifest_beside, read_manifest
from file_limits import largest_file

runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))
CLUSTERS = {
    "Mus musculus (10090)": [["MKVLAAW", "P1 one OS=Mus musculus"], ["MK", "P2 two"]],
    "Homo sapiens (9606)": [["ACDEFGHIKLMNPQRSTVWY", "P3 three"]],
}
SEQUENCES = [sequence for members in CLUSTERS.values() for sequence, _ in members]


@pytest.fixture
def toy():
    return load_encoder("toy", device="cpu")


@pytest.fixture
def embed(toy, tmp_path):
    """Return a function that embeds clusters; the output's path."""

    def run(clusters=CLUSTERS, **options):
        source = tmp_path / "sampled_sequences.json"
        source.write_text(json.dumps(clusters))
        output = tmp_path / "out" / "embedded_clusters.json"
        return embed_clusters(source, output, encoder=toy, options=EmbeddingOptions(**options)).path

    return run


def summary_of(path):
    return read_manifest(manifest_beside(path)).summary


def test_the_json_has_exactly_the_documented_form(embed, toy):
    content = json.loads(embed().read_text())
    assert list(content) == list(CLUSTERS)
    vectors = []
    for taxon, members in CLUSTERS.items():
        for entry, (sequence, header) in zip(content[taxon], members, strict=True):
            assert set(entry) == {"sequence", "header", "embedding"}
            assert (entry["sequence"], entry["header"]) == (sequence, header)
            vectors.append(entry["embedding"])
    np.testing.assert_allclose(vectors, toy.embed(SEQUENCES), atol=1e-6)


def test_it_is_read_back_as_written(embed):
    embedded = read_embedded_json(embed())
    assert embedded.sequences == SEQUENCES
    assert embedded.embeddings.dtype == np.float32


def test_residue_rows_are_all_residues_beside_the_means(embed, toy):
    path = embed(pooling="residue", residues_per_protein=2)
    rows = np.load(path.with_name("embedded_clusters.residues.npy"), allow_pickle=False)
    table = pl.read_parquet(path.with_name("embedded_clusters.residues.parquet"))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, toy.embed(SEQUENCES, pooling="residue"), atol=1e-6)
    assert table.columns == ["protein", "taxon", "header", "position"]
    assert table["protein"].to_list() == [0] * 7 + [1] * 2 + [2] * 20
    assert table["position"].to_list() == [*range(1, 8), *range(1, 3), *range(1, 21)]
    assert table["taxon"].unique(maintain_order=True).to_list() == list(CLUSTERS)
    assert table["header"][8] == "P2 two"
    np.testing.assert_allclose(read_embedded_json(path).embeddings, toy.embed(SEQUENCES), atol=1e-6)


def test_mean_rows_write_no_residues(embed):
    embed(pooling="residue")
    names = {path.name for path in embed().parent.iterdir()}
    assert names == {
        "embedded_clusters.json",
        "embedded_clusters.parquet",
        "embedded_clusters.json.manifest.json",
    }


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_the_table_beside_the_json_holds_the_same(embed, pooling):
    path = embed(pooling=pooling)
    table, json_rows = read_embedded_table(path.with_suffix(".parquet")), read_embedded_json(path)
    np.testing.assert_array_equal(table.embeddings, json_rows.embeddings)
    assert (table.taxa, table.headers) == (json_rows.taxa, json_rows.headers)
    assert table.sequences == json_rows.sequences
    assert "embedded_clusters.parquet" in read_manifest(manifest_beside(path)).files


def test_another_table_of_the_same_name_is_not_written_over(embed, tmp_path):
    table = tmp_path / "out" / "embedded_clusters.parquet"
    table.parent.mkdir()
    pl.DataFrame({"sequence_id": ["P1"], "cluster": [0]}).write_parquet(table)
    before = table.read_bytes()
    with pytest.raises(InputError, match=r"embedded_clusters\.parquet: is no table of embedded"):
        embed()
    assert table.read_bytes() == before
    table.unlink()
    embed()
    # What a call left that was killed between the files of its output.
    manifest_beside(tmp_path / "out" / "embedded_clusters.json").unlink()
    embed()


@pytest.mark.parametrize("name", ["embedded", "embedded.parquet", ".json"])
def test_the_output_is_named_as_json(toy, tmp_path, name):
    source = tmp_path / "s.json"
    source.write_text(json.dumps(CLUSTERS))
    with pytest.raises(InputError, match=r"give it a name that ends in \.json"):
        embed_clusters(source, tmp_path / name, encoder=toy, options=EmbeddingOptions())


def test_a_rerun_is_unchanged(embed, toy, tmp_path):
    path = embed()
    before = path.read_bytes()
    again = embed_clusters(
        tmp_path / "sampled_sequences.json", path, encoder=toy, options=EmbeddingOptions()
    )
    assert again.unchanged
    assert path.read_bytes() == before


def test_counts_say_what_was_embedded(embed):
    path = embed({"A": [["MJK" * 4, "P1"]], "B": [["MK", "P2"]]}, max_length=5)
    summary = summary_of(path)
    counts = ["proteins", "taxa", "residues", "truncated", "unknown_letters"]
    assert [summary[name] for name in counts] == [2, 2, 7, 1, 2]
    assert json.loads(path.read_text())["A"][0]["sequence"] == "MJK" * 4


LONG = {"A": [["MKV" * 9, "P1"], ["MK", "P2"]], "B": [["LA" * 9, "P3"]]}


def test_skipped_sequences_are_left_out_with_taxa_that_lose_all(embed):
    path = embed(LONG, pooling="residue", max_length=10, long_sequences="skip")
    embedded = read_embedded_json(path)
    assert (embedded.taxa, embedded.headers) == (["A"], ["P2"])
    assert len(np.load(path.with_name("embedded_clusters.residues.npy"))) == 2
    assert summary_of(path)["skipped"] == 2


def test_windows_give_all_residues(embed, toy):
    options = {"max_length": 10, "long_sequences": "window"}
    path = embed(LONG, pooling="residue", **options)
    rows = np.load(path.with_name("embedded_clusters.residues.npy"))
    assert len(rows) == 27 + 2 + 18
    vectors = read_embedded_json(path).embeddings
    means = [part.mean(axis=0) for part in np.split(rows, [27, 29])]
    np.testing.assert_allclose(vectors, means, rtol=1e-5)
    assert summary_of(path)["windowed"] == 2


@pytest.mark.parametrize("pooling", ["max", "last", "bos"])
def test_the_vectors_are_pooled_as_asked(embed, toy, pooling):
    vectors = read_embedded_json(embed(pooling=pooling)).embeddings
    np.testing.assert_allclose(vectors, toy.embed(SEQUENCES, pooling=pooling), atol=1e-6)


def test_an_interrupted_run_is_gone_on_with(embed, toy, monkeypatch):
    undisturbed = embed(pooling="residue").read_bytes()
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_ENTRIES", 0)
    states, lengths = toy.backbone.states, []

    def interrupted(tokens, **options):
        lengths.append(tokens.shape[1] - 2)
        if len(lengths) == 2:
            raise KeyboardInterrupt
        return states(tokens, **options)

    toy.backbone.states = interrupted
    with pytest.raises(KeyboardInterrupt):
        embed(pooling="residue", batch_tokens=30)
    path = embed(pooling="residue", batch_tokens=30)
    assert lengths == [20, 7, 7, 2]
    assert path.read_bytes() == undisturbed
    assert len(list(path.parent.iterdir())) == 5


def test_a_full_disk_behind_the_last_batch_costs_no_batch(embed, toy):
    # So that the JSON is the largest file.
    clusters = {"A": [["MKVL", "P1 " + "x" * 9000], ["MK", "P2"]]}
    path = embed(clusters)
    undisturbed = path.read_bytes()
    for made in path.parent.iterdir():
        made.unlink()
    states, sizes = toy.backbone.states, []

    def counted(tokens, **options):
        sizes.append(len(tokens))
        return states(tokens, **options)

    toy.backbone.states = counted
    for _ in range(2):
        with (
            largest_file(len(undisturbed) - 1),
            pytest.raises(ResumableError, match="make room and run it again"),
        ):
            embed(clusters)
        assert [made.suffix for made in path.parent.iterdir()] == [".work"]
    embed(clusters)
    assert sum(sizes) == 2
    assert path.read_bytes() == undisturbed
    assert len(list(path.parent.iterdir())) == 3


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        ({"A": [["MK", "P1"], ["", "P2"]]}, "entry 2 of cluster 'A': empty; remove it"),
        ({"A": [["M-K", "P1"]]}, "entry 1 of cluster 'A': '-' at residue 2 is a gap"),
        ({"A": []}, "its clusters hold no sequence"),
        ({"A": [["MK"]]}, "entry 1 of cluster 'A' is not a"),
        ({"A": [["MK", "P1"]], "B": {}}, "cluster 'B' is not a list"),
        ({}, "holds no cluster"),
    ],
)
def test_clusters_that_cannot_be_embedded_are_named(embed, tmp_path, clusters, message):
    with pytest.raises(InputError, match=f"sampled_sequences.json.* ?{message}"):
        embed(clusters)
    assert not (tmp_path / "out").exists()


def test_values_that_are_not_finite_fail_and_name_the_protein(embed, toy, tmp_path):
    toy.backbone.table[toy.backbone.vocabulary.encode("W").ids[1]] = np.nan
    with pytest.raises(InputError, match="embeddings of P3 are not finite"):
        embed(pooling="residue")
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_left_is_an_error(embed, tmp_path):
    with pytest.raises(InputError, match="all of its 3 sequences have more than 1 residues"):
        embed(max_length=1, long_sequences="skip")
    assert not (tmp_path / "out").exists()
