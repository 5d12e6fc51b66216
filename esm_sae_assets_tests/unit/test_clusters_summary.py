import sys

import numpy as np
import polars as pl
import pytest

from described_clusters import write_table
from esm_sae.clusters import cluster_map as mapping
from esm_sae.clusters import describe_clusters, embedding_map
from esm_sae.clusters.copies import distinct_points
from esm_sae.clusters.medoids import medoids
from esm_sae.errors import InputError
from esm_sae.formats.cluster_summary import MAP_SCHEMA, SUMMARY_SCHEMA, map_path, read_map

KINASE = "UniRef50_K{} Adenylate kinase n=1 Tax=Homo sapiens TaxID=9606 RepID=K{}"
OTHER = "UniRef50_O{} Uncharacterized protein {} n=1 Tax=Taxon {} TaxID={} RepID=O"


def two_clusters(folder, **options):
    """Write 5 kinases, 4 others and 20 of noise; kinase 4 is twice a copy of kinase 3."""
    generator = np.random.default_rng(0)
    headers = [KINASE.format(n, n) for n in range(5)] + [KINASE.format(3, "copy")] * 2
    headers += [OTHER.format(n, n, n, 100 + n) for n in range(24)]
    clusters = [0] * 7 + [1] * 4 + [-1] * 20
    points = generator.normal(size=(31, 3))
    points[5:7] = points[3]
    return write_table(folder, headers, clusters, points, **options), points


def describe(table, **options):
    product = describe_clusters(table, table.with_name("summary.parquet"), **options)
    return pl.read_parquet(product.path), product


def test_a_row_per_cluster_says_what_is_in_it(tmp_path):
    table, _ = two_clusters(tmp_path, lengths=range(100, 131))
    clusters, product = describe(table)
    assert clusters.schema == pl.Schema(SUMMARY_SCHEMA)
    first, second = clusters.iter_rows(named=True)
    assert (first["cluster"], first["size"], first["distinct"]) == (0, 7, 5)
    assert first["share"] == 7 / 31
    assert first["mean_probability"] == 0.5
    assert first["mean_length"] == 103
    assert first["label"] == "adenylate"
    adenylate = {"word": "adenylate", "count": 5, "share": 1.0, "fold": 29 / 5}
    assert first["words"][0] == adenylate | {"q": pytest.approx(4 / 2 / 118755)}
    assert [word["word"] for word in first["words"]] == ["adenylate", "kinase"]
    assert [(t["taxon"], t["taxid"], t["count"]) for t in first["taxa"]] == [
        ("Homo sapiens", 9606, 5)
    ]
    assert second["label"] is None
    assert second["words"] == []
    assert second["taxa"] == []
    assert first["similarity_clusters"] is None
    summary = product.manifest.summary
    assert (summary["rows"], summary["noise"], summary["distinct"]) == (31, 20, 29)
    assert summary["tested_words"] == 2 * 2
    assert summary["top_clusters"][0]["words"] == "adenylate 100%, kinase 100%"


def test_copies_neither_count_twice_nor_make_a_medoid(tmp_path):
    table, points = two_clusters(tmp_path)
    clusters, _ = describe(table)
    members = points[:5]
    distances = np.linalg.norm(members[:, None] - members[None], axis=2).mean(axis=1)
    row = clusters["medoid_row"][0]
    assert row == distances.argmin()
    assert clusters["medoid_id"][0] == f"UniRef50_K{row}"
    assert clusters["medoid_header"][0] == KINASE.format(row, row)


def test_similarity_clusters_that_are_joined_are_counted(tmp_path):
    table, _ = two_clusters(tmp_path)
    known = {"UniRef50_K0": "a", "UniRef50_K1": "a", "UniRef50_K2": "b", "UniRef50_K3": "a"}
    path = tmp_path / "known.parquet"
    pl.DataFrame({"sequence_id": list(known), "cluster_id": list(known.values())}).write_parquet(
        path
    )
    clusters, product = describe(table, similarity_clusters=path)
    assert clusters["similarity_clusters"].to_list() == [2, None]
    assert clusters["similarity_share"].to_list() == [0.75, None]
    assert product.manifest.summary["clusters_joining_similarity_clusters"] == 1
    assert product.manifest.summary["clusters_of_known_similarity"] == 1


