"""The figures of an evaluation against NumPy."""

import contextlib
import json
import math
import warnings

import numpy as np
import polars as pl
import pytest

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig, write_config
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, evaluate_sae, fidelity, held_out, load_checkpoint, train_sae
from esm_sae.sae.model import initial_directions
from esm_sae.sae.plots import plot_training
from esm_sae.sae.rows import SplitChoice, split_rows
from esm_sae.sae.scaling import measure_rows
from esm_sae.split import split_of

OPTIONS = {"batch_size": 64, "num_epochs": 2, "learning_rate": 1e-2}


def bare_shards(folder, seed):
    """Return 300 rows of 8 dimensions, of which one is constant."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((300, 8)) * np.array([9, 5, 3, 2, 1, 1, 0, 1]) + 20
    folder.mkdir(parents=True)
    np.save(folder / "rows.npy", rows.astype(np.float32))
    with pytest.warns(UserWarning, match="are unknown"):
        return open_shards(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two SAEs, of k = 2 and of k = 4 with z-scored rows, and the shards they were trained on."""
    folder = tmp_path_factory.mktemp("evaluation")
    shards = bare_shards(folder / "rows", 0)
    for k in (2, 4):
        options = TrainOptions(16, k, seed=3, normalize=k == 4, **OPTIONS)
        train_sae(shards, folder / f"k{k}", options)
        evaluate_sae(folder / f"k{k}", shards, folder / f"k{k}" / "metrics")
    return folder, shards


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """An SAE of k 2 on other rows, and these."""
    folder = tmp_path_factory.mktemp("untrained")
    shards = bare_shards(folder / "rows", 1)
    train_sae(shards, folder / "k2", TrainOptions(16, 2, **OPTIONS))
    return folder / "k2", shards


@pytest.fixture
def residues(write_shards, tmp_path):
    """Residue rows of 120 proteins of two species, in three shards."""
    generator = np.random.default_rng(0)
    proteins = [
        (f"P{n} protein OS=Species {n % 2}", generator.standard_normal((4 + n % 60, 6)) + n % 2)
        for n in range(120)
    ]
    return open_shards(write_shards(tmp_path / "rows", proteins, count=3, pooling="residue"))


def random_weights(latent_dim=16, width=6):
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((latent_dim, width)).astype(np.float32)
    return {
        "enc": {"kernel": rows.T},
        "dec": {"kernel": rows},
        "lb_L": np.zeros(latent_dim, np.float32),
        "pb_D": np.zeros(width, np.float32),
    }


def foreign(folder, weights):
    """Write a checkpoint of k = 2 of which nothing more is known; return its folder."""
    path = folder / "L16_k2"
    path.mkdir()
    np.save(path / "checkpoint_epoch_2.npy", np.array(weights, dtype=object), allow_pickle=True)
    return path


@contextlib.contextmanager
def unknown_training():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*does not tell")
        # The weights are random.
        warnings.filterwarnings("ignore", ".*rows unexplained")
        yield


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("k", [2, 4])
def test_the_figures_against_numpy(trained, k):
    folder, shards = trained
    metrics = metrics_of(folder / f"k{k}" / "metrics")
    rows = split_rows(shards, SplitChoice(None, 0))
    train, test = (
        shards.rows_at(part.at(np.arange(len(part)))).astype(np.float64)
        for part in (rows.train, rows.test)
    )
    sae = load_checkpoint(folder / f"k{k}")
    activations = sae.encode(test)
    again = sae.decode(activations)
    if sae.config.normalize:
        again = again * (test.std(1, keepdims=True) + 1e-5) + test.mean(1, keepdims=True)
    mu = train.mean(0)
    spread = ((train - mu) ** 2).sum(1).mean()
    fvu = ((test - again) ** 2).sum() / (len(test) * spread)
    assert metrics["test_rows"] == len(test)
    np.testing.assert_allclose(metrics["fvu"], fvu, rtol=1e-4)
    np.testing.assert_allclose(metrics["explained_variance"], 1 - fvu, rtol=1e-4)
    np.testing.assert_allclose(metrics["mean_squared_error"], ((test - again) ** 2).mean(), 1e-4)
    for cosine, centre in (("cosine", 0), ("centred_cosine", mu)):
        a, b = test - centre, again - centre
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(metrics[cosine], cosines.mean(), rtol=1e-4)
    l0 = (activations > 0).sum(1)
    np.testing.assert_allclose(metrics["l0_mean"], l0.mean())
    assert metrics["l0_histogram"] == np.bincount(l0, minlength=k + 1).tolist()
    unfired = ~(activations > 0).any(0)
    np.testing.assert_allclose(metrics["unfired_share"], unfired.mean())
    expected = math.exp(-k * len(test) / 16)
    np.testing.assert_allclose(metrics["unfired_share_expected"], expected)
    _, _, components = np.linalg.svd(train - mu, full_matrices=False)
    projected = (test - mu) @ components[:k].T @ components[:k]
    pca = ((test - mu - projected) ** 2).sum() / (len(test) * spread)
    np.testing.assert_allclose(metrics["pca_fvu"], pca, rtol=1e-6)
    assert metrics["fvu"] < metrics["random_dictionary_fvu"] < 1


