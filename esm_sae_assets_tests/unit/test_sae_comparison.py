"""The comparison over k."""

import json

import numpy as np
import polars as pl
import pytest

from esm_sae.errors import InputError
from esm_sae.formats.manifest import produce_folder
from esm_sae.sae import compare_saes
from esm_sae.sae.plots import plot_comparison

FIGURES = {
    "project": "runs",
    "latent_dim": 16,
    "encoder": "esmc_test, layer 3, mean rows",
    "test_rows": 30,
    "random_dictionary_fvu": 0.8,
    "untrained_fvu": None,
    "untrained_l0_mean": None,
    "explained_variance": 0.9,
    "fvu_standardised": 0.2,
    "cosine": 0.9,
    "centred_cosine": 0.9,
    "mean_squared_error": 1.0,
    "l0_mean": 2.0,
    "dead_share": 0.25,
    "unfired_share": 0.5,
    "unfired_share_expected": 0.01,
    "max_decoder_cosine_median": 0.3,
    "initial_cosine_median": None,
    "train_fvu": 0.1,
    "validation_fvu": None,
}


@pytest.fixture
def metrics(tmp_path):
    """Return a function that makes the metrics folder of a k and returns its path."""

    def make(k, *, fvu=0.1, pca_fvu=0.2, embeddings="e", split=None, leave_out=(), **figures):
        content = FIGURES | {"k": k, "fvu": fvu, "pca_fvu": pca_fvu} | figures
        for name in leave_out:
            del content[name]

        def build(work):
            (work / "metrics.json").write_text(json.dumps(content))
            return {}

        determinants = {"k": k, "embeddings": embeddings, "split": split or {"seed": 0}}
        folder = tmp_path / f"metrics{k}"
        return produce_folder(
            folder, kind="sae_metrics", determinants=determinants, build=build
        ).path

    return make


def test_a_row_per_k_in_order_and_where_pca_is_better(metrics, tmp_path):
    folders = {4: metrics(4, fvu=0.3), 2: metrics(2)}
    product = compare_saes(folders, tmp_path / "comparison")
    table = pl.read_parquet(tmp_path / "comparison" / "comparison.parquet")
    assert pl.read_parquet_metadata(product.path / "comparison.parquet")["project"] == "runs"
    assert table["k"].to_list() == [2, 4]
    assert table["fvu"].to_list() == [0.1, 0.3]
    assert table["untrained_fvu"].to_list() == [None, None]
    assert table["random_dictionary_fvu"].to_list() == [0.8, 0.8]
    assert product.manifest.summary["pca_is_better_at_k"] == [4]
    assert product.manifest.summary["unfired_share"] == [0.5, 0.5]
    assert (tmp_path / "comparison" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert compare_saes(folders, tmp_path / "comparison").unchanged


def test_metrics_of_another_k_are_refused(metrics, tmp_path):
    with pytest.raises(InputError, match="holds the metrics of k = 4, expected k = 2"):
        compare_saes({2: metrics(4)}, tmp_path / "comparison")
    with pytest.raises(InputError, match="no metrics to compare"):
        compare_saes({}, tmp_path / "comparison")


@pytest.mark.parametrize("other", [{"embeddings": "f"}, {"split": {"seed": 1}}])
def test_metrics_on_other_rows_are_refused(metrics, tmp_path, other):
    (name,) = other
    with pytest.raises(InputError, match=f"metrics2 and .*metrics4 were .* different {name}"):
        compare_saes({2: metrics(2), 4: metrics(4, **other)}, tmp_path / "comparison")


def test_metrics_of_an_older_version_are_refused(metrics, tmp_path):
    folder = metrics(2, leave_out=["fvu_standardised"])
    with pytest.raises(InputError, match="without fvu_standardised; evaluate again"):
        compare_saes({2: folder}, tmp_path / "comparison")


def test_an_incomplete_folder_is_refused(metrics, tmp_path):
    folder = metrics(2)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"metrics2: incomplete, it has no manifest.json"):
        compare_saes({2: folder}, tmp_path / "comparison")


def test_the_plot_shows_the_baselines_that_there_are():
    table = pl.DataFrame([FIGURES | {"k": k, "fvu": 0.1, "pca_fvu": 0.2} for k in (2, 4)])
    alone, silent = plot_comparison(table).axes
    labels = [text.get_text() for text in alone.get_legend().get_texts()]
    assert labels == ["SAE", "PCA, k components", "random dictionary, k of L"]
    assert [line.get_ydata().tolist() for line in silent.lines] == [[25, 25], [50, 50], [1, 1]]
    known = table.with_columns(untrained_fvu=0.5, untrained_l0_mean=1.5)
    beside = plot_comparison(known).axes[0]
    line = next(line for line in beside.lines if "untrained" in str(line.get_label()))
    np.testing.assert_array_equal(line.get_xydata(), [[1.5, 0.5], [1.5, 0.5]])
