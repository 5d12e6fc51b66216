from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis import compute_activations
from esm_sae.analysis.latents import near_duplicates
from esm_sae.analysis.latents.clusters import cluster_latents
from esm_sae.analysis.latents.layout import latent_map
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    LATENT_MAP,
    LATENT_MAP_FIGURE,
    LATENT_MAP_SCHEMA,
    MARKED_CLUSTER_SCHEMA,
    MARKED_CLUSTERS,
    NEAR_DUPLICATE_SCHEMA,
    NEAR_DUPLICATES,
)
from esm_sae.formats.cluster_summary import SUMMARY_SCHEMA
from esm_sae.split import splits_of
from esm_sae_assets_tests.support.planted_saes import WIDTH, NumberedRows, PlantedSAE

ROWS = NumberedRows([f"P{number}" for number in range(600)])
TRAINING = splits_of(ROWS.ids, None) == "train"
# Clusters 0 and 1 of 40 and 20 proteins, 2 of 8 training proteins, 3 of 4; the others are noise.
CLUSTERS = np.full(ROWS.rows, -1)
CLUSTERS[:40], CLUSTERS[40:60] = 0, 1
CLUSTERS[np.flatnonzero(TRAINING)[-8:]] = 2
CLUSTERS[np.flatnonzero(TRAINING)[-12:-8]] = 3


def sparse_activations(count: int, seed: int, share: float = 0.2) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = generator.random((ROWS.rows, count), dtype=np.float32) + 0.5
    return np.where(generator.random(values.shape) < share, values, 0)


