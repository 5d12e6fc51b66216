"""Staleness as a real server shows it, over more shards than Dagster compares."""

import dagster as dg
import pytest

from dagster_dev import dagster_dev
from esm_sae_assets.progress.currency import Target, is_current
from esm_sae_assets.settings import load_settings
from rerunning import World, other_rounding, same_pictures

pytestmark = [pytest.mark.slow, pytest.mark.long]

SHARDS = 120
WHOLE = """
query ($keys: [AssetKeyInput!]) { assetNodes(assetKeys: $keys) {
    assetKey { path } staleStatus staleCauses { key { path } category } } }"""
BY_PARTITION = """
query ($keys: [AssetKeyInput!]) { assetNodes(assetKeys: $keys) {
    assetKey { path } partitionKeys staleStatusByPartition
    staleCausesByPartition { key { path } category } } }"""


@pytest.fixture
def many_shards(small_project, small_environment):
    """A project whose sample is embedded one protein a shard."""
    variables = small_environment | {
        "ESM_SAE_DATA_ROOT": str(small_project / "data"),
        "ESM_SAE_SAE_REPLICATE": "false",
        "ESM_SAE_SAE_UNTRAINED_BASELINE": "false",
        "ESM_SAE_SAMPLES_SMALL_SIZE": str(SHARDS),
        "ESM_SAE_EMBEDDING_SEQUENCES_PER_SHARD": "1",
    }
    lines = (f"{name}={value}" for name, value in variables.items())
    with (small_project / ".env").open("a") as file:
        file.write("\n".join(lines) + "\n")
    with dg.DagsterInstance.from_config(str(small_project / ".dagster")) as instance:
        yield World(load_settings(variables), instance)


def test_one_of_120_shards_is_seen_through_the_manifest(small_project, many_shards):
    world = many_shards
    shards, ks = world.partitions("embedding_shards"), world.partitions("sae_checkpoint")
    assert len(shards) == SHARDS
    for name in ("uniref50_fasta", "uniref50_10M_sample", "uniref50_1M_sample"):
        world.run(name)
    with same_pictures():
        world.run("embedding_shards", *shards)
    world.run("embedding_manifest")
    world.run("sae_checkpoint", *ks)
    with dagster_dev(small_project) as ask:
        assert _stale(ask) == {}
        assert _fresh(ask, "embedding_shards") == SHARDS
        assert _fresh(ask, "sae_checkpoint") == len(ks)

        world.run("embedding_shards", shards[7])
        assert _stale(ask) == {}
        assert _is_current(world, "embedding_manifest")

        world.lose(shards[7])
        with other_rounding():
            world.run("embedding_shards", shards[7])
        assert _stale(ask) == {("embedding_manifest", None): {("DATA", "embedding_changes")}}
        assert not _is_current(world, "embedding_manifest")

        world.run("embedding_manifest")
        assert _is_current(world, "embedding_manifest")
        by_the_manifest = {("DATA", "embedding_manifest")}
        assert _stale(ask) == {("sae_checkpoint", k): by_the_manifest for k in ks}

        world.run("sae_checkpoint", *ks)
        assert _stale(ask) == {}


def _is_current(world, name):
    """Whether the schedule and the sensors take it for current: as it is shown."""
    return is_current(Target(dg.AssetKey(name), None), world.graph, world.instance)


def _stale(ask):
    """Return what is stale, by asset and partition, and why."""
    found = {}
    for name, partition, state, causes in _states(ask):
        if state == "STALE":
            found[name, partition] = {(each["category"], each["key"]["path"][0]) for each in causes}
    return found


def _fresh(ask, asset):
    return [state for name, _, state, _ in _states(ask) if name == asset].count("FRESH")


def _states(ask):
    nodes = ask("{ assetNodes { assetKey { path } isPartitioned } }")["assetNodes"]
    partitioned = [{"path": n["assetKey"]["path"]} for n in nodes if n["isPartitioned"]]
    whole = [{"path": n["assetKey"]["path"]} for n in nodes if not n["isPartitioned"]]
    for node in ask(WHOLE, keys=whole)["assetNodes"]:
        yield node["assetKey"]["path"][0], None, node["staleStatus"], node["staleCauses"]
    for node in ask(BY_PARTITION, keys=partitioned)["assetNodes"]:
        by_partition = zip(
            node["partitionKeys"],
            node["staleStatusByPartition"],
            node["staleCausesByPartition"],
            strict=True,
        )
        for partition, state, causes in by_partition:
            yield node["assetKey"]["path"][0], partition, state, causes
