"""Encoding and decoding with a loaded checkpoint, against NumPy."""

from dataclasses import replace

import numpy as np
import pytest

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig, read_checkpoint, write_checkpoint, write_config
from esm_sae.formats.shards import open_shards
from esm_sae.sae import load_checkpoint

D, L, K = 6, 12, 3


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    shapes = {
        "encoder": (D, L),
        "decoder": (L, D),
        "latent_bias": (L,),
        "pre_bias": (D,),
    }
    return {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


@pytest.fixture
def folder(tmp_path, weights):
    path = tmp_path / f"L{L}_k{K}"
    path.mkdir()
    write_checkpoint(path / "checkpoint_epoch_1.npy", **weights)
    config = SAEConfig(
        D,
        L,
        K,
        encoder="esmc_test",
        weights_sha256="0" * 64,
        layer=3,
        pooling="mean",
        final_checkpoint="checkpoint_epoch_1.npy",
    )
    write_config(path, config)
    return path


def naive(weights, rows):
    pre = (rows - weights["pre_bias"]) @ weights["encoder"] + weights["latent_bias"]
    out = np.zeros_like(pre)
    for row, values in zip(out, pre, strict=True):
        chosen = np.argsort(-values)[:K]
        row[chosen] = np.maximum(values[chosen], 0)
    return out


# Around the sizes that blocks are padded to.
@pytest.mark.parametrize("count", [0, 1, 5, 4096, 4099])
def test_encode_sparse_encode_and_decode_agree_with_numpy(folder, weights, count):
    rows = np.random.default_rng(count).standard_normal((count, D)).astype(np.float32)
    expected = naive(weights, rows)
    sae = load_checkpoint(folder)
    values, latents = sae.encode_sparse(rows)
    assert (values.shape, latents.shape) == ((count, K), (count, K))
    assert (values.dtype, latents.dtype) == (np.float32, np.int32)
    assert (np.diff(values, axis=1) <= 0).all()
    dense = sae.encode(rows)
    assert (dense.shape, dense.dtype) == ((count, L), np.float32)
    np.testing.assert_allclose(dense, expected, rtol=1e-4, atol=1e-5)
    for row in range(min(count, 50)):
        assert len(set(latents[row])) == K
        np.testing.assert_array_equal(dense[row, latents[row]], values[row])
    x_hat = expected @ weights["decoder"] + weights["pre_bias"]
    np.testing.assert_allclose(sae.decode(dense), x_hat, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sae.reconstruct(rows), x_hat, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["encoder", "decoder", "latent_bias", "pre_bias", "threshold"])
def test_the_fingerprint_is_of_every_weight(folder, name):
    checkpoint = read_checkpoint(folder)
    old = getattr(checkpoint, name)
    new = np.ones(L, np.float32) if old is None else np.nextafter(old, np.float32(9))
    assert replace(checkpoint, **{name: new}).fingerprint != checkpoint.fingerprint


def test_the_fingerprint_is_of_k_and_z_score_but_not_of_what_encodes_alike(folder):
    checkpoint = read_checkpoint(folder)

    def with_config(**change):
        return replace(checkpoint, config=replace(checkpoint.config, **change)).fingerprint

    changes = [{"k": K - 1}, {"normalize": True}, {"normalize": True, "normalize_ddof": 1}]
    assert len({checkpoint.fingerprint, *(with_config(**change) for change in changes)}) == 4
    assert with_config(project="another", final_checkpoint="") == checkpoint.fingerprint
    assert load_checkpoint(folder).fingerprint == checkpoint.fingerprint


@pytest.mark.parametrize("content", ["", "{}", '{"kind": "of another tool"}'])
def test_a_manifest_of_another_tool_records_nothing(folder, content):
    (folder / "manifest.json").write_text(content)
    assert load_checkpoint(folder).config.k == K


def test_an_imported_decoder_keeps_the_length_of_its_rows(folder, weights):
    sae = load_checkpoint(folder)
    np.testing.assert_allclose(
        sae.decoder_norms, np.linalg.norm(weights["decoder"], axis=1), rtol=1e-6
    )
    one_latent = np.eye(L, dtype=np.float32)[:1]
    np.testing.assert_allclose(
        sae.decode(one_latent)[0], weights["decoder"][0] + weights["pre_bias"], rtol=1e-5
    )


@pytest.mark.parametrize("ddof", [0, 1])
def test_rows_are_z_scored_where_the_training_did(folder, weights, ddof):
    rows = np.random.default_rng(1).standard_normal((20, D)).astype(np.float32) * 5 + 3
    write_config(folder, SAEConfig(D, L, K, normalize=True, normalize_ddof=ddof))
    mean, spread = rows.mean(1, keepdims=True), rows.std(1, keepdims=True, ddof=ddof) + 1e-5
    expected = naive(weights, (rows - mean) / spread)
    sae = load_checkpoint(folder)
    np.testing.assert_allclose(sae.encode(rows), expected, rtol=1e-3, atol=1e-4)
    x_hat = (expected @ weights["decoder"] + weights["pre_bias"]) * spread + mean
    np.testing.assert_allclose(sae.reconstruct(rows), x_hat, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu"])
@pytest.mark.parametrize("count", [0, 5, 4099])
def test_with_thresholds_what_exceeds_them_fires(tmp_path, weights, activation, count):
    generator = np.random.default_rng(count)
    threshold = generator.uniform(0.5, 3, L).astype(np.float32)
    # The first block of rows has few that fire, so that the blocks differ in width.
    scale = np.where(np.arange(count) < 4096, 0.3, 2)[:, None]
    rows = (scale * generator.standard_normal((count, D))).astype(np.float32)
    write_config(tmp_path, SAEConfig(D, L, K, activation=activation))
    write_checkpoint(tmp_path / "checkpoint_epoch_1.npy", **weights, threshold=threshold)
    sae = load_checkpoint(tmp_path)
    pre = (rows - weights["pre_bias"]) @ weights["encoder"] + weights["latent_bias"]
    expected = np.where(pre > threshold, pre, 0)
    np.testing.assert_allclose(sae.encode(rows), expected, rtol=1e-4, atol=1e-5)
    values, latents, again = sae.encode_and_reconstruct(rows)
    np.testing.assert_array_equal((values > 0).sum(1), (expected > 0).sum(1))
    assert values.shape == latents.shape
    assert (np.diff(values, axis=1) <= 0).all()
    x_hat = expected @ weights["decoder"] + weights["pre_bias"]
    np.testing.assert_allclose(again, x_hat, rtol=1e-4, atol=1e-4)


def test_rows_of_another_width_are_refused(folder):
    sae = load_checkpoint(folder)
    for wrong in (np.zeros((3, D + 1)), np.zeros(D)):
        with pytest.raises(InputError, match=rf"takes embeddings of shape \(N, {D}\)"):
            sae.encode(wrong)
    with pytest.raises(InputError, match=rf"takes activations of shape \(N, {L}\)"):
        sae.decode(np.zeros((3, D)))


def test_what_a_bare_checkpoint_does_not_tell_is_warned_of(tmp_path, weights):
    path = tmp_path / "other" / "weights.npy"
    write_checkpoint(path, **weights)
    with pytest.warns(UserWarning, match=r"does not tell encoder, layer and pooling or whether"):
        sae = load_checkpoint(path, k=K)
    assert sae.config.k == K
    with pytest.raises(InputError, match="nothing tells k"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 8}, "rows are 8 wide, the checkpoint reads rows 6 wide"),
        ({"encoder": "esmc_300m"}, r"differ in encoder \(esmc_300m and esmc_test\)"),
        ({"pooling": "residue"}, r"differ in pooling \(residue and mean\)"),
    ],
    ids=str,
)
def test_shards_that_do_not_fit_are_refused(folder, make_shards, change, message):
    made, _ = make_shards(**{"width": D} | change)
    sae = load_checkpoint(folder)
    with pytest.raises(InputError, match=message):
        sae.require_fit(open_shards(made))


def test_shards_that_fit_or_are_unknown_pass(folder, make_shards, tmp_path):
    made, matrix = make_shards(width=D)
    sae = load_checkpoint(folder)
    sae.require_fit(open_shards(made))
    bare = tmp_path / "bare"
    bare.mkdir()
    np.save(bare / "rows.npy", matrix)
    with pytest.warns(UserWarning, match="are unknown"):
        sae.require_fit(open_shards(bare))
