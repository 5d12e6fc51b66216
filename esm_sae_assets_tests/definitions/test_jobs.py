"""The jobs: what each makes, in which order they can be launched, and their tags."""

import warnings

import dagster as dg
import pytest
from dagster._core.definitions.backfill_policy import BackfillPolicyType

from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import load_settings, profile_names

SAMPLES = {"uniref50_fasta", "uniref50_10M_sample", "uniref50_1M_sample"}
TRAINED = {"sae_checkpoint", "sae_replicate", "sae_untrained"}
JOBS = {
    "sample_sequences": SAMPLES,
    "embed_shards": {"embedding_shards"},
    "collect_embeddings": {"embedding_manifest", "untrained_embeddings"},
    "cluster_proteins": {
        "taxonomy_clusters",
        "sampled_sequences",
        "embedded_clusters",
        "embedding_clusters",
        "embedding_clusters_json",
        "embedding_cluster_summary",
        "embedding_cluster_report",
    },
    "train_autoencoders": TRAINED,
    "prepare_analysis": {"concept_annotations", "concept_baselines", "latent_matches"},
    "analyse_autoencoders": {
        "sae_metrics",
        "sae_release",
        "sae_model_fidelity",
        "feature_activations",
        "feature_taxonomy",
        "feature_clusters",
        "feature_concepts",
        "feature_summary",
    },
    "write_reports": {"feature_report"},
    "compare_autoencoders": {"sae_comparison"},
}


@pytest.fixture(scope="module", params=profile_names())
def defs(request):
    return build_defs(load_settings({}, profile=request.param))


@pytest.fixture(scope="module")
def jobs(defs):
    with warnings.catch_warnings():
        # One that mixes backfill policies would warn whoever loads the definitions.
        warnings.simplefilter("error")
        return {job.name: defs.resolve_job_def(job.name) for job in defs.jobs}


@pytest.fixture(scope="module")
def made(defs):
    """All that steps make; what only stands for others to Dagster is in no job."""
    keys = defs.resolve_asset_graph().materializable_asset_keys
    return {key.to_user_string() for key in keys}


def assets_of(job):
    return {key.to_user_string() for key in job.asset_layer.executable_asset_keys}


def test_every_asset_is_in_one_job(jobs, made):
    assert {name: assets_of(job) for name, job in jobs.items()} == {
        name: assets & made for name, assets in JOBS.items()
    }
    assert made <= set().union(*JOBS.values())


def test_a_job_needs_what_those_before_it_make(defs, jobs, made):
    graph, there = defs.resolve_asset_graph(), set()
    for name, job in jobs.items():
        there |= assets_of(job)
        needed = {
            key for each in assets_of(job) for key in graph.get(dg.AssetKey(each)).parent_keys
        }
        assert {key.to_user_string() for key in needed} & made <= there, name


def test_no_job_spans_two_partition_definitions(defs, jobs):
    graph = defs.resolve_asset_graph()
    for name, job in jobs.items():
        found = {graph.get(dg.AssetKey(each)).partitions_def for each in assets_of(job)}
        assert len(found) == 1, name


def test_runs_over_several_partitions(jobs):
    """Training takes any number of k at once, the embedding as many shards as the settings say."""
    training = jobs["train_autoencoders"].backfill_policy
    assert training.policy_type == BackfillPolicyType.SINGLE_RUN
    embedding = jobs["embed_shards"].backfill_policy
    profile = jobs["embed_shards"].tags["esm_sae/profile"]
    assert embedding.max_partitions_per_run == (1 if profile == "demo" else 8)


def test_tags_say_what_a_run_is_of_and_what_goes_first(jobs):
    profiles = {job.tags["esm_sae/profile"] for job in jobs.values()}
    assert len(profiles) == 1
    assert profiles <= set(profile_names())
    stages = {job.tags["esm_sae/stage"] for job in jobs.values()}
    assert stages == {
        *("sequences", "embedding", "collection", "clusters", "training", "analysis", "report")
    }
    priority = {name: int(job.tags["dagster/priority"]) for name, job in jobs.items()}
    # Thousands of shards in the queue hold nothing else up.
    others = [priority[name] for name in priority if name != "embed_shards"]
    assert priority["embed_shards"] < min(others)