def test_the_standardised_fvu_leaves_out_what_does_not_vary(trained):
    folder, shards = trained
    metrics = metrics_of(folder / "k2" / "metrics")
    rows = split_rows(shards, SplitChoice(None, 0))
    train, test = (
        shards.rows_at(part.at(np.arange(len(part)))).astype(np.float64)
        for part in (rows.train, rows.test)
    )
    again = load_checkpoint(folder / "k2").reconstruct(test)
    deviation = np.where(np.arange(8) == 6, np.inf, train.std(0))
    errors = (((test - again) / deviation) ** 2).sum(1).mean()
    spread = (((train - train.mean(0)) / deviation) ** 2).sum(1).mean()
    np.testing.assert_allclose(metrics["fvu_standardised"], errors / spread, rtol=1e-4)
    assert metrics["constant_dimensions"] == 1
    shares = np.sort(train.var(0))[::-1].cumsum() / train.var(0).sum()
    for count in (1, 5, 10):
        share = metrics[f"variance_share_of_top_{count}"]
        np.testing.assert_allclose(share, shares[min(count, 8) - 1], rtol=1e-6)


def test_the_table_of_latents(trained):
    folder, shards = trained
    table = pl.read_parquet(folder / "k4" / "metrics" / "latents.parquet")
    rows = split_rows(shards, SplitChoice(None, 0)).test
    sae = load_checkpoint(folder / "k4")
    activations = sae.encode(shards.rows_at(rows.at(np.arange(len(rows)))))
    fires = activations > 0
    np.testing.assert_array_equal(table["latent"], np.arange(16))
    np.testing.assert_allclose(table["density"], fires.mean(0))
    means = activations.sum(0) / np.maximum(fires.sum(0), 1)
    np.testing.assert_allclose(table["mean_activation"], means, rtol=1e-5)
    np.testing.assert_allclose(table["max_activation"], activations.max(0), rtol=1e-5)
    np.testing.assert_allclose(table["decoder_norm"], 1, rtol=1e-5)
    decoder = np.load(folder / "k4" / "checkpoint_epoch_2.npy", allow_pickle=True).item()["dec"]
    cosines = decoder["kernel"] @ decoder["kernel"].T
    np.fill_diagonal(cosines, -1)
    largest = cosines[:, fires.any(0)].max(1)
    np.testing.assert_allclose(table["max_decoder_cosine"], largest, rtol=1e-4)
    first = (decoder["kernel"] * initial_directions(8, 16, seed=3)).sum(1)
    np.testing.assert_allclose(table["initial_cosine"], first, rtol=1e-4)
    metrics = metrics_of(folder / "k4" / "metrics")
    for name, values in (("max_decoder_cosine", largest), ("initial_cosine", first)):
        median = np.median(values[fires.any(0)])
        np.testing.assert_allclose(metrics[f"{name}_median"], median, rtol=1e-4)


def test_dead_and_unfired_are_two_figures(trained):
    folder, _ = trained
    summary = json.loads((folder / "k2" / "manifest.json").read_text())["summary"]
    metrics = metrics_of(folder / "k2" / "metrics")
    for name in ("dead_share", "train_fvu", "validation_fvu"):
        assert metrics[name] == summary[name]
    density = pl.read_parquet(folder / "k2" / "metrics" / "latents.parquet")["density"]
    assert metrics["unfired_share"] == (density == 0).mean()


