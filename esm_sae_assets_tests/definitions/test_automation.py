"""What declarative automation requests, on recorded runs and materialisations."""

import dagster as dg
import pytest

from esm_sae_assets.progress.backlog import SHARDS
from esm_sae_assets.settings import load_settings
from recorded_world import RecordedWorld

MANIFEST, CHECKPOINT = dg.AssetKey("embedding_manifest"), dg.AssetKey("sae_checkpoint")


class Automation:
    """A world, and the evaluations of its conditions one after the other."""

    def __init__(self, world):
        self.world = world
        self.cursor = None

    def requested(self):
        """Return asset and partitions of what is requested now."""
        found = dg.evaluate_automation_conditions(
            self.world.defs, self.world.instance, cursor=self.cursor
        )
        self.cursor = found.cursor
        keys = self.world.graph.materializable_asset_keys
        requested = {key: found.get_requested_partitions(key) for key in keys}
        return {
            key.to_user_string(): sorted(str(name) for name in names)
            for key, names in requested.items()
            if names
        }


@pytest.fixture
def automation(tmp_path):
    settings = load_settings(
        {},
        data_root=str(tmp_path / "data"),
        samples={"small_size": 150},
        embedding={"sequences_per_shard": 50},
        sae={"ks": [2, 4], "replicate": False, "untrained_baseline": False},
    )
    with dg.DagsterInstance.ephemeral() as instance:
        yield Automation(RecordedWorld(settings, instance))


@pytest.fixture
def world(automation):
    return automation.world


def test_it_begins_with_the_source_and_what_one_run_can_make_of_it(automation, world):
    requested = automation.requested()
    assert {"uniref50_fasta", "uniref50_10M_sample", "uniref50_1M_sample"} <= requested.keys()
    assert not requested.keys() & {"embedding_shards", "embedding_manifest", "sae_checkpoint"}


def test_missing_shards_are_requested_and_none_that_is_under_way_or_failed(automation, world):
    world.provide()
    world.embed(world.shards[:1])
    assert automation.requested()["embedding_shards"] == world.shards[1:]
    world.run(world.shards[1:2], dg.DagsterRunStatus.STARTED)
    assert automation.requested()["embedding_shards"] == world.shards[2:]
    world.run(world.shards[2:], dg.DagsterRunStatus.FAILURE)
    assert "embedding_shards" not in automation.requested()


def test_training_follows_the_last_shard(automation, world):
    world.provide()
    world.embed(world.shards[:2])
    assert "embedding_manifest" not in automation.requested()
    world.embed(world.shards[2:])
    requested = automation.requested()
    assert "embedding_manifest" in requested
    assert "sae_checkpoint" not in requested
    world.make(MANIFEST)
    assert automation.requested()["sae_checkpoint"] == ["2", "4"]


def test_another_sample_makes_shards_outdated_and_the_same_again_does_not(automation, world):
    world.provide()
    world.embed(world.shards)
    automation.requested()
    world.provide()
    assert SHARDS.to_user_string() not in automation.requested()
    world.provide(data="2")
    assert automation.requested()["embedding_shards"] == world.shards


def test_what_was_outdated_before_it_was_on_is_left(automation, world):
    world.provide()
    world.embed(world.shards)
    world.provide(data="2")
    for _ in range(2):
        assert SHARDS.to_user_string() not in automation.requested()
