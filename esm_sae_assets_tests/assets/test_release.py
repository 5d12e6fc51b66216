"""The folders to share that the small graph makes."""

import json

import dagster as dg
import numpy as np
import pytest

from esm_sae.formats.manifest import manifest_beside, read_manifest
from esm_sae.sae import load_checkpoint


@pytest.fixture
def root(small_graph):
    return small_graph[0].root


def test_the_graphs_release_encodes_as_its_checkpoint(root):
    rows = np.load(root / "embeddings3/embeddings_0000-of-0002.npy")[:50]
    for name in ("L64_k4", "L64_k8"):
        one, other = load_checkpoint(root / name), load_checkpoint(root / "release" / name)
        assert one.encode(rows).tobytes() == other.encode(rows).tobytes()


def test_the_card_goes_back_to_the_source(root, small_graph):
    card = (root / "release/L64_k4/README.md").read_text()
    counts = [
        read_manifest(root / f"{name}.fasta.manifest.json").summary["sampled"]
        for name in ("uniref50_1M_sample", "uniref50_10M_sample")
    ]
    drawn = [line for line in card.splitlines() if line.startswith("- **Sequences**")]
    assert [int(line.split()[2]) for line in drawn] == counts
    source = read_manifest(root / "uniref50.manifest.json").summary
    assert source["sha256"] in card
    assert str(root) not in card
    assert "of each protein 4 residues were drawn" in card
    assert "Embeddings**: unknown" not in card


def test_the_card_tells_how_many_latents_have_a_name(root):
    card = " ".join((root / "release/L64_k4/README.md").read_text().split())
    analysis = root / "analysis/L64_k4"
    proteins = read_manifest(analysis / "activations").summary["proteins"]
    counts = read_manifest(manifest_beside(analysis / "feature_summary.parquet")).summary
    named = sum(count for kind, count in counts["labels"].items() if kind != "none")
    fire = f"Of 64 latents {counts['firing_latents']} fire on the {proteins} proteins"
    assert f"{fire} of an analysis. {named} have a" in card


def test_the_page_of_the_asset_shows_the_card(small_graph):
    instance = small_graph[1]
    event = instance.get_latest_materialization_event(dg.AssetKey("sae_release"))
    card = event.asset_materialization.metadata["model_card"]
    assert isinstance(card, dg.MarkdownMetadataValue)
    assert card.value.startswith("# Sparse autoencoder, 64 latents")


def test_the_card_tells_what_the_encoder_loses(root):
    card = (root / "release/L64_k4/README.md").read_text()
    measured = (root / "analysis/L64_k4/model_fidelity/model_fidelity.json").read_bytes()
    assert (root / "release/L64_k4/model_fidelity.json").read_bytes() == measured
    figures = json.loads(measured)
    assert f"| {figures['cross_entropy_clean']:.4g} | {figures['perplexity_clean']:.4g} |" in card
    assert f"**{figures['cross_entropy_spliced']:.4g}**" in card