def test_an_evaluation_is_found_again_and_has_its_plots(trained, tmp_path):
    folder, shards = trained
    metrics = folder / "k2" / "metrics"
    assert evaluate_sae(folder / "k2", shards, metrics).unchanged
    plots = {path.stem for path in metrics.glob("*.png")}
    assert plots == {"decoder_cosines", "firing_density", "l0_histogram", "training_curves"}
    for path in metrics.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    evaluate_sae(folder / "k2", shards, tmp_path / "again")
    for path in metrics.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_the_test_rows_are_read_once_in_blocks_that_change_nothing(trained, tmp_path, monkeypatch):
    folder, shards = trained
    read = []
    original = held_out.read_rows
    monkeypatch.setattr(
        held_out, "read_rows", lambda s, rows: read.append(rows) or original(s, rows)
    )
    monkeypatch.setattr(fidelity, "_MOST_ROWS", 8)
    evaluate_sae(folder / "k4", shards, tmp_path / "metrics")
    rows = split_rows(shards, SplitChoice(None, 0)).test
    np.testing.assert_array_equal(np.concatenate(read), rows.at(np.arange(len(rows))))
    assert max(map(len, read)) == 8
    small, large = metrics_of(tmp_path / "metrics"), metrics_of(folder / "k4" / "metrics")
    assert small.keys() == large.keys()
    for name, value in large.items():
        if isinstance(value, float):
            assert small[name] == pytest.approx(value, rel=1e-5), name
        else:
            assert small[name] == value


@pytest.mark.parametrize(("latent_dim", "rows"), [(1024, 4096), (8192, 4096), (131_072, 256)])
def test_blocks_are_smaller_where_latents_are_many(latent_dim, rows):
    assert fidelity.rows_per_block(latent_dim) == rows


def test_the_fvu_of_rows_in_memory(trained, monkeypatch):
    folder, shards = trained
    rows = split_rows(shards, SplitChoice(None, 0))
    statistics = measure_rows(shards, rows.train)
    sae = load_checkpoint(folder / "k2")
    monkeypatch.setattr(fidelity, "_MOST_ROWS", 8)
    test = shards.rows_at(rows.test.at(np.arange(len(rows.test))))
    fvu = fidelity.share_unexplained(sae, test, statistics)
    assert metrics_of(folder / "k2" / "metrics")["fvu"] == pytest.approx(fvu, rel=1e-6)


def test_fvu_by_taxon_and_length(residues, tmp_path):
    with unknown_training():
        evaluate_sae(foreign(tmp_path, random_weights()), residues, tmp_path / "metrics")
        sae = load_checkpoint(tmp_path / "L16_k2")
    rows = split_rows(residues, SplitChoice(None, 0))
    train, test = (part.at(np.arange(len(part))) for part in (rows.train, rows.test))
    short = pl.when(pl.col("length") <= 50).then(pl.lit("1-50")).otherwise(pl.lit("51-100"))
    index = residues.index.collect()[test].with_columns(short.alias("range"))
    raw = residues.rows_at(test)
    again = sae.reconstruct(raw)
    errors = ((raw.astype(np.float64) - again) ** 2).sum(1)
    variance = residues.rows_at(train).astype(np.float64).var(0).sum()
    table = pl.read_parquet(tmp_path / "metrics" / "subgroups.parquet")
    assert {"Species 0", "Species 1"} <= set(table["group"])
    assert "1-50" in table["group"]
    for kind, group, count, proteins, fvu, _ in table.iter_rows():
        labels = index[{"taxon": "taxon", "length": "range"}[kind]]
        members = labels.to_numpy() == group
        if group == "other":
            members = ~labels.is_in(table["group"].implode()).to_numpy()
        assert count == members.sum()
        assert proteins == index.filter(members)["sequence_id"].n_unique()
        np.testing.assert_allclose(fvu, errors[members].mean() / variance, rtol=1e-4)
    assert (tmp_path / "metrics" / "fvu_by_group.png").is_file()


def test_an_untrained_encoders_sae_stands_beside(trained, untrained, tmp_path):
    folder, shards = trained
    assert metrics_of(folder / "k2" / "metrics")["untrained_fvu"] is None
    other, others = untrained
    product = evaluate_sae(folder / "k2", shards, tmp_path / "both", untrained=(other, others))
    beside = metrics_of(tmp_path / "both")
    own = metrics_of(evaluate_sae(other, others, tmp_path / "own").path)
    assert beside["untrained_fvu"] == own["fvu"]
    assert beside["untrained_l0_mean"] == own["l0_mean"]
    assert beside["untrained_encoder"] == own["encoder"]
    alone = metrics_of(folder / "k2" / "metrics")
    assert beside | {name: None for name in alone if name.startswith("untrained")} == alone
    assert product.manifest.determinants["untrained"]["embeddings"] == others.fingerprint


def test_an_untrained_encoders_sae_must_be_a_counterpart(trained, untrained, tmp_path):
    folder, shards = trained
    output = tmp_path / "metrics"
    with pytest.raises(InputError, match=r"has L = 16 and k = 2, .* L = 16 and k = 4; train"):
        evaluate_sae(folder / "k4", shards, output, untrained=untrained)
    with pytest.raises(InputError, match="are the embeddings that the SAE itself reads"):
        evaluate_sae(folder / "k2", shards, output, untrained=(folder / "k2", shards))
    assert not output.exists()


