"""The graph of an autoencoder that was trained elsewhere, from files of Biohub's form."""

import json
import shutil
from dataclasses import replace

import dagster as dg
import numpy as np
import pytest

from esm_sae.embedding import open_shards
from esm_sae.formats.biohub import write_biohub
from esm_sae.formats.manifest import read_manifest
from esm_sae.formats.sae_files import read_sae
from esm_sae.sae import TrainOptions, load_checkpoint, train_sae
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.summary import summarise
from whole_graph import require_whole_graph

CHOSEN = {"ks": [8], "replicate": False, "untrained_baseline": False}


@pytest.fixture(scope="module")
def biohub(small_graph, tmp_path_factory):
    """A folder of Biohub's form: an SAE of the demo's encoder, its decoder rows of any norm."""
    folder = tmp_path_factory.mktemp("biohub")
    shards = open_shards(small_graph[0].root / "embeddings3")
    options = TrainOptions(
        64,
        8,
        num_epochs=2,
        batch_size=64,
        normalize=True,
        normalize_ddof=1,
        latent_bias=False,
    )
    train_sae(shards, folder / "trained", options, similarity_clusters="bundled")
    trained = read_sae(folder / "trained")
    scale = np.random.default_rng(0).uniform(0.8, 1.25, (64, 1)).astype(np.float32)
    rescaled = replace(trained, encoder=trained.encoder / scale.T, decoder=trained.decoder * scale)
    return write_biohub(rescaled, folder / "esmc_demo-sae-layer3-k8-codebook64").path


@pytest.fixture
def settings(small_graph, settings_of, biohub, tmp_path):
    """Settings that import it, with a data root that has the rest of the small graph."""
    settings = settings_of(tmp_path / "data", sae=CHOSEN | {"imported": str(biohub)})
    made_of_saes = shutil.ignore_patterns("L64_*", "analysis", "comparison", "latent_matches")
    shutil.copytree(small_graph[0].root, settings.root, ignore=made_of_saes)
    return settings


def test_the_whole_graph_runs_on_an_imported_sae(settings, biohub):
    require_whole_graph(settings)
    imported = load_checkpoint(settings.root / "L64_k8")
    theirs = load_checkpoint(biohub)
    np.testing.assert_array_equal(imported.decoder, theirs.decoder)
    assert imported.decoder_norms.max() > 1.1
    rows = open_shards(settings.root / "embeddings3").rows_at(np.arange(50))
    np.testing.assert_array_equal(imported.encode(rows), theirs.encode(rows))
    manifest = read_manifest(settings.root / "L64_k8")
    assert (manifest.kind, manifest.summary["dead_share"]) == ("sae_checkpoint", None)
    metrics = json.loads((settings.root / "L64_k8/metrics/metrics.json").read_text())
    assert metrics["fvu"] < metrics["random_dictionary_fvu"]
    assert (metrics["dead_share"], metrics["train_fvu"]) == (None, None)
    report = (settings.root / "analysis/L64_k8/report.html").read_text()
    assert "esmc_demo" in report
    assert "dead latents" not in report
    shown = [line.split() for line in summarise(settings).splitlines()]
    (figures,) = [cells for cells in shown if cells[:2] == ["8", "64"]]
    assert figures[-1] == "-", "of dead latents nothing is known"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"ks": [4]}, "was trained with k = 8, not 4; ask for 8"),
        ({"latent_dim": 128}, "has 64 latents, not 128; ask for 64"),
        ({"imported": "/nowhere/layer_3.safetensors"}, "no such file"),
    ],
    ids=str,
)
def test_an_sae_that_does_not_fit_is_refused(small_graph, settings_of, biohub, chosen, message):
    root = small_graph[0].root
    settings = settings_of(root, sae=CHOSEN | {"imported": str(biohub)} | chosen)
    defs = build_defs(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            list(defs.assets),
            selection=["sae_checkpoint"],
            partition_key=str(settings.sae.ks[0]),
            resources=dict(defs.resources),
            instance=instance,
            raise_on_error=False,
        )
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert message in failure.step_failure_data.error.message
