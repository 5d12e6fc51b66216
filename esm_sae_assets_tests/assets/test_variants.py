"""The graph of autoencoders that are no plain TopK: every asset takes their thresholds."""

import json
import shutil

import numpy as np
import pytest

from esm_sae.embedding import open_shards
from esm_sae.sae import load_checkpoint
from whole_graph import require_whole_graph

CHOSEN = {"ks": [8], "replicate": False, "untrained_baseline": False}


@pytest.mark.parametrize(
    "variant",
    [
        {"activation": "batchtopk", "prefixes": [16, 32]},
        {"activation": "jumprelu", "k_start": 4},
    ],
    ids=lambda variant: variant["activation"],
)
def test_the_whole_graph_runs_on_a_variant(small_graph, settings_of, tmp_path, variant):
    settings = settings_of(tmp_path / "data", sae=CHOSEN | variant)
    made_of_saes = shutil.ignore_patterns("L64_*", "analysis", "comparison", "latent_matches")
    shutil.copytree(small_graph[0].root, settings.root, ignore=made_of_saes)
    require_whole_graph(settings)
    sae = load_checkpoint(settings.root / "L64_k8")
    assert sae.config.activation == variant["activation"]
    rows = open_shards(settings.root / "embeddings3").rows_at(np.arange(200))
    fired = np.count_nonzero(sae.encode(rows), axis=1)
    assert len(set(fired)) > 1, "a threshold, not the k largest of each row"
    metrics = json.loads((settings.root / "L64_k8/metrics/metrics.json").read_text())
    assert metrics["fvu"] < metrics["random_dictionary_fvu"]
    report = (settings.root / "analysis/L64_k8/report.html").read_text()
    assert variant["activation"] in report
