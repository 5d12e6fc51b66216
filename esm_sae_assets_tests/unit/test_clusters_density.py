import numpy as np
import polars as pl
import pytest
from sklearn.metrics import adjusted_rand_score

from esm_sae.clusters import cluster_embeddings
from esm_sae.clusters.points import points_path, read_points
from esm_sae.errors import InputError
from esm_sae.formats.shards import EmbeddingShards, Provenance

SPREAD = 12.0


def shards_of(tmp_path, *arrays):
    paths = [tmp_path / f"part_{number}.npy" for number in range(len(arrays))]
    stored = [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]
    fingerprint = str(hash(tuple(array.tobytes() for array in stored)))
    return EmbeddingShards(tmp_path, paths, stored, Provenance(), fingerprint, has_index=False)


def blobs(sizes=(60, 90, 40), width=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), width)) * SPREAD
    truth = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(truth))
    return (centres[truth] + rng.normal(size=(len(truth), width)))[order], truth[order]


def cluster(shards, tmp_path, **options):
    product = cluster_embeddings(shards, tmp_path / "out" / "clusters.parquet", **options)
    return pl.read_parquet(product.path), product.manifest.summary


def test_planted_blobs_are_found_and_numbered_by_size(tmp_path):
    rows, truth = blobs()
    table, summary = cluster(shards_of(tmp_path, rows[:100], rows[100:]), tmp_path)
    assert table.columns == [
        "sequence_id",
        "header",
        "cluster",
        "probability",
        "outlier_score",
        "length",
    ]
    assert table.schema["cluster"] == pl.Int32
    assert table["sequence_id"][0] == "part_0:0"
    assert table["sequence_id"][-1] == "part_1:89"
    assert adjusted_rand_score(truth, table["cluster"]) > 0.95
    assert summary["clusters"] == 3
    assert summary["selection"] == "eom"
    counts = table.filter(pl.col("cluster") >= 0)["cluster"].value_counts().sort("cluster")
    assert counts["count"].to_list() == sorted(counts["count"], reverse=True)
    assert summary["largest_sizes"] == counts["count"].to_list()
    assert summary["noise"] == (table["cluster"] == -1).sum()
    for column in ("probability", "outlier_score"):
        assert table[column].is_between(0, 1).all()
    assert (table.filter(pl.col("cluster") == -1)["probability"] == 0).all()


def test_the_points_that_were_clustered_lie_beside_the_table(tmp_path):
    rows, _ = blobs()
    cluster(shards_of(tmp_path, rows), tmp_path, components=4, fit_rows=90)
    table = tmp_path / "out" / "clusters.parquet"
    assert points_path(table) == tmp_path / "out" / "clusters.points.npy"
    points = read_points(table)
    assert points.dtype == np.float32
    assert points.shape == (190, 4)
    # Half-whitened: the fourth root of each variance is gone from the coordinate.
    centred = rows - rows.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :4] * values[:4] / np.sqrt(values[:4] / np.sqrt(190))
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-3)


def test_points_that_are_missing_or_of_another_table_are_refused(tmp_path):
    rows, _ = blobs()
    cluster(shards_of(tmp_path, rows), tmp_path)
    table = tmp_path / "out" / "clusters.parquet"
    points = points_path(table)
    for content in (np.zeros((189, 4), np.float32), np.zeros((190, 4)), np.zeros(190, np.float32)):
        np.save(points, content)
        with pytest.raises(InputError, match="expected a float32 matrix with the table's 190 rows"):
            read_points(table)
    points.write_bytes(b"no matrix")
    with pytest.raises(InputError, match=r"points\.npy: not a plain \.npy matrix"):
        read_points(table)
    points.unlink()
    with pytest.raises(InputError, match=r"points\.npy: no such file.*cluster the embeddings of"):
        read_points(table)
    table.write_bytes(b"no table")
    with pytest.raises(InputError, match="not a readable parquet table"):
        read_points(table)
    with pytest.raises(InputError, match="no such file"):
        read_points(tmp_path / "none.parquet")


# Numba compiles that package for a minute.
@pytest.mark.slow
def test_the_fast_backend_gives_the_same_table(tmp_path):
    rows, truth = blobs()
    shards = shards_of(tmp_path, rows)
    slow, _ = cluster(shards, tmp_path, fit_rows=120)
    fast, summary = cluster(shards, tmp_path, fit_rows=120, backend="fast_hdbscan")
    assert summary["fitted_rows"] == 120
    assert adjusted_rand_score(slow["cluster"], fast["cluster"]) > 0.95
    assert adjusted_rand_score(truth, fast["cluster"]) > 0.9
    assert fast["outlier_score"].is_between(0, 1).all()


@pytest.mark.parametrize("backend", ["hdbscan", "fast_hdbscan"])
def test_one_dimension_is_enough(tmp_path, backend):
    rows = np.concatenate([np.linspace(at, at + 1, 20) for at in (0, 50, 100)])[:, None]
    table, summary = cluster(shards_of(tmp_path, rows), tmp_path, fit_rows=40, backend=backend)
    assert summary["components"] == 1
    assert summary["clusters"] == 3
    assert adjusted_rand_score(np.repeat(range(3), 20), table["cluster"]) > 0.9
    assert table["outlier_score"].is_between(0, 1).all()