def write_table(path: Path, ids: list[str], clusters: np.ndarray) -> Path:
    table = pl.DataFrame({"sequence_id": ids, "cluster": clusters.astype(np.int32)})
    table.write_parquet(path)
    return path


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that encodes the rows, compares the latents and reads the tables."""

    def run(
        activations: np.ndarray, decoder: np.ndarray | None = None, **options: Any
    ) -> dict[str, Any]:
        decoder = np.eye(activations.shape[1], WIDTH) if decoder is None else decoder
        sae = PlantedSAE(activations, decoder, seed=0)
        folder = compute_activations(sae, ROWS, tmp_path / "activations").path
        table = write_table(tmp_path / "clusters.parquet", ROWS.ids, CLUSTERS)
        table = options.pop("table", table)
        product = cluster_latents(sae, folder, table, tmp_path / "clusters", **options)
        read = {
            name: pl.read_parquet(product.path / name)
            for name in (LATENT_MAP, NEAR_DUPLICATES, MARKED_CLUSTERS)
            if (product.path / name).exists()
        }
        assert (product.path / LATENT_MAP_FIGURE).read_bytes().startswith(b"\x89PNG")
        return {**read, "summary": product.manifest.summary, "product": product}

    return run


def members_of(number: int) -> np.ndarray:
    return np.equal(CLUSTERS, number)


def f1(called: np.ndarray, members: np.ndarray) -> float:
    return 2 * (called & members).sum() / (called.sum() + members.sum())


def test_a_planted_marker_is_found_and_scored_on_held_out_proteins(
    cluster: Callable[..., dict[str, Any]],
) -> None:
    dense = sparse_activations(4, 1)
    dense[:, 2] = np.where(CLUSTERS == 1, 5, dense[:, 2])
    found = cluster(dense)
    table = found[MARKED_CLUSTERS]
    assert table.schema == pl.Schema(MARKED_CLUSTER_SCHEMA)
    row = table.row(by_predicate=pl.col("latent") == 2, named=True)
    assert (row["cluster"], row["size"], row["threshold"]) == (1, 20, 5)
    assert row["held_out"] == ((CLUSTERS == 1) & ~TRAINING).sum()
    assert found["summary"]["marking_latents_by_chance"] == 0
    assert row["train_f1"] == row["precision"] == row["recall"] == row["f1"] == 1


def test_marked_clusters_equal_a_naive_search(cluster: Callable[..., dict[str, Any]]) -> None:
    dense, generator = sparse_activations(12, 2, share=0.03), np.random.default_rng(0)
    for latent in range(8):
        # Coarse values, so that many tie.
        dense[:, latent] = np.round(
            dense[:, latent] + members_of(latent % 4) * generator.choice([0, 2], ROWS.rows), 1
        )
    found = cluster(dense)
    table = {row["latent"]: row for row in found[MARKED_CLUSTERS].iter_rows(named=True)}
    # Cluster 3 has 4 proteins in training: too few.
    expected = {}
    for latent in range(12):
        scores = {
            (number, threshold): f1(
                (dense[:, latent] >= threshold)[TRAINING], members_of(number)[TRAINING]
            )
            for number in range(3)
            for threshold in np.unique(dense[:, latent][dense[:, latent] > 0])
        }
        number, threshold = max(scores, key=lambda at: (scores[at], -at[0], at[1]))
        if scores[number, threshold] >= 0.5:
            expected[latent] = number, threshold, scores[number, threshold]
    assert 3 <= len(expected) < 12
    assert table.keys() == expected.keys()
    called_members = []
    for latent, (number, threshold, score) in expected.items():
        row = table[latent]
        assert (row["cluster"], row["threshold"]) == (number, pytest.approx(threshold))
        assert row["train_f1"] == pytest.approx(score)
        called = (dense[:, latent] >= threshold)[~TRAINING]
        members = members_of(number)[~TRAINING]
        called_members.append((called, members))
        assert row["held_out"] == members.sum()
        if members.any():
            assert row["f1"] == pytest.approx(f1(called, members))
            assert row["recall"] == pytest.approx((called & members).sum() / members.sum())
        else:
            assert row["precision"] is row["recall"] is row["f1"] is None
    true, of_called, of_members = (
        sum(int(part.sum()) for part in parts)
        for parts in zip(*((c & m, c, m) for c, m in called_members), strict=True)
    )
    summary = found["summary"]
    assert summary["pooled_held_out_f1"] == pytest.approx(2 * true / (of_called + of_members))
    assert summary["density_clusters"] == 4
    assert summary["density_clusters_tried"] == 3
    assert summary["marking_latents"] == len(expected)


def test_labels_come_from_the_summary(
    cluster: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    summary = pl.DataFrame({"cluster": [0, 1], "label": ["kinase", None]})
    columns = [
        pl.col(name) if name in summary.columns else pl.lit(None).alias(name)
        for name in SUMMARY_SCHEMA
    ]
    summary.select(columns).cast(pl.Schema(SUMMARY_SCHEMA)).write_parquet(tmp_path / "s.parquet")
    dense = np.column_stack([CLUSTERS == 0, CLUSTERS == 1, CLUSTERS == 2]).astype(np.float32)
    found = cluster(dense, cluster_summary=tmp_path / "s.parquet")[MARKED_CLUSTERS]
    assert found.select("cluster", "label").rows() == [(0, "kinase"), (1, None), (2, None)]


def test_proteins_that_are_not_clustered_count_nowhere(
    cluster: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    dense = (CLUSTERS == 0).astype(np.float32)[:, None]
    # Outside of the table the latent fires too: nothing is known of the clusters there.
    dense[100:400] = 1
    kept = np.r_[:100, 400:600]
    table = write_table(
        tmp_path / "some.parquet",
        [*(ROWS.ids[n] for n in kept), "P0", "elsewhere"],
        np.append(CLUSTERS[kept], [2, 2]),
    )
    found = cluster(dense, table=table)
    assert found[MARKED_CLUSTERS]["train_f1"].to_list() == [1]
    assert found["summary"]["proteins_not_in_cluster_table"] == 300


def test_without_clusters_there_is_no_table_of_them(
    cluster: Callable[..., dict[str, Any]],
) -> None:
    found = cluster(sparse_activations(4, 1), table=None)
    assert MARKED_CLUSTERS not in found
    assert "marking_latents" not in found["summary"]


def test_noise_alone_is_marked_by_nothing(
    cluster: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    table = write_table(tmp_path / "noise.parquet", ROWS.ids, np.full(ROWS.rows, -1))
    found = cluster(sparse_activations(4, 1), table=table)
    assert len(found[MARKED_CLUSTERS]) == 0
    assert found["summary"]["pooled_held_out_f1"] is None


def test_near_duplicates_equal_a_naive_search(cluster: Callable[..., dict[str, Any]]) -> None:
    dense = sparse_activations(9, 1)
    dense[:, 4] = 2 * dense[:, 1]
    dense[:, 7] = dense[:, 2] + 0.05 * dense[:, 3]
    dense[:, 8] = 0
    decoder = np.eye(9, WIDTH)
    decoder[5] = decoder[0] + 0.2 * decoder[1]
    decoder[8] = decoder[0]
    found = cluster(dense, decoder)[NEAR_DUPLICATES]
    assert found.schema == pl.Schema(NEAR_DUPLICATE_SCHEMA)
    rows = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    correlations = np.corrcoef(dense[:, :8].T)
    expected = [
        (one, other, float(rows[one] @ rows[other]), correlations[one, other])
        for one in range(8)
        for other in range(one + 1, 8)
        if rows[one] @ rows[other] > 0.7 or correlations[one, other] > 0.9
    ]
    assert [row[:2] for row in expected] == [(0, 5), (1, 4), (2, 7)]
    assert found.select("latent", "other").rows() == [row[:2] for row in expected]
    np.testing.assert_allclose(found["cosine"], [row[2] for row in expected], atol=1e-6)
    np.testing.assert_allclose(found["correlation"], [row[3] for row in expected], atol=1e-6)


def test_of_many_copies_ten_of_each_are_listed(cluster: Callable[..., dict[str, Any]]) -> None:
    dense = np.tile(sparse_activations(1, 1), (1, 14))
    found = cluster(dense)[NEAR_DUPLICATES]
    assert 14 * 10 / 2 <= len(found) < 14 * 13 / 2
    assert (found["latent"] < found["other"]).all()
    assert found.equals(found.unique().sort("latent", "other"))


def test_many_rows_are_sampled_in_evenly_spaced_runs(
    cluster: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "_SPANS", 3)
    monkeypatch.setattr(near_duplicates, "_SPAN_ROWS", 50)
    dense = sparse_activations(2, 1)
    dense[:, 1] = np.where(np.arange(600) % 20, dense[:, 0], dense[:, 1])
    used = np.r_[0:50, 275:325, 550:600]
    found = cluster(dense)[NEAR_DUPLICATES]
    assert found["correlation"].to_list() == [pytest.approx(np.corrcoef(dense[used].T)[0, 1])]


def test_the_map_has_the_live_latents_and_the_planted_groups() -> None:
    generator = np.random.default_rng(0)
    centres = np.eye(3, 64)
    groups = np.repeat([0, 1, 2], [6, 12, 9])
    rows = centres[groups] + 0.04 * generator.standard_normal((27, 64))
    rows = np.concatenate([rows, generator.standard_normal((40, 64))])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    latents = np.arange(67) * 2
    table = latent_map(latents, rows.astype(np.float32), min_cluster_size=5, seed=0)
    assert table.schema == pl.Schema(LATENT_MAP_SCHEMA)
    assert table["latent"].to_list() == latents.tolist()
    # The largest is 0.
    assert table["cluster"][:27].to_list() == np.array([2, 0, 1])[groups].tolist()
    # The tree gives a cluster what is nearest to it, too, but says how weakly that belongs.
    assert (table["probability"][:27] > 0.6).all()
    assert (table["probability"][27:] < 0.6).all()
    assert (table.filter(pl.col("cluster") == -1)["probability"] == 0).all()
    places = table.select("x", "y").to_numpy()
    spread = max(places[:27][groups == g].std(axis=0).max() for g in range(3))
    middles = np.array([places[:27][groups == g].mean(axis=0) for g in range(3)])
    nearest = min(np.linalg.norm(middles[i] - middles[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert nearest > 3 * spread
    again = latent_map(latents, rows.astype(np.float32), min_cluster_size=5, seed=0)
    assert again.equals(table)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8])
def test_few_latents_are_laid_out_too(count: int) -> None:
    rows = np.eye(8, dtype=np.float32)[:count]
    table = latent_map(np.arange(count), rows, min_cluster_size=5, seed=0)
    assert len(table) == count
    assert table.select("x", "y").to_numpy().shape == (count, 2)
    assert np.isfinite(table.select("x", "y").to_numpy()).all()


def test_latents_of_one_direction_are_one_cluster() -> None:
    rows = np.tile(np.eye(1, 8, dtype=np.float32), (12, 1))
    table = latent_map(np.arange(12), rows, min_cluster_size=5, seed=0)
    assert np.isfinite(table.select("x", "y").to_numpy()).all()


def test_silent_latents_are_on_no_map(cluster: Callable[..., dict[str, Any]]) -> None:
    dense = sparse_activations(12, 1)
    dense[:, 3] = 0
    dense[9:, 7] = 0
    found = cluster(dense)
    assert set(found[LATENT_MAP]["latent"]) == set(range(12)) - {3, 7}
    summary = found["summary"]
    assert summary["live_latents"] == 10
    assert summary["silent_latents"] == 1
    assert summary["rarely_firing_latents"] == 1


def test_all_latents_may_be_silent(cluster: Callable[..., dict[str, Any]]) -> None:
    found = cluster(np.zeros((ROWS.rows, 4)))
    assert all(len(found[name]) == 0 for name in (LATENT_MAP, NEAR_DUPLICATES, MARKED_CLUSTERS))
    assert found["summary"]["silent_latents"] == 4


def test_a_rerun_is_unchanged(cluster: Callable[..., dict[str, Any]]) -> None:
    dense = sparse_activations(12, 1)
    first = cluster(dense)["product"]
    again = cluster(dense)["product"]
    assert again.unchanged
    assert not cluster(dense, min_cluster_size=4)["product"].unchanged
    assert first.manifest.files == again.manifest.files


def test_activations_of_another_sae_are_refused(tmp_path: Path) -> None:
    one = PlantedSAE(sparse_activations(3, 1), np.eye(3, WIDTH), seed=0)
    other = PlantedSAE(sparse_activations(3, 1), np.eye(3, WIDTH), seed=1)
    folder = compute_activations(one, ROWS, tmp_path / "activations").path
    with pytest.raises(InputError, match="activations of another SAE"):
        cluster_latents(other, folder, None, tmp_path / "clusters")
    with pytest.raises(InputError, match="no folder of activations"):
        cluster_latents(one, tmp_path / "nowhere", None, tmp_path / "clusters")
    with pytest.raises(InputError, match="min_cluster_size is 1"):
        cluster_latents(one, folder, None, tmp_path / "clusters", min_cluster_size=1)


def test_tables_that_are_none_of_these_proteins_are_refused(
    cluster: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    dense = sparse_activations(3, 1)
    foreign = write_table(tmp_path / "foreign.parquet", ["X"], np.zeros(1))
    with pytest.raises(InputError, match=r"foreign\.parquet: none of its proteins"):
        cluster(dense, table=foreign)
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(InputError, match=r"text\.parquet: not a table of clusters"):
        cluster(dense, table=tmp_path / "text.parquet")
    pl.DataFrame({"sequence_id": ["P1"]}).write_parquet(tmp_path / "less.parquet")
    with pytest.raises(InputError, match=r"less\.parquet: not a table of clusters"):
        cluster(dense, table=tmp_path / "less.parquet")
