"""Variants of the SAE beside plain TopK: what fires, their losses, and what a training leaves."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from esm_sae.analysis import compute_activations
from esm_sae.analysis.verification.activations import verify_activations
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import read_checkpoint, read_config
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, evaluate_sae, load_checkpoint, train_sae, training_run
from esm_sae.sae.activation import activate
from esm_sae.sae.loss import LossOptions, batch_loss
from esm_sae.sae.model import initialise
from esm_sae.sae.options import Plan
from esm_sae.sae.training_step import k_of_step
from esm_sae.sae.verification import verify_checkpoint, verify_metrics

B, D, L, K = 9, 5, 14, 2
BANDWIDTH = 0.4
VARIANCE = 3.5


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    first = initialise(D, L, tied=False, seed=0, threshold=0.5)
    return first._replace(
        latent_bias=jnp.asarray(generator.standard_normal(L), jnp.float32) * 0.1,
        log_threshold=jnp.asarray(generator.normal(-0.5, 0.3, L), jnp.float32),
    )


@pytest.fixture
def pre():
    return np.random.default_rng(1).standard_normal((B, L)).astype(np.float32)


def activated(weights, pre, mask=None, *, k=K, activation):
    mask = np.ones(len(pre), np.float32) if mask is None else mask
    return activate(
        weights, jnp.asarray(pre), jnp.asarray(mask), k, activation=activation, bandwidth=BANDWIDTH
    )


@pytest.mark.parametrize("real", [B, 4])
@pytest.mark.parametrize("k", [1, 3, L])
def test_batch_top_k_keeps_the_largest_of_all_real_rows(weights, pre, k, real):
    mask = (np.arange(B) < real).astype(np.float32)
    pre[real:] = 99
    found, l0 = activated(weights, pre, mask, k=k, activation="batchtopk")
    flat = pre[:real].ravel()
    kept = np.zeros(flat.size, bool)
    kept[np.argsort(-flat, kind="stable")[: k * real]] = True
    expected = np.zeros_like(pre)
    expected[:real] = np.where(kept & (flat > 0), flat, 0).reshape(real, L)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(l0, (expected > 0).sum() / real, rtol=1e-6)
    if k == 1:
        assert len({*(np.asarray(found) > 0).sum(1)[:real].tolist()}) > 1


def test_jump_relu_against_its_definition_and_its_straight_through_gradients(weights, pre):
    threshold = np.exp(np.asarray(weights.log_threshold, np.float64))
    slopes = np.random.default_rng(2).standard_normal((B, L))

    def outcome(pre, log_threshold):
        chosen = weights._replace(log_threshold=log_threshold)
        found, l0 = activated(chosen, pre, activation="jumprelu")
        return jnp.sum(found * slopes) + 7 * l0

    by_pre, by_log = jax.grad(outcome, (0, 1))(jnp.asarray(pre), weights.log_threshold)
    found, l0 = activated(weights, pre, activation="jumprelu")
    np.testing.assert_array_equal(found, np.where(pre > threshold, pre, 0))
    np.testing.assert_allclose(l0, (pre > threshold).sum() / B, rtol=1e-6)
    np.testing.assert_allclose(by_pre, np.where(pre > threshold, slopes, 0), rtol=1e-6)
    near = np.abs(pre - threshold) < BANDWIDTH / 2
    assert 0 < near.sum() < near.size
    by_threshold = (-(threshold / BANDWIDTH) * near * slopes).sum(0)
    by_threshold += (-7 / B / BANDWIDTH * near).sum(0)
    np.testing.assert_allclose(by_log, by_threshold * threshold, rtol=1e-4, atol=1e-6)


def test_padding_fires_nothing_by_thresholds(weights, pre):
    pre[3:] = 99
    mask = (np.arange(B) < 3).astype(np.float32)
    found, l0 = activated(weights, pre, mask, activation="jumprelu")
    alone, l0_alone = activated(weights, pre[:3], activation="jumprelu")
    assert not np.asarray(found[3:]).any()
    np.testing.assert_array_equal(found[:3], alone)
    assert l0 == l0_alone


def loss_of(weights, rows, options, k=K):
    mask, dead = np.ones(len(rows), np.float32), np.zeros(L, bool)
    return batch_loss(weights, rows, mask, dead, VARIANCE, k, options=options)


def test_nested_dictionaries_share_the_loss(weights):
    rows = np.random.default_rng(3).standard_normal((B, D)).astype(np.float32)
    options = LossOptions(K, aux_k=3, aux_alpha=0.0, prefixes=(3, 8))
    total, loss = loss_of(weights, rows, options)
    enc, dec, lb, pb = (np.asarray(part, np.float64) for part in weights[:4])
    shares = []
    pre = (rows - pb) @ enc.T + lb
    kept = np.zeros_like(pre)
    np.put_along_axis(kept, np.argsort(-pre, axis=1)[:, :K], 1, axis=1)
    z = np.maximum(pre, 0) * kept
    for latents in (3, 8, L):
        missed = rows - z[:, :latents] @ dec[:latents] - pb
        shares.append((missed**2).sum() / (B * VARIANCE))
    np.testing.assert_allclose(total, np.mean(shares), rtol=1e-5)
    np.testing.assert_allclose(loss.squared_errors.sum() / (B * VARIANCE), shares[-1], rtol=1e-5)


def test_jump_relu_is_held_at_k(weights):
    rows = np.random.default_rng(3).standard_normal((B, D)).astype(np.float32)
    options = LossOptions(
        K, aux_k=3, aux_alpha=0.0, activation="jumprelu", bandwidth=BANDWIDTH, l0_weight=0.25
    )
    total, loss = loss_of(weights, rows, options)
    fvu = loss.squared_errors.sum() / (B * VARIANCE)
    np.testing.assert_allclose(total - fvu, 0.25 * (loss.l0 / K - 1) ** 2, rtol=1e-4)


def test_k_falls_to_its_end_and_stays_there():
    plan = Plan(8, 4, 10, 1e-3, 2)
    options = TrainOptions(64, 8, k_start=6, k_anneal=0.5)
    ks = [k_of_step(step, options, plan) for step in range(plan.steps)]
    assert ks[:3] == [48, 46, 44]
    assert ks[20:] == [8] * 20
    assert ks == sorted(ks, reverse=True)
    assert {k_of_step(step, TrainOptions(64, 8), plan) for step in range(40)} == {8}


OPTIONS = TrainOptions(32, 3, batch_size=32, num_epochs=12, learning_rate=1e-2)
VARIANTS = {
    "batchtopk": replace(OPTIONS, activation="batchtopk"),
    "jumprelu": replace(OPTIONS, activation="jumprelu"),
    "matryoshka": replace(OPTIONS, prefixes=(4, 12)),
    "annealed": replace(OPTIONS, k_start=4),
}


@pytest.fixture
def shards(make_shards):
    return open_shards(make_shards(proteins=900, width=12)[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_learns_and_its_checkpoint_says_what_it_is(shards, tmp_path, variant):
    options = VARIANTS[variant]
    product = train_sae(shards, tmp_path / "L32_k3", options).product
    config = read_config(product.path)
    assert (config.activation, config.k) == (options.activation, 3)
    assert config.fvu == product.manifest.summary["validation_fvu"]
    assert product.manifest.summary["train_fvu"] < 0.75
    rows = shards.rows_at(np.arange(shards.rows))
    sae = load_checkpoint(product.path)
    values, _ = sae.encode_sparse(rows)
    l0 = (values > 0).sum(1)
    assert 1.5 < l0.mean() < 4.5
    has_threshold = options.activation != "topk"
    assert (read_checkpoint(product.path).threshold is not None) == has_threshold
    assert (l0.max() > 3) == has_threshold
    record = pl.read_parquet(product.path / "metrics.parquet")
    assert record["l0"].is_finite().all()


@pytest.mark.parametrize("variant", ["batchtopk", "jumprelu"])
def test_what_is_made_from_thresholds_passes_the_checks(shards, tmp_path, variant):
    product = train_sae(shards, tmp_path / "L32_k3", VARIANTS[variant]).product
    verify_checkpoint(product)
    measured = verify_metrics(evaluate_sae(product.path, shards, tmp_path / "metrics"))
    sae = load_checkpoint(product.path)
    found = verify_activations(compute_activations(sae, shards, tmp_path / "activations"))
    assert measured.l0_max > 3
    assert found.l0_max > 3


@pytest.mark.parametrize("k_start", [1, 4])
def test_after_a_short_training_the_threshold_is_that_of_its_end(shards, tmp_path, k_start):
    options = replace(VARIANTS["batchtopk"], num_epochs=2, k_start=k_start)
    sae = load_checkpoint(train_sae(shards, tmp_path / "L32_k3", options).product.path)
    values, _ = sae.encode_sparse(shards.rows_at(np.arange(shards.rows)))
    assert 2 < (values > 0).sum(1).mean() < 4.5


def test_general_latents_come_first_in_nested_dictionaries(shards, tmp_path):
    rows = shards.rows_at(np.arange(shards.rows))

    def missed_by_the_first(options, name):
        sae = load_checkpoint(train_sae(shards, tmp_path / name, options).product.path)
        activations = sae.encode(rows)
        activations[:, 12:] = 0
        return ((rows - sae.decode(activations)) ** 2).sum() / ((rows - rows.mean(0)) ** 2).sum()

    plain = missed_by_the_first(OPTIONS, "plain")
    assert missed_by_the_first(VARIANTS["matryoshka"], "nested") < 0.9 * plain


@pytest.mark.parametrize("variant", ["batchtopk", "jumprelu", "annealed"])
def test_a_stopped_training_of_a_variant_goes_on_to_the_same_bytes(
    shards, tmp_path, monkeypatch, variant
):
    options = replace(VARIANTS[variant], num_epochs=2)
    whole = train_sae(shards, tmp_path / "whole", options).product
    monkeypatch.setattr(training_run, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(training_run, "_STEPS_PER_ROW", 1)
    taken, original = 0, training_run.take_step

    def take_step(*arguments, **chosen):
        nonlocal taken
        taken += 1
        if taken == 30:
            raise KeyboardInterrupt
        return original(*arguments, **chosen)

    monkeypatch.setattr(training_run, "take_step", take_step)
    with pytest.raises(KeyboardInterrupt):
        train_sae(shards, tmp_path / "stopped", options)
    again = train_sae(shards, tmp_path / "stopped", options).product
    name = "checkpoint_epoch_2.npy"
    assert again.manifest.files[name] == whole.manifest.files[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "activation is relu; it must be topk or batchtopk or jumprelu"),
        ({"prefixes": (4, 4)}, "prefixes are 4, 4; they must ascend"),
        ({"prefixes": (4, 32)}, "below the 32 latents"),
        ({"prefixes": (0, 4)}, "ascend from 1"),
        ({"k_start": 0}, "k_start is 0; it must be 1 or more"),
        ({"k_start": 11}, "that multiple of k = 3 no more than the 32 latents"),
        ({"k_anneal": 1.5}, "k_anneal is 1.5"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0; it must be above 0"),
        ({"l0_weight": float("inf")}, "l0_weight is inf"),
    ],
)
def test_options_that_make_no_variant(change, message):
    with pytest.raises(InputError, match=message):
        replace(OPTIONS, **change).check()
