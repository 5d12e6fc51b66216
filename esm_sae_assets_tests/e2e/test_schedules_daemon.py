"""A real daemon launches what is missing by itself, and nothing twice; the steps are toys."""

import contextlib
import itertools
import os
import sys
import time
from collections import Counter
from datetime import UTC
from pathlib import Path

import dagster as dg
import pytest

import toy_graph
from dagster_dev import dagster_dev, launch_backfill, wait_for_backfill
from esm_sae_assets.automation import AUTOMATION
from esm_sae_assets.demo import prepare_instance
from esm_sae_assets.partition_ranges import partitions_of_run
from esm_sae_assets.partitions import k_partitions, shard_partitions
from esm_sae_assets.progress.attempts import LAUNCHED_BY_TAG
from esm_sae_assets.settings import load_settings

pytestmark = pytest.mark.slow

SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE
AT_ONCE = 3
SECONDS_TO_WAIT = 900
_START = """
mutation ($name: String!) {
  startSensor(sensorSelector: {
    repositoryName: "__repository__", repositoryLocationName: "toy_definitions", sensorName: $name
  }) { ... on Sensor { sensorState { status } } ... on PythonError { message } }
}"""
MODULE, PATHS = (
    "toy_definitions",
    os.pathsep.join([str(Path(toy_graph.__file__).parent), *sys.path]),
)