def test_another_split_than_the_trainings_is_refused(trained, tmp_path):
    folder, shards = trained
    with pytest.raises(InputError, match="was trained with another split"):
        evaluate_sae(folder / "k2", shards, tmp_path / "metrics", split_seed=1)
    assert not (tmp_path / "metrics").exists()


def test_the_untrained_encoders_sae_must_be_of_the_same_split(trained, untrained, tmp_path):
    folder, shards = trained
    _, others = untrained
    train_sae(others, tmp_path / "k2", TrainOptions(16, 2, split_seed=1, **OPTIONS))
    with pytest.raises(InputError, match=r"k2: was trained with another split"):
        evaluate_sae(
            folder / "k2", shards, tmp_path / "metrics", untrained=(tmp_path / "k2", others)
        )


def test_embeddings_of_another_width_are_refused(trained, make_shards, tmp_path):
    folder, _ = trained
    other, _ = make_shards(width=9)
    with pytest.raises(InputError, match="rows are 9 wide, the checkpoint reads rows 8 wide"):
        evaluate_sae(folder / "k2", open_shards(other), tmp_path / "metrics")


def test_embeddings_of_another_encoder_are_refused(residues, make_shards, tmp_path):
    path = foreign(tmp_path, random_weights())
    write_config(path, SAEConfig(6, 16, 2, encoder="esmc_test", pooling="residue"))
    other, _ = make_shards(width=6, pooling="residue", encoder="esmc_other", name="others")
    with pytest.raises(InputError, match=r"differ in encoder .*esmc_other and esmc_test"):
        evaluate_sae(path, open_shards(other), tmp_path / "metrics")


def test_nothing_held_out_is_an_error(trained, write_shards, tmp_path):
    folder, _ = trained
    generator = np.random.default_rng(0)
    name = next(f"P{n}" for n in range(99) if split_of(f"P{n}") == "train")
    content = [(name, generator.standard_normal((1, 8))) for _ in range(5)]
    shards = open_shards(write_shards(tmp_path / "few", content))
    with (
        pytest.raises(InputError, match="none of its proteins falls into the test split"),
        pytest.warns(UserWarning, match="was trained on other embeddings than .*few; test rows"),
    ):
        evaluate_sae(folder / "k2", shards, tmp_path / "metrics")


def test_a_checkpoint_of_unknown_training_is_measured_with_a_warning(trained, tmp_path):
    folder, shards = trained
    weights = np.load(folder / "k2" / "checkpoint_epoch_2.npy", allow_pickle=True).item()
    path = foreign(tmp_path, weights)
    for given in (path, path / "checkpoint_epoch_2.npy"):
        with pytest.warns(UserWarning, match="does not tell") as caught:
            evaluate_sae(given, shards, tmp_path / "metrics")
        assert any("test rows may have been trained on" in str(one.message) for one in caught)
        metrics, ours = metrics_of(tmp_path / "metrics"), metrics_of(folder / "k2" / "metrics")
        assert metrics["fvu"] == ours["fvu"]
        assert metrics["dead_share"] is None
        assert metrics["initial_cosine_median"] is None
        latents = pl.read_parquet(tmp_path / "metrics" / "latents.parquet")
        assert latents["initial_cosine"].null_count() == 16
        assert latents["max_decoder_cosine"].null_count() == 0
        assert not (tmp_path / "metrics" / "training_curves.png").exists()


def test_a_latent_that_points_nowhere_has_no_cosines(residues, tmp_path):
    weights = random_weights()
    weights["dec"]["kernel"] = weights["dec"]["kernel"] * (np.arange(16) != 3)[:, None]
    with unknown_training():
        evaluate_sae(foreign(tmp_path, weights), residues, tmp_path / "metrics")
    latents = pl.read_parquet(tmp_path / "metrics" / "latents.parquet")
    assert latents["max_decoder_cosine"].is_null().arg_true().to_list() == [3]


def test_training_curves_without_validation_rows():
    log = pl.DataFrame(
        {
            "step": [5, 10],
            "epoch": [1, 2],
            "loss": [1.0, 0.5],
            "learning_rate": [1e-3, 1e-4],
            "dead_share": [0.0, 0.25],
            "train_fvu": [None, 0.4],
            "validation_fvu": [None, None],
        },
        schema_overrides={"validation_fvu": pl.Float64},
    )
    top, middle, _ = plot_training(log).axes
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert labels == ["loss, auxiliary one included", "FVU, training rows"]
    assert top.lines[0].get_xdata().tolist() == [1, 2]
    assert middle.lines[0].get_ydata().tolist() == [0, 25]
