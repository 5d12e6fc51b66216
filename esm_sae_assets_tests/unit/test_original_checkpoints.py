"""Checkpoints of the original scripts, in every spelling: they encode and decode as in NumPy."""

import numpy as np
import pytest

from esm_sae.sae import load_checkpoint

D, L, K = 24, 96, 5

pytestmark = pytest.mark.filterwarnings("ignore:.*does not tell:UserWarning")


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    decoder = generator.standard_normal((L, D))
    return {
        "enc/kernel": decoder.T + 0.1 * generator.standard_normal((D, L)),
        # Rows of any length: they are not to be made unit, which would change TopK.
        "dec/kernel": decoder * generator.uniform(0.5, 2, (L, 1)),
        "lb_L": 0.3 * generator.standard_normal(L),
        "pb_D": generator.standard_normal(D) + 2,
    }


@pytest.fixture
def rows():
    return 3 * np.random.default_rng(1).standard_normal((50, D)).astype(np.float32) + 1


def nested(weights):
    tree = {"lb_L": weights["lb_L"], "pb_D": weights["pb_D"]}
    for name in ("enc", "dec"):
        if f"{name}/kernel" in weights:
            tree[name] = {"kernel": weights[f"{name}/kernel"]}
    return tree


def without_decoder(weights):
    return {name: value for name, value in weights.items() if name != "dec/kernel"}


SPELLINGS = {
    "nested": nested,
    "flat": lambda weights: dict(weights),
    "params, nested": lambda weights: {"params": nested(weights)},
    "params, flat": lambda weights: {f"params/{name}": value for name, value in weights.items()},
    "tied, nested": lambda weights: nested(without_decoder(weights)),
    "tied, flat": without_decoder,
    "tied, params": lambda weights: {"params": nested(without_decoder(weights))},
}


def save(folder, content):
    folder.mkdir()
    with (folder / "checkpoint_epoch_9.npy").open("wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)
    return folder


def reference(weights, rows):
    """Return activations (N, L) and reconstructions (N, D) in float64, a row at a time."""
    encoder = weights["enc/kernel"]
    decoder = weights.get("dec/kernel", encoder.T)
    activations = np.zeros((len(rows), L))
    for number, row in enumerate(rows.astype(np.float64)):
        pre = (row - weights["pb_D"]) @ encoder + weights["lb_L"]
        kept = np.argsort(-pre)[:K]
        activations[number, kept] = np.maximum(pre[kept], 0)
    return activations, activations @ decoder + weights["pb_D"]


@pytest.mark.parametrize("type_", [np.float32, np.float64])
@pytest.mark.parametrize("k_from", ["folder", "config", "argument"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_encodes_and_decodes(tmp_path, weights, rows, spelling, k_from, type_):
    stored = {name: value.astype(type_) for name, value in weights.items()}
    content = SPELLINGS[spelling](stored)
    if k_from == "config":
        content["config"] = {"topk": K, "tied": spelling.startswith("tied"), "normalize": False}
    folder = save(tmp_path / (f"L{L}_k{K}" if k_from == "folder" else "original"), content)
    sae = load_checkpoint(folder, k=K if k_from == "argument" else None)
    known = without_decoder(weights) if spelling.startswith("tied") else weights
    activations, reconstructions = reference(known, rows)
    assert sae.config.k == K
    np.testing.assert_allclose(sae.encode(rows), activations, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sae.decode(activations), reconstructions, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sae.reconstruct(rows), reconstructions, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spelling", ["nested", "tied, flat"])
def test_rows_are_z_scored_where_the_original_did(tmp_path, weights, rows, spelling):
    content = SPELLINGS[spelling](weights)
    content["config"] = {"topk": np.int64(K), "tied": False, "normalize": True}
    sae = load_checkpoint(save(tmp_path / "original", content))
    mean, spread = rows.mean(1, keepdims=True), rows.std(1, keepdims=True)
    known = without_decoder(weights) if spelling.startswith("tied") else weights
    activations, scored = reference(known, (rows - mean) / (spread + 1e-5))
    np.testing.assert_allclose(sae.encode(rows), activations, rtol=1e-3, atol=1e-3)
    again = scored * (spread + 1e-5) + mean
    np.testing.assert_allclose(sae.reconstruct(rows), again, rtol=1e-3, atol=2e-3)