def test_all_noise_gives_an_empty_summary_and_a_map(tmp_path):
    table = write_table(tmp_path, ["a", "b", "c"], [-1] * 3, np.eye(3))
    clusters, product = describe(table)
    assert clusters.schema == pl.Schema(SUMMARY_SCHEMA)
    assert clusters.is_empty()
    assert product.manifest.summary["clusters"] == 0
    assert len(read_map(product.path)[0]) == 3
    assert embedding_map(product.path).startswith(b"\x89PNG")


def test_bare_matrices_have_neither_words_nor_taxa(tmp_path):
    table = write_table(tmp_path, [None] * 6, [0, 0, 0, 1, 1, -1], np.eye(6))
    clusters, _ = describe(table)
    assert clusters["words"].to_list() == [[], []]
    assert clusters["medoid_id"].to_list() == ["file:0", "file:3"]
    assert clusters["medoid_header"].to_list() == [None, None]
    assert clusters["mean_length"].null_count() == 2


def test_the_map_draws_a_sample_and_every_medoid(tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "_DRAWN", 5)
    table, points = two_clusters(tmp_path)
    clusters, product = describe(table)
    drawn, axes = read_map(product.path)
    assert drawn.schema == pl.Schema(MAP_SCHEMA)
    assert axes == ("PC 1 (50% of the variance)", "PC 2 (20% of the variance)")
    assert set(clusters["medoid_row"]) <= set(drawn["row"])
    assert 5 <= len(drawn) <= 7
    assert drawn["row"].is_sorted()
    rows = drawn["row"].to_numpy()
    assert drawn.select("x", "y").to_numpy() == pytest.approx(points[rows, :2], abs=1e-6)
    source = pl.read_parquet(table)
    assert drawn["cluster"].to_list() == source["cluster"].to_numpy()[rows].tolist()
    assert drawn["sequence_id"].to_list() == source["sequence_id"].to_numpy()[rows].tolist()


def test_one_coordinate_makes_a_line(tmp_path):
    table = write_table(tmp_path, ["a", "b", "c"], [0, 0, -1], [[1], [2], [3]])
    _, product = describe(table)
    drawn, _ = read_map(product.path)
    assert drawn.select("x", "y").rows() == [(1, 0), (2, 0), (3, 0)]


def test_same_inputs_and_seed_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "_DRAWN", 5)
    table, _ = two_clusters(tmp_path)
    outputs = [tmp_path / name / "s.parquet" for name in ("one", "two", "three")]
    for output, seed in zip(outputs, (3, 3, 4), strict=True):
        describe_clusters(table, output, seed=seed)
    one, two, three = (map_path(output).read_bytes() for output in outputs)
    assert one == two
    assert one != three
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert embedding_map(outputs[0]) == embedding_map(outputs[1])
    assert describe_clusters(table, outputs[0], seed=3).unchanged


def test_medoids_equal_a_naive_search_and_samples_are_seeded(monkeypatch):
    generator = np.random.default_rng(1)
    points = generator.normal(size=(90, 4))
    clusters = generator.integers(-1, 4, size=90)
    found = medoids(points, clusters)
    for cluster in range(4):
        rows = np.flatnonzero(clusters == cluster)
        mean = [np.linalg.norm(points[rows] - points[row], axis=1).mean() for row in rows]
        assert found[cluster] == rows[np.argmin(mean)]
    monkeypatch.setattr("esm_sae.clusters.medoids._MEMBERS", 5)
    sampled = medoids(points, clusters, seed=2)
    assert (clusters[sampled] == np.arange(4)).all()
    assert (medoids(points, clusters, seed=2) == sampled).all()
    assert any((medoids(points, clusters, seed=s) != sampled).any() for s in range(3, 9))


