"""Importing an SAE: its weights as they are, a folder as that of a training."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from esm_sae import analyze, storage
from esm_sae.errors import InputError
from esm_sae.formats.biohub import write_biohub
from esm_sae.formats.checkpoint import SAEConfig, write_checkpoint, write_config
from esm_sae.formats.manifest import read_manifest
from esm_sae.formats.sae_files import read_sae
from esm_sae.formats.shards import open_shards
from esm_sae.formats.verification import product_at
from esm_sae.sae import evaluate_sae, import_sae, load_checkpoint
from esm_sae.sae.verification import verify_checkpoint

D, L, K = 8, 24, 4
CONFIG = SAEConfig(
    D,
    L,
    K,
    normalize=True,
    normalize_ddof=1,
    latent_bias=False,
    encoder="esmc_test",
    weights_sha256="0" * 64,
    layer=3,
    pooling="residue",
)


def weights(**more):
    generator = np.random.default_rng(0)
    return {
        "encoder": generator.standard_normal((D, L)).astype(np.float32),
        "decoder": 3 * generator.standard_normal((L, D)).astype(np.float32),
        "latent_bias": np.zeros(L, np.float32),
        "pre_bias": generator.standard_normal(D).astype(np.float32),
    } | more


@pytest.fixture
def biohub(tmp_path):
    """Return a function that writes a folder of Biohub's form; what is changed of its config."""

    def made(**changes):
        folder = tmp_path / "source"
        folder.mkdir()
        file = folder / "checkpoint_epoch_1.npy"
        config = replace(CONFIG, final_checkpoint=file.name, **changes)
        write_checkpoint(file, **weights())
        write_config(folder, config)
        return write_biohub(read_sae(folder), tmp_path / "biohub").path

    return made


@pytest.fixture
def shards(make_shards):
    return open_shards(make_shards(60, D, pooling="residue")[0])


def test_the_weights_come_as_they_are_and_unknown_figures_are_null(biohub, shards, tmp_path):
    product = import_sae(biohub(), tmp_path / "L24_k4", shards, k=K, latent_dim=L)
    sae = load_checkpoint(product.path)
    np.testing.assert_array_equal(sae.decoder, weights()["decoder"])
    rows = shards.rows_at(np.arange(30))
    np.testing.assert_array_equal(
        sae.encode(rows), load_checkpoint(tmp_path / "biohub").encode(rows)
    )
    assert sae.config == replace(CONFIG, final_checkpoint="checkpoint_imported.npy")
    assert product.manifest.kind == "sae_checkpoint"
    assert product.manifest.summary == {
        **{"width": D, "latent_dim": L, "k": K, "project": "", "epochs": None, "steps": None},
        **dict.fromkeys(("training_rows", "validation_rows", "test_rows")),
        **dict.fromkeys(("train_fvu", "validation_fvu", "dead_share")),
        "encoder": "esmc_test, layer 3, residue rows",
        "final_checkpoint": "checkpoint_imported.npy",
    }
    assert set(product.manifest.files) == {"config.json", "checkpoint_imported.npy"}
    sound = verify_checkpoint(product_at(product.path))
    assert (sound.epochs, sound.train_fvu, sound.dead_share) == (None, None, None)
    assert sound.decoder_norm_max > 5
    before = storage.sha256_of(product.path / "checkpoint_imported.npy")
    assert import_sae(tmp_path / "biohub", product.path, shards).unchanged
    again = import_sae(tmp_path / "biohub", tmp_path / "again", shards)
    assert storage.sha256_of(again.path / "checkpoint_imported.npy") == before


def test_one_that_was_trained_on_these_rows_with_another_split_is_refused(biohub, shards, tmp_path):
    split = {"seed": 5, "similarity_clusters": None}
    of_these = {"data_fingerprint": shards.fingerprint, "training": {"split": split}}
    folder = biohub(**of_these)
    with pytest.raises(InputError) as caught:
        import_sae(folder, tmp_path / "L24_k4", shards, similarity_clusters="bundled")
    assert str(caught.value).startswith(
        f"{folder}: was trained with another split (split seed 5, no similarity clusters; here "
        "split seed 0, the bundled similarity clusters)"
    )
    imported = import_sae(folder, tmp_path / "L24_k4", shards, split_seed=5)
    assert load_checkpoint(imported.path).config.training == {"split": split}


@pytest.mark.parametrize("imported", [True, False])
def test_it_is_measured_beside_its_baselines(biohub, shards, tmp_path, imported):
    folder = biohub()
    if imported:
        folder = import_sae(folder, tmp_path / "L24_k4", shards).path
    with pytest.warns(UserWarning, match="does not tell its split"):
        product = evaluate_sae(folder, shards, tmp_path / "metrics")
    metrics = json.loads((product.path / "metrics.json").read_text())
    assert (metrics["k"], metrics["dead_share"], metrics["train_fvu"]) == (K, None, None)
    assert metrics["initial_cosine_median"] is None


def test_the_commands_take_it_as_it_came(biohub, write_clusters, tmp_path, capsys):
    clusters, _, _ = write_clusters(tmp_path / "in", {"Homo sapiens": 6, "Mus": 5}, residues=True)
    folder = biohub()
    for name, source in (("folder", folder), ("file", folder / "layer_3.safetensors")):
        line = ["--clusters", str(clusters), "--checkpoint", str(source), "--quiet"]
        # Random weights, and clusters that do not tell their encoder.
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert analyze.main([*line, "--output", str(tmp_path / name)]) == 0
        printed = capsys.readouterr()
        assert printed.err.count("warning: ") == printed.err.count("rows unexplained") == 1
        assert "11 proteins of 2 taxa" in printed.out
        assert (tmp_path / name / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "wanted", "message"),
    [
        ({}, {"k": 5}, "was trained with k = 4, not 5; ask for 4"),
        ({}, {"latent_dim": 25}, "has 24 latents, not 25; ask for 24"),
        ({"encoder": "other"}, {}, r"differ in encoder \(esmc_test and other\)"),
        ({"weights_sha256": "1" * 64}, {}, "differ in encoder weights"),
        ({"layer": 2}, {}, r"differ in layer \(3 and 2\)"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(biohub, shards, tmp_path, changes, wanted, message):
    with pytest.raises(InputError, match=message):
        import_sae(biohub(**changes), tmp_path / "out", shards, **wanted)
    assert not (tmp_path / "out").exists()


def test_rows_of_another_pooling_or_width_are_refused(biohub, make_shards, tmp_path):
    folder = biohub()
    for width, pooling, message in ((D, "mean", "differ in pooling"), (9, "residue", "9 wide")):
        rows, _ = make_shards(20, width, pooling=pooling, name=pooling)
        with pytest.raises(InputError, match=message):
            import_sae(folder, tmp_path / "out", open_shards(rows))


def test_thresholds_come_too_and_an_unknown_pooling_is_that_of_the_rows(shards, tmp_path):
    source = tmp_path / "source.npy"
    config = replace(CONFIG, activation="jumprelu")
    threshold = np.full(L, 0.5, np.float32)
    write_checkpoint(source, **weights(threshold=threshold), config=config)
    with (
        pytest.warns(UserWarning, match="does not tell encoder"),
        pytest.warns(UserWarning, match="rows unexplained"),
    ):
        product = import_sae(source, tmp_path / "out", shards)
    again = read_sae(product.path)
    np.testing.assert_array_equal(again.threshold, threshold)
    assert (again.config.pooling, again.config.encoder) == ("residue", "unknown")
    assert read_manifest(product.path).summary["encoder"] == "embeddings of unknown provenance"
