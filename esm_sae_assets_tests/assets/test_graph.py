import json
import shutil

import dagster as dg
import numpy as np
import polars as pl

from esm_sae.embedding import open_shards
from esm_sae.formats.manifest import read_manifest
from esm_sae.sae import load_checkpoint
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.demo import run_graph
from esm_sae_assets.progress.currency import Target, is_current, targets_in_order

# 16 unpartitioned assets, 2 shards, 12 assets for each of 2 values of k.
TARGETS = 16 + 2 + 12 * 2


def test_every_asset_partition_is_materialised(small_graph):
    settings, instance, outcome = small_graph
    assert (outcome.materialised, outcome.current) == (TARGETS, 0)
    graph = build_defs(settings).resolve_asset_graph()
    for target in targets_in_order(graph):
        assert is_current(target, graph, instance), target


def test_outputs_have_the_names_of_the_design(small_graph):
    settings, _, _ = small_graph
    expected = [
        "uniref50_10M_sample.fasta",
        "uniref50_10M_sample.index.parquet",
        "uniref50_1M_sample.fasta",
        "uniref50_1M_sample.index.parquet",
        "embeddings3/embeddings_0000-of-0002.npy",
        "embeddings3/embeddings_0000-of-0002.parquet",
        "embeddings3/embeddings_0000-of-0002.json",
        "embeddings3/means_0001-of-0002.npy",
        "embeddings3/manifest.json",
        "embeddings_untrained/embeddings_0000-of-0002.npy",
        "embeddings_untrained/manifest.json",
        "L64_k4/checkpoint_epoch_2.npy",
        "L64_k4/config.json",
        "L64_k4/metrics.parquet",
        "L64_k4/train_state.safetensors",
        "L64_k8/metrics/metrics.json",
        "L64_k8_replicate/checkpoint_epoch_2.npy",
        "L64_k8_untrained/checkpoint_epoch_2.npy",
        "release/L64_k8/sae.safetensors",
        "release/L64_k8/README.md",
        "comparison/comparison.parquet",
        "taxonomy_clusters.parquet",
        "cluster_statistics.json",
        "sampled_sequences.json",
        "embedded_clusters.json",
        "embedded_clusters.parquet",
        "embedding_clusters.parquet",
        "embedding_clusters.points.npy",
        "embedding_clusters.json",
        "embedding_clusters.summary.parquet",
        "embedding_clusters.html",
        "analysis/L64_k8/activations/manifest.json",
        "analysis/L64_k8/model_fidelity/by_residue.parquet",
        "analysis/L64_k8/taxonomy/feature_taxonomy_mapping.json",
        "concept_annotations.parquet",
        "concept_baselines/baselines.parquet",
        "latent_matches/matches.parquet",
        "analysis/L64_k8/concepts/feature_concepts.parquet",
        "analysis/L64_k8/clusters/latent_map.parquet",
        "analysis/L64_k8/feature_summary.parquet",
        "analysis/L64_k8/report.html",
    ]
    assert [name for name in expected if not (settings.root / name).is_file()] == []
    hidden = [path for path in settings.root.rglob(".*") if path.name.startswith(".")]
    assert hidden == [], "locks and temporary files must not stay"


def test_the_parts_fit_one_another(small_graph):
    settings, _, _ = small_graph
    shards = open_shards(settings.root / "embeddings3")
    sae = load_checkpoint(settings.root / "L64_k4")
    rows = shards.rows_at(np.arange(32))
    dense = sae.encode(rows)
    assert dense.shape == (32, 64)
    assert (np.count_nonzero(dense, axis=1) <= 4).all()
    assert sae.config.data_fingerprint == shards.fingerprint
    assert sae.config.encoder == "esmc_demo"
    summary = pl.read_parquet(settings.root / "analysis/L64_k4/feature_summary.parquet")
    assert summary["latent"].to_list() == list(range(64))
    sample = pl.read_parquet(settings.root / "uniref50_1M_sample.index.parquet")
    clusters = pl.read_parquet(settings.root / "embedding_clusters.parquet")
    assert clusters["sequence_id"].to_list() == sample["sequence_id"].to_list()
    assert sum(map(len, _json(settings, "embedding_clusters.json").values())) == len(sample)


