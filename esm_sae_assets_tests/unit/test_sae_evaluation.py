"""The figures of an evaluation against NumPy, and the comparison over k."""

import json
import math

import numpy as np
import polars as pl
import pytest

from esm_sae.errors import InputError
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, compare_saes, evaluate_sae, load_checkpoint, train_sae
from esm_sae.sae.plots import plot_training
from esm_sae.sae.rows import SplitChoice, split_rows
from esm_sae.split import split_of

OPTIONS = {"batch_size": 64, "num_epochs": 2, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two SAEs, of k 2 and 4, and the shards they were trained on."""
    folder = tmp_path_factory.mktemp("evaluation")
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((300, 8)) * np.array([9, 5, 3, 2, 1, 1, 1, 1]) + 20
    (folder / "rows").mkdir()
    np.save(folder / "rows" / "rows.npy", rows.astype(np.float32))
    with pytest.warns(UserWarning, match="are unknown"):
        shards = open_shards(folder / "rows")
    for k in (2, 4):
        train_sae(shards, folder / f"L16_k{k}", TrainOptions(16, k, **OPTIONS))
        evaluate_sae(folder / f"L16_k{k}", shards, folder / f"L16_k{k}" / "metrics")
    return folder, shards


def test_the_figures_against_numpy(trained):
    folder, shards = trained
    metrics = json.loads((folder / "L16_k2" / "metrics" / "metrics.json").read_text())
    rows = split_rows(shards, SplitChoice(None, 0))
    train, test = (shards.rows_at(part).astype(np.float64) for part in (rows.train, rows.test))
    sae = load_checkpoint(folder / "L16_k2")
    activations = sae.encode(test)
    again = sae.decode(activations)
    mu = train.mean(0)
    spread = ((train - mu) ** 2).sum(1).mean()
    fvu = ((test - again) ** 2).sum() / (len(test) * spread)
    np.testing.assert_allclose(metrics["fvu"], fvu, rtol=1e-4)
    np.testing.assert_allclose(metrics["explained_variance"], 1 - fvu, rtol=1e-4)
    np.testing.assert_allclose(metrics["mean_squared_error"], ((test - again) ** 2).mean(), 1e-4)
    for name, centre in (("cosine", 0), ("centred_cosine", mu)):
        a, b = test - centre, again - centre
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(metrics[name], cosines.mean(), rtol=1e-4)
    l0 = (activations > 0).sum(1)
    np.testing.assert_allclose(metrics["l0_mean"], l0.mean())
    assert metrics["l0_histogram"] == np.bincount(l0, minlength=3).tolist()
    unfired = ~(activations > 0).any(0)
    np.testing.assert_allclose(metrics["unfired_share"], unfired.mean())
    expected = math.exp(-2 * len(test) / 16)
    np.testing.assert_allclose(metrics["unfired_share_expected"], expected)
    _, _, components = np.linalg.svd(train - mu, full_matrices=False)
    projected = (test - mu) @ components[:2].T @ components[:2]
    pca = ((test - mu - projected) ** 2).sum() / (len(test) * spread)
    np.testing.assert_allclose(metrics["pca_fvu"], pca, rtol=1e-6)


def test_the_table_of_latents(trained):
    folder, shards = trained
    table = pl.read_parquet(folder / "L16_k4" / "metrics" / "latents.parquet")
    test = shards.rows_at(split_rows(shards, SplitChoice(None, 0)).test)
    activations = load_checkpoint(folder / "L16_k4").encode(test)
    fires = activations > 0
    np.testing.assert_array_equal(table["latent"], np.arange(16))
    np.testing.assert_allclose(table["density"], fires.mean(0))
    means = activations.sum(0) / np.maximum(fires.sum(0), 1)
    np.testing.assert_allclose(table["mean_activation"], means, rtol=1e-5)
    np.testing.assert_allclose(table["max_activation"], activations.max(0), rtol=1e-5)
    np.testing.assert_allclose(table["decoder_norm"], 1, rtol=1e-5)


def test_an_evaluation_is_found_again_and_has_its_plots(trained):
    folder, shards = trained
    metrics = folder / "L16_k2" / "metrics"
    assert evaluate_sae(folder / "L16_k2", shards, metrics).unchanged
    for name in ("training_curves.png", "firing_density.png", "l0_histogram.png"):
        assert (metrics / name).read_bytes().startswith(b"\x89PNG")


def test_another_split_than_the_trainings_is_refused(trained, tmp_path):
    folder, shards = trained
    with pytest.raises(InputError, match="was trained with another split"):
        evaluate_sae(folder / "L16_k2", shards, tmp_path / "metrics", split_seed=1)
    assert not (tmp_path / "metrics").exists()


def test_embeddings_of_another_width_are_refused(trained, make_shards, tmp_path):
    folder, _ = trained
    other, _ = make_shards(width=9)
    with pytest.raises(InputError, match="rows are 9 wide, the checkpoint reads rows 8 wide"):
        evaluate_sae(folder / "L16_k2", open_shards(other), tmp_path / "metrics")


def test_nothing_held_out_is_an_error(trained, write_shards, tmp_path):
    folder, _ = trained
    generator = np.random.default_rng(0)
    name = next(f"P{n}" for n in range(99) if split_of(f"P{n}") == "train")
    content = [(name, generator.standard_normal((1, 8))) for _ in range(5)]
    shards = open_shards(write_shards(tmp_path / "few", content))
    with pytest.raises(InputError, match="none of its proteins falls into the test split"):
        evaluate_sae(folder / "L16_k2", shards, tmp_path / "metrics")


def test_the_comparison_has_a_row_per_k_and_says_where_pca_is_better(trained, tmp_path):
    folder, _ = trained
    metrics = {k: folder / f"L16_k{k}" / "metrics" for k in (4, 2)}
    product = compare_saes(metrics, tmp_path / "comparison")
    table = pl.read_parquet(tmp_path / "comparison" / "comparison.parquet")
    assert table["k"].to_list() == [2, 4]
    better = [k for k, fvu, pca in table.select("k", "fvu", "pca_fvu").iter_rows() if pca < fvu]
    assert product.manifest.summary["pca_is_better_at_k"] == better
    assert (tmp_path / "comparison" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert compare_saes(metrics, tmp_path / "comparison").unchanged


def test_metrics_of_another_k_are_refused(trained, tmp_path):
    folder, _ = trained
    with pytest.raises(InputError, match="holds the metrics of k = 4, expected k = 2"):
        compare_saes({2: folder / "L16_k4" / "metrics"}, tmp_path / "comparison")
    with pytest.raises(InputError, match="no metrics to compare"):
        compare_saes({}, tmp_path / "comparison")


def test_training_curves_without_validation_rows():
    log = pl.DataFrame(
        {
            "step": [1, 2],
            "loss": [1.0, 0.5],
            "train_fvu": [None, 0.4],
            "validation_fvu": [None, None],
        },
        schema_overrides={"validation_fvu": pl.Float64},
    )
    labels = [text.get_text() for text in plot_training(log).axes[0].get_legend().get_texts()]
    assert labels == ["loss, by step", "FVU, training rows"]
