"""PCA and the random dictionary against NumPy."""

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest

from esm_sae.formats.checkpoint import SAEConfig, ZScore
from esm_sae.formats.shards import open_shards
from esm_sae.sae import baselines
from esm_sae.sae.baselines import PcaMeter, random_dictionaries, random_dictionary
from esm_sae.sae.model import initial_directions
from esm_sae.sae.rows import RowRuns, SplitChoice, split_rows
from esm_sae.sae.scaling import measure_rows

WIDTH = 10


@pytest.fixture
def shards(tmp_path):
    generator = np.random.default_rng(0)
    spread = np.array([9, 5, 3, 2, 1, 1, 1, 1, 0.5, 0.1])
    rows = generator.standard_normal((400, WIDTH)) @ generator.standard_normal((WIDTH, WIDTH))
    np.save(tmp_path / "rows.npy", (rows * spread + 20).astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_shards(tmp_path)


def runs(first: int, last: int) -> RowRuns:
    return RowRuns.of(np.arange(first, last))


@pytest.mark.parametrize("components", [1, 4, WIDTH, WIDTH + 3])
def test_pca_against_the_singular_vectors(shards, components):
    train, test = (shards.rows_at(part).astype(np.float64) for part in np.split(np.arange(400), 2))
    meter = PcaMeter(measure_rows(shards, runs(0, 200), covariance=True), components)
    distances = np.concatenate([meter.add(test[start : start + 30]) for start in range(0, 200, 30)])
    mu = train.mean(0)
    _, _, vectors = np.linalg.svd(train - mu, full_matrices=False)
    kept = vectors[:components]
    rest = (test - mu) - (test - mu) @ kept.T @ kept
    variance = ((train - mu) ** 2).sum(1).mean()
    np.testing.assert_allclose(meter.fvu, (rest**2).sum(1).mean() / variance, atol=1e-12)
    np.testing.assert_allclose(distances, ((test - mu) ** 2).sum(1), rtol=1e-9)


def test_pca_needs_the_covariance(shards):
    with pytest.raises(ValueError, match="covariance"):
        PcaMeter(measure_rows(shards, runs(0, 200)), 2)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_random_dictionary_against_numpy(shards, normalize):
    config = SAEConfig(width=WIDTH, latent_dim=32, k=3, normalize=normalize, seed=5)
    sae = random_dictionary(config, shards, runs(0, 300), measure_rows(shards, runs(0, 300)))
    train, test = shards.rows_at(np.arange(300)), shards.rows_at(np.arange(300, 400))
    directions = initial_directions(WIDTH, 32, seed=5).astype(np.float64)

    def reconstructed(rows, centre):
        """Return the pre-bias in raw units, and what unit decoder rows add to it."""
        rows = rows.astype(np.float64)
        mean, divisor = 0.0, 1.0
        if normalize:
            mean = rows.mean(1, keepdims=True)
            divisor = rows.std(1, keepdims=True) + ZScore().epsilon
        pre = ((rows - mean) / divisor - centre) @ directions.T
        pre[pre < np.sort(pre, axis=1)[:, [-3]]] = 0
        return centre * divisor + mean, pre.clip(min=0) @ directions * divisor

    scored = train.astype(np.float64)
    if normalize:
        scored = (scored - scored.mean(1, keepdims=True)) / (
            scored.std(1, keepdims=True) + ZScore().epsilon
        )
    centre = scored.mean(0)
    start, added = reconstructed(train, centre)
    scale = ((train - start) * added).sum() / (added**2).sum()
    start, added = reconstructed(test, centre)
    np.testing.assert_allclose(sae.reconstruct(test), start + scale * added, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(sae.decoder_norms, scale, rtol=1e-4)


def test_the_scale_is_fitted_on_a_bounded_number_of_training_rows(shards, monkeypatch):
    read = []
    original = baselines.read_rows
    monkeypatch.setattr(
        baselines, "read_rows", lambda s, rows: read.append(rows) or original(s, rows)
    )
    monkeypatch.setattr(baselines, "_MOST_ROWS_FITTED", 20)
    config = SAEConfig(width=WIDTH, latent_dim=16, k=2)
    random_dictionary(config, shards, runs(0, 300), measure_rows(shards, runs(0, 300)))
    fitted = np.concatenate(read)
    assert len(fitted) == 20
    assert (fitted.min(), fitted.max()) == (0, 299)


@pytest.mark.parametrize("normalize", [False, True])
def test_dictionaries_to_encode_with_are_those_that_the_trainings_began_with(
    shards, tmp_path, normalize
):
    config = SAEConfig(width=WIDTH, latent_dim=24, k=3, seed=5, normalize=normalize)
    zeros = np.zeros((WIDTH, 24), dtype=np.float32)
    np.save(
        tmp_path / "checkpoint_epoch_1.npy",
        {
            "enc": {"kernel": zeros},
            "dec": {"kernel": zeros.T},
            "lb_L": np.zeros(24, dtype=np.float32),
            "pb_D": np.zeros(WIDTH, dtype=np.float32),
        },
        allow_pickle=True,
    )
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)))
    (found,) = random_dictionaries({3: tmp_path / "checkpoint_epoch_1.npy"}, shards).values()
    train = split_rows(shards, SplitChoice(None, 0)).train
    expected = random_dictionary(config, shards, train, measure_rows(shards, train))
    rows = shards.rows_at(np.arange(50))
    np.testing.assert_allclose(found.encode(rows), expected.encode(rows), rtol=1e-4, atol=1e-4)
    assert found.fingerprint