def test_a_small_encoder_is_named_wherever_results_are_shown(small_graph):
    settings, instance, _ = small_graph
    note = "a small demonstration model"
    assert note in (settings.root / "embeddings3/embeddings_0000-of-0002.json").read_text()
    assert note in (settings.root / "L64_k4/config.json").read_text()
    assert note in (settings.root / "analysis/L64_k4/report.html").read_text()
    assert note in _shown(instance, "embedding_manifest")["rows_are"]


def test_an_untrained_encoder_is_named_wherever_results_are_shown(small_graph):
    settings, instance, _ = small_graph
    note = "untrained: seeded random weights"
    folder = settings.root / "embeddings_untrained"
    assert note in (folder / "embeddings_0000-of-0002.json").read_text()
    assert note in (settings.root / "L64_k4_untrained/config.json").read_text()
    assert note in _shown(instance, "untrained_embeddings")["rows_are"]
    assert note in _shown(instance, "sae_untrained", "4")["encoder"]


def test_the_untrained_rows_are_of_the_same_residues(small_graph):
    settings, _, _ = small_graph
    shards = open_shards(settings.root / "embeddings3")
    untrained = open_shards(settings.root / "embeddings_untrained")
    columns = ["sequence_id", "position"]
    assert untrained.index.select(columns).collect().equals(shards.index.select(columns).collect())
    rows = np.arange(32)
    assert not np.allclose(untrained.rows_at(rows), shards.rows_at(rows))


def test_a_second_run_makes_nothing(small_graph):
    settings, instance, _ = small_graph
    again = run_graph(settings, instance)
    assert (again.materialised, again.current) == (0, TARGETS)


def test_metadata_shows_path_size_time_and_memory(small_graph):
    settings, instance, _ = small_graph
    for target in targets_in_order(build_defs(settings).resolve_asset_graph()):
        event = instance.get_latest_materialization_event(target.key)
        metadata = event.asset_materialization.metadata
        for name in ("path", "manifest", "size_mb", "seconds", "peak_memory_mb"):
            assert name in metadata, (target, name)
    comparison = instance.get_latest_materialization_event(dg.AssetKey("sae_comparison"))
    assert "data:image/png" in comparison.asset_materialization.metadata["comparison"].value


def test_data_versions_are_those_of_the_manifests(small_graph):
    settings, instance, _ = small_graph
    event = instance.get_latest_materialization_event(dg.AssetKey("embedding_manifest"))
    manifest = read_manifest(settings.root / "embeddings3")
    assert event.asset_materialization.tags["dagster/data_version"] == manifest.data_version


def test_a_changed_setting_leaves_what_does_not_depend_on_it(small_graph, settings_of):
    settings, instance, _ = small_graph
    changed = settings_of(settings.root, sae={"learning_rate": 5e-3})
    graph = build_defs(changed).resolve_asset_graph()
    not_current = {
        target.key.to_user_string()
        for target in targets_in_order(graph)
        if not is_current(target, graph, instance)
    }
    trained = {"sae_checkpoint", "sae_replicate", "sae_untrained"}
    assert not_current == trained
    # Dagster calls stale what is below only once the checkpoint has other bytes.
    assert _stale_assets(graph, instance) == trained


def test_a_lost_output_is_made_again_with_the_same_bytes(small_graph):
    settings, instance, _ = small_graph
    folder = settings.root / "L64_k4"
    before = (folder / "checkpoint_epoch_2.npy").read_bytes()
    shutil.rmtree(folder)
    graph = build_defs(settings).resolve_asset_graph()
    assert not is_current(Target(dg.AssetKey("sae_checkpoint"), "4"), graph, instance)
    outcome = run_graph(settings, instance)
    assert (folder / "checkpoint_epoch_2.npy").read_bytes() == before
    # The checkpoint and the metrics in its folder. What is made from them has the same inputs.
    assert outcome.materialised == 2


def _stale_assets(graph, instance):
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {
        target.key.to_user_string()
        for target in targets_in_order(graph)
        if resolver.get_status(target.key, target.partition) == StaleStatus.STALE
    }


def _shown(instance, name, partition=None):
    """Return the metadata of the latest materialisation."""
    chosen = dg.AssetRecordsFilter(dg.AssetKey(name), [partition] if partition else None)
    (record,) = instance.fetch_materializations(chosen, limit=1).records
    return {key: entry.value for key, entry in record.asset_materialization.metadata.items()}


def _json(settings, name):
    return json.loads((settings.root / name).read_text())