def test_half_precision_gives_nearly_the_same(tmp_path):
    rows, _ = blobs()
    exact, _ = cluster(shards_of(tmp_path, rows), tmp_path)
    half = shards_of(tmp_path, rows)
    half.arrays[0] = half.arrays[0].astype(np.float16)
    rounded, _ = cluster(half, tmp_path / "half")
    assert adjusted_rand_score(exact["cluster"], rounded["cluster"]) > 0.95


def test_rows_beyond_the_fitted_ones_are_predicted(tmp_path):
    rows, truth = blobs()
    table, summary = cluster(shards_of(tmp_path, rows), tmp_path, fit_rows=90)
    assert summary["fitted_rows"] == 90
    assert summary["predicted_rows"] == 100
    assert adjusted_rand_score(truth, table["cluster"]) > 0.9
    assert table["outlier_score"].is_between(0, 1).all()


def test_a_bulk_is_split_into_its_leaves(tmp_path):
    rng = np.random.default_rng(1)
    bulk = rng.normal(size=(300, 4))
    knots = np.concatenate(
        [centre + 0.1 * rng.normal(size=(12, 4)) for centre in rng.normal(size=(4, 4))]
    )
    far = 40 + 0.1 * rng.normal(size=(10, 4))
    shards = shards_of(tmp_path, np.concatenate([bulk, knots, far]))
    table, summary = cluster(shards, tmp_path, min_cluster_size=8)
    assert summary["selection"] == "leaf"
    assert summary["clusters"] >= 5
    planted = table["cluster"].to_numpy()[300:].copy()
    for start in (0, 12, 24, 36):
        labels = planted[start : start + 12]
        assert (labels == labels[0]).mean() > 0.8
        assert labels[0] >= 0
    _, forced = cluster(shards, tmp_path, min_cluster_size=8, selection="eom")
    assert forced["selection"] == "eom"
    assert forced["clusters"] == 2


def test_equal_rows_count_once_and_get_one_result(tmp_path):
    rows, _ = blobs()
    copies = np.repeat(rows[:1], 30, axis=0)
    table, summary = cluster(shards_of(tmp_path, rows, copies), tmp_path)
    assert summary["rows"] == 220
    assert summary["distinct_rows"] == 190
    same = table[[0, *range(190, 220)]].drop("sequence_id", "header")
    assert same.n_unique() == 1
    alone, _ = cluster(shards_of(tmp_path, rows), tmp_path)
    assert adjusted_rand_score(alone["cluster"], table["cluster"][:190]) == 1
    assert table["probability"][:190].to_list() == pytest.approx(
        alone["probability"].to_list(), abs=0.35
    )
    assert table.filter(pl.col("cluster") >= 0)["probability"].median() > 0.2


def test_the_same_input_and_seed_give_the_same_bytes(tmp_path):
    rows, _ = blobs()
    shards = shards_of(tmp_path, rows)
    outputs = [tmp_path / name / "clusters.parquet" for name in ("one", "two", "three")]
    for output, seed in zip(outputs, (3, 3, 4), strict=True):
        cluster_embeddings(shards, output, fit_rows=80, seed=seed)
    one, two, three = (output.read_bytes() for output in outputs)
    assert one == two
    assert one != three
    assert cluster_embeddings(shards, outputs[0], fit_rows=80, seed=3).unchanged


def test_all_noise_is_a_result_with_a_warning(tmp_path):
    rows = np.random.default_rng(0).normal(size=(120, 8))
    table, summary = cluster(shards_of(tmp_path, rows), tmp_path, min_cluster_size=40, fit_rows=100)
    assert (table["cluster"] == -1).all()
    assert (table["probability"] == 0).all()
    assert summary["clusters"] == 0
    assert summary["noise_share"] == 1
    assert summary["largest_sizes"] == []
    assert "noise" in summary["warning"]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1e20])
def test_a_row_that_is_not_usable_is_named(tmp_path, wrong):
    rows, _ = blobs()
    rows[130, 3] = wrong
    with pytest.raises(InputError, match=r"row 130 \('part_1:30'\) holds NaN"):
        cluster(shards_of(tmp_path, rows[:100], rows[100:]), tmp_path)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.eye(4), "holds 4 rows, fewer than min_cluster_size 5"),
        (np.repeat(np.eye(4), 9, axis=0), "holds 4 distinct rows, fewer than"),
        (np.full((30, 4), 0.1), "all 30 rows are equal"),
        (np.zeros((30, 4)), "all 30 rows are equal"),
    ],
)
def test_too_few_rows_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        cluster(shards_of(tmp_path, rows), tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_cluster_size", 1),
        ("min_samples", 0),
        ("components", 0),
        ("fit_rows", 9),
        ("selection", "best"),
        ("backend", "faster"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, option, value):
    rows, _ = blobs()
    with pytest.raises(InputError, match=f"^{option} is"):
        cluster(shards_of(tmp_path, rows), tmp_path, **{option: value})
