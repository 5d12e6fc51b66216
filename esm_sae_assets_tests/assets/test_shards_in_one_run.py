"""Several shards in one run: each recorded on its own, one that fails leaves the others."""

import shutil

import dagster as dg
import pytest

from esm_sae_assets.definitions import build_defs
from esm_sae_assets.partition_ranges import range_tags

SHARDS = dg.AssetKey("embedding_shards")
KEYS = ["0000-of-0002", "0001-of-0002"]


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def embed(small_graph, settings_of, tmp_path, instance):
    """Return a function that embeds both shards of the small graph's sample in one run."""
    settings = settings_of(tmp_path / "data")
    settings.root.mkdir()
    for path in small_graph[0].root.glob("uniref50_1M_sample*"):
        shutil.copy2(path, settings.root)
    defs = build_defs(settings)

    def run():
        return dg.materialize(
            list(defs.assets),
            selection=[SHARDS],
            tags=range_tags(KEYS),
            resources=dict(defs.resources),
            instance=instance,
            raise_on_error=False,
        )

    return settings, run


def latest(instance, key):
    chosen = dg.AssetRecordsFilter(SHARDS, asset_partitions=[key])
    (record,) = instance.fetch_materializations(chosen, limit=1).records
    return record.asset_materialization


def status(settings, instance):
    partitions = build_defs(settings).resolve_asset_graph().get(SHARDS).partitions_def
    found = instance.get_status_by_partition(SHARDS, KEYS, partitions)
    return [found[key].value for key in KEYS]


def test_each_has_its_own_record_and_the_bytes_of_a_run_alone(embed, small_graph, instance):
    settings, run = embed
    result = run()
    assert result.success
    alone = small_graph[1]
    for key in KEYS:
        made = latest(instance, key)
        assert made.tags["dagster/data_version"] == latest(alone, key).tags["dagster/data_version"]
        assert made.metadata["rows"].value == 400
        assert made.metadata["seconds"].value > 0
        name = f"embeddings3/embeddings_{key}.npy"
        assert (settings.root / name).read_bytes() == (small_graph[0].root / name).read_bytes()
    assert status(settings, instance) == ["MATERIALIZED", "MATERIALIZED"]
    # One check of the step for both.
    assert all(check.passed for check in result.get_asset_check_evaluations())


def test_one_that_fails_leaves_the_one_behind_it(embed, instance):
    settings, run = embed
    in_the_way = settings.root / f"embeddings3/embeddings_{KEYS[0]}.npy"
    in_the_way.mkdir(parents=True)
    result = run()
    assert not result.success
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert str(in_the_way) in failure.step_failure_data.error.message
    assert status(settings, instance) == ["FAILED", "MATERIALIZED"]
    in_the_way.rmdir()
    assert run().success
    assert latest(instance, KEYS[0]).metadata["unchanged"].value is False
    assert latest(instance, KEYS[1]).metadata["unchanged"].value is True
    assert status(settings, instance) == ["MATERIALIZED", "MATERIALIZED"]