@pytest.fixture
def project(tmp_path):
    """A project folder in which everything is on from the start, every minute."""
    prepare_instance(tmp_path)
    (tmp_path / "proteins.fasta").write_text(">P1\nMKV\n")
    settings = {
        "ESM_SAE_DATA_ROOT": str(tmp_path / "data"),
        "ESM_SAE_SOURCE": str(tmp_path / "proteins.fasta"),
        "ESM_SAE_SAMPLES_SMALL_SIZE": "250",
        "ESM_SAE_EMBEDDING_SEQUENCES_PER_SHARD": "50",
        "ESM_SAE_SAE_KS": "2,4",
        "ESM_SAE_SAE_REPLICATE": "false",
        "ESM_SAE_SAE_UNTRAINED_BASELINE": "false",
        "ESM_SAE_SCHEDULES_ENABLED": "true",
        "ESM_SAE_SCHEDULES_CRON": "* * * * *",
        "ESM_SAE_SCHEDULES_SHARDS_AT_ONCE": str(AT_ONCE),
        "ESM_SAE_SCHEDULES_SHARDS_PER_RUN": "2",
        "ESM_SAE_SCHEDULES_SECONDS_BETWEEN_LOOKS": "2",
        "ESM_SAE_SCHEDULES_SECONDS_BETWEEN_SOURCE_LOOKS": "2",
    }
    with (tmp_path / ".env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in settings.items())
    return Project(tmp_path, load_settings(settings))


class Project:
    """The project, and the records of its instance."""

    def __init__(self, folder, settings):
        self.folder = folder
        self.settings = settings
        self.shards = shard_partitions(settings).get_partition_keys()

    @contextlib.contextmanager
    def instance(self):
        with dg.DagsterInstance.from_config(str(self.folder / ".dagster")) as instance:
            yield instance

    def embed_by_hand(self, shard):
        """Sample, and embed one shard, before there is a daemon."""
        defs = toy_graph.toy_defs(self.settings)
        with self.instance() as instance:
            for job, partition in (("sample_sequences", None), ("embed_shards", shard)):
                definition = defs.resolve_job_def(job)
                assert definition.execute_in_process(
                    instance=instance, partition_key=partition
                ).success

    def runs(self, job, *statuses):
        """Return the records of a job's runs, the first first."""
        with self.instance() as instance:
            chosen = dg.RunsFilter(job_name=job, statuses=list(statuses))
            return instance.get_run_records(chosen, ascending=True)

    def wait_for(self, job, status, count=1):
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while time.monotonic() < deadline:
            found = self.runs(job, status)
            if len(found) >= count:
                return found
            time.sleep(1)
        raise AssertionError((self.folder / "dagster.log").read_text()[-5_000:])

    def materialised(self, name):
        """Return how often each partition of an asset was made."""
        with self.instance() as instance:
            found = instance.fetch_materializations(dg.AssetKey(name), limit=1_000).records
        return Counter(record.partition_key for record in found)

    def wait_for_materialisations(self, name, count):
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while len(self.materialised(name)) < count:
            assert time.monotonic() < deadline, (self.folder / "dagster.log").read_text()[-5_000:]
            time.sleep(1)


def shards_of(record, keys):
    return partitions_of_run(record.dagster_run.tags, keys)


def most_at_once(records, keys):
    """Return how many shards were in progress at most, from launch to end."""
    changes = []
    for record in records:
        count = len(shards_of(record, keys))
        created = record.create_timestamp.replace(tzinfo=UTC).timestamp()
        changes += [(created, count), (record.end_time, -count)]
    return max(itertools.accumulate(change for _, change in sorted(changes)))


def test_what_is_missing_is_embedded_then_trained_on_across_a_restart(project):
    keys = project.shards
    assert len(keys) == 5
    project.embed_by_hand(keys[0])
    fault = toy_graph.fault(project.settings, "embedding_shards", keys[3])
    fault.write_text("sequence P7: not sound")
    with dagster_dev(project.folder, MODULE, PYTHONPATH=PATHS) as ask:
        by_hand = launch_backfill(ask, ["embedding_shards"], [keys[4]])
        (failed,) = project.wait_for("embed_shards", FAILURE)
        assert shards_of(failed, keys) == [keys[3]]
        assert wait_for_backfill(ask, by_hand) == "COMPLETED_SUCCESS"
        # By hand before there was a daemon, and those of the schedule that did not fail.
        project.wait_for("embed_shards", SUCCESS, 2)
    fault.unlink()
    with dagster_dev(project.folder, MODULE, PYTHONPATH=PATHS):
        (trained,) = project.wait_for("train_autoencoders", SUCCESS)
        (project.folder / "proteins.fasta").write_text(">P1\nMKVL\n")
        samplings = project.wait_for("sample_sequences", SUCCESS, 3)
    embedded = project.runs("embed_shards", SUCCESS, FAILURE)[1:]
    # Each once, and again what failed; the last shard is left to the backfill.
    attempts = [shards_of(record, keys) for record in embedded][:3]
    assert sorted(attempts[:2]) == [[keys[1], keys[2]], [keys[3]]]
    assert attempts[2] == [keys[3]]
    assert most_at_once(embedded, keys) <= AT_ONCE
    (collected,) = project.runs("collect_embeddings")[:1]
    assert max(record.end_time for record in embedded[:3]) <= collected.start_time
    assert collected.end_time <= trained.start_time
    ks = k_partitions(project.settings).get_partition_keys()
    assert shards_of(trained, ks) == ks
    launched_by = [record.dagster_run.tags.get(LAUNCHED_BY_TAG) for record in embedded]
    assert set(launched_by) == {"embed_missing_shards"}
    launched_by = [
        record.dagster_run.tags.get(LAUNCHED_BY_TAG) for record in [collected, trained, *samplings]
    ]
    assert launched_by == [*["train_after_embedding"] * 2, None, *["new_source"] * 2]


@pytest.mark.long
def test_automation_makes_what_is_missing_and_nothing_twice(project):
    environment = project.folder / ".env"
    environment.write_text(environment.read_text().replace("ENABLED=true", "ENABLED=false"))
    ks = k_partitions(project.settings).get_partition_keys()
    with dagster_dev(project.folder, MODULE, PYTHONPATH=PATHS) as ask:
        started = ask(_START, name=AUTOMATION)["startSensor"]
        assert started["sensorState"]["status"] == "RUNNING"
        project.wait_for_materialisations("sae_checkpoint", len(ks))
    for name, count in (("embedding_shards", len(project.shards)), ("sae_checkpoint", len(ks))):
        assert sorted(set(project.materialised(name).values())) == [1], name
        assert len(project.materialised(name)) == count
    with project.instance() as instance:
        assert {run.tags[LAUNCHED_BY_TAG] for run in instance.get_runs()} == {AUTOMATION}