def test_copies_are_equal_but_for_rounding(monkeypatch):
    monkeypatch.setattr("esm_sae.clusters.copies._BATCH", 4)
    points = np.random.default_rng(2).normal(size=(9, 5)).astype(np.float32)
    points[6] = points[1] * (1 + 1e-7)
    points[7] = points[1]
    first, number = distinct_points(points)
    assert first.tolist() == [0, 1, 2, 3, 4, 5, 8]
    assert number.tolist() == [0, 1, 2, 3, 4, 5, 1, 1, 6]


def test_points_without_spread_are_all_copies():
    first, number = distinct_points(np.zeros((3, 2), dtype=np.float32))
    assert (first.tolist(), number.tolist()) == ([0], [0, 0, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.with_columns(pl.col("cluster").cast(pl.String)), "by embedding"),
        (lambda table: table.drop("probability"), "by embedding"),
        (lambda table: table.head(3), "points"),
        (lambda table: table.with_columns(pl.col("cluster").replace(0, 7)), "not numbered"),
        (lambda table: table.with_columns(pl.lit(None, pl.Int32).alias("cluster")), "not numbered"),
    ],
)
def test_another_table_is_refused(tmp_path, change, message):
    path, _ = two_clusters(tmp_path)
    change(pl.read_parquet(path)).write_parquet(path)
    with pytest.raises(InputError, match=message):
        describe(path)


def test_the_table_itself_is_not_overwritten(tmp_path):
    path, _ = two_clusters(tmp_path)
    with pytest.raises(InputError, match="name another file"):
        describe_clusters(path, path)


def test_a_file_that_is_no_table_and_missing_points_are_refused(tmp_path):
    path, _ = two_clusters(tmp_path)
    path.with_suffix(".points.npy").unlink()
    with pytest.raises(InputError, match=r"points.npy: .*cluster the embeddings of"):
        describe(path)
    other, _ = two_clusters(tmp_path / "other")
    other.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="not a parquet table"):
        describe(other)


def test_an_unknown_layout_and_a_missing_umap_are_refused(tmp_path, monkeypatch):
    table, _ = two_clusters(tmp_path)
    with pytest.raises(InputError, match="must be pca or umap"):
        describe(table, layout="tsne")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"pip install 'esm-sae\[umap\]'"):
        describe(table, layout="umap")
    assert not table.with_name("summary.parquet").exists()


@pytest.mark.slow
def test_umap_is_seeded_and_names_its_axes(tmp_path):
    table, _ = two_clusters(tmp_path)
    outputs = [tmp_path / name / "s.parquet" for name in ("one", "two")]
    for output in outputs:
        describe_clusters(table, output, layout="umap")
    drawn, axes = read_map(outputs[0])
    assert axes == ("UMAP 1", "UMAP 2")
    assert drawn.select(pl.col("x", "y").is_finite().all()).row(0) == (True, True)
    assert drawn[5:7].select("x", "y").rows() == drawn[[3, 3]].select("x", "y").rows()
    assert map_path(outputs[0]).read_bytes() == map_path(outputs[1]).read_bytes()
    few = write_table(tmp_path / "few", ["a", "b", "c"], [-1] * 3, np.eye(3))
    with pytest.raises(InputError, match="at least 4 distinct proteins"):
        describe(few, layout="umap")


def test_the_figure_needs_the_summary_and_its_map(tmp_path):
    table, _ = two_clusters(tmp_path)
    _, product = describe(table)
    assert embedding_map(product.path).startswith(b"\x89PNG")
    map_path(product.path).write_bytes(table.read_bytes())
    with pytest.raises(InputError, match="describe the clusters again"):
        embedding_map(product.path)
    with pytest.raises(InputError, match="not what describe_clusters writes"):
        embedding_map(table)
