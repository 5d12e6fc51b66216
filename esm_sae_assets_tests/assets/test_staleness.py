"""What Dagster shows as stale once a shard, a k or a setting has changed: that and nothing else.

Each test leaves the graph as it found it: the same bytes, recorded with the same data versions.
"""

import pytest

from esm_sae_assets.progress.currency import targets_in_order
from rerunning import World, other_rounding

SHARD = "0001-of-0002"
BY_K = ("sae_checkpoint", "sae_replicate", "sae_metrics", "feature_activations")
BELOW_THE_MANIFEST = {
    *((name, k) for name in BY_K for k in ("4", "8")),
    ("embedding_clusters", None),
    ("latent_matches", None),
    ("concept_baselines", None),
}
BELOW_A_CHECKPOINT = {
    "sae_metrics",
    "sae_release",
    "sae_model_fidelity",
    "feature_activations",
    "feature_taxonomy",
    "feature_clusters",
}
OVER_ALL_CHECKPOINTS = {("latent_matches", None), ("concept_baselines", None)}


@pytest.fixture
def world(small_graph):
    settings, instance, _ = small_graph
    world = World(settings, instance)
    assert world.stale() == set()
    hashes = world.hashes()
    yield world
    assert world.stale() == set()
    assert world.hashes() == hashes


def test_a_rerun_of_everything_changes_nothing(world):
    shown = world.run_all()
    assert len(shown) == len(targets_in_order(world.graph))
    assert [entry["path"] for entry in shown if not entry["unchanged"]] == []


def test_another_content_of_one_shard_makes_stale_what_was_made_from_it(world):
    world.lose(SHARD)
    with other_rounding():
        world.run("embedding_shards", SHARD)
    assert world.stale() == {("embedding_manifest", None)}
    world.run("embedding_manifest")
    assert world.stale() == BELOW_THE_MANIFEST
    world.lose(SHARD)
    world.run("embedding_shards", SHARD)
    assert world.stale() == {("embedding_manifest", None), *BELOW_THE_MANIFEST}
    world.run("embedding_manifest")


def test_a_lost_shard_that_is_made_again_makes_nothing_stale(world):
    world.lose(SHARD)
    (shown,) = world.run("embedding_shards", SHARD)
    assert shown["unchanged"] is False
    assert world.stale() == set()


def test_another_config_of_one_k_makes_stale_only_what_is_made_from_that_k(world):
    world.run("sae_checkpoint", "4", num_epochs=1)
    of_that_k = {(name, "4") for name in BELOW_A_CHECKPOINT}
    assert world.stale() == of_that_k | OVER_ALL_CHECKPOINTS
    world.run("sae_metrics", "4")
    made_from_metrics = {("sae_comparison", None), ("sae_release", "4"), ("feature_report", "4")}
    assert world.stale() == (
        of_that_k - {("sae_metrics", "4")} | OVER_ALL_CHECKPOINTS | made_from_metrics
    )
    world.run("sae_checkpoint", "4")
    world.run("sae_metrics", "4")


@pytest.mark.parametrize(
    ("chosen", "stale"),
    [
        ({"analysis": {"permutations": 9}}, {("feature_taxonomy", "4"), ("feature_taxonomy", "8")}),
        ({"clusters": {"map": "umap"}}, {("embedding_cluster_summary", None)}),
        (
            {"samples": {"small_max_length": 200}},
            {("uniref50_1M_sample", None), ("sampled_sequences", None)},
        ),
        ({"sae": {"ks": [4, 8, 16]}}, {("sae_comparison", None), *OVER_ALL_CHECKPOINTS}),
    ],
)
def test_another_setting_makes_stale_only_what_reads_it(world, settings_of, chosen, stale):
    assert world.stale(settings_of(world.settings.root, **chosen)) == stale
