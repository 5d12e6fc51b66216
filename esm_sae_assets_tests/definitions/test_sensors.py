"""What the sensors ask for: training after the embedding, and samples of another source."""

import json

import dagster as dg
import pytest

from esm_sae_assets.definitions import build_defs
from esm_sae_assets.progress.attempts import ATTEMPT_TAG
from esm_sae_assets.sensors import look_at_source
from esm_sae_assets.settings import load_settings
from recorded_world import RecordedWorld

STATUS = dg.DagsterRunStatus
CHECKPOINT, METRICS = dg.AssetKey("sae_checkpoint"), dg.AssetKey("sae_metrics")
MANIFEST = dg.AssetKey("embedding_manifest")
COLLECT, TRAIN = "collect_embeddings", "train_autoencoders"
ANALYSE = "analyse_autoencoders"
SECTIONS = {
    "samples": {"small_size": 100},
    "embedding": {"sequences_per_shard": 50},
    "sae": {"ks": [2, 4, 8], "replicate": False, "untrained_baseline": False},
    "schedules": {"attempts": 2},
}


@pytest.fixture
def world(world_of):
    """The shards are there, and nothing below."""
    made = world_of()
    made.provide()
    made.embed(made.shards)
    return made


def launched(found):
    """Return job, assets and partitions of each request."""
    return [
        (
            request.job_name,
            [key.to_user_string() for key in request.asset_selection],
            request.partition_key
            or [value for name, value in sorted(request.tags.items()) if "_range_" in name][::-1],
        )
        for request in found[0]
    ]


def test_training_waits_for_every_shard(world_of):
    world = world_of()
    assert world.follow(COLLECT, TRAIN) == ([], "uniref50_1M_sample is not there yet")
    world.provide()
    world.embed(world.shards[:1])
    assert world.follow(COLLECT, TRAIN) == ([], "2 shards: 1 to launch")
    world.run(world.shards[1:], STATUS.STARTED)
    assert world.follow(COLLECT, TRAIN) == ([], "2 shards: 1 in progress")


def test_the_manifest_comes_first_then_every_k_in_one_run(world):
    found = world.follow(COLLECT, TRAIN)
    assert launched(found) == [(COLLECT, ["embedding_manifest"], [])]
    assert found[1] == "being made, or waiting for what it is made from: sae_checkpoint"
    world.run([], STATUS.STARTED, COLLECT)
    assert launched(world.follow(COLLECT, TRAIN)) == []
    world.make(MANIFEST)
    assert launched(world.follow(COLLECT, TRAIN)) == [(TRAIN, ["sae_checkpoint"], ["2", "8"])]


def test_only_the_k_whose_inputs_are_others_are_trained(world):
    world.make(MANIFEST)
    for k in ("2", "4", "8"):
        world.make(CHECKPOINT, k)
    world.make(MANIFEST)
    assert world.follow(COLLECT, TRAIN) == ([], "0 runs to launch")
    world.make(MANIFEST, data="2")
    world.make(CHECKPOINT, "4")
    assert launched(world.follow(COLLECT, TRAIN)) == [
        (TRAIN, ["sae_checkpoint"], "2"),
        (TRAIN, ["sae_checkpoint"], "8"),
    ]
    world.run(["2"], STATUS.QUEUED, TRAIN)
    assert launched(world.follow(COLLECT, TRAIN)) == [(TRAIN, ["sae_checkpoint"], "8")]


def test_a_shard_with_another_content_leads_to_training(world):
    world.make(MANIFEST)
    for k in ("2", "4", "8"):
        world.make(CHECKPOINT, k)
    world.embed(world.shards[:1])
    # The same content: the manifest has the same inputs.
    assert world.follow(COLLECT, TRAIN) == ([], "0 runs to launch")
    world.embed(world.shards[:1], data="other rows")
    assert launched(world.follow(COLLECT, TRAIN)) == [(COLLECT, ["embedding_manifest"], [])]


def test_a_failed_training_is_asked_for_again_and_then_left(world):
    world.make(MANIFEST)
    keys = []
    for _ in range(2):
        (request,), _ = world.follow(COLLECT, TRAIN)
        keys.append(request.run_key)
        tags = {ATTEMPT_TAG: request.tags[ATTEMPT_TAG]}
        world.run(["2", "4", "8"], STATUS.FAILURE, TRAIN, **tags)
    assert len(set(keys)) == 2
    requests, said = world.follow(COLLECT, TRAIN)
    assert requests == []
    assert said.startswith("sae_checkpoint [2, 4, 8]: 2 runs failed; look at them")
    world.make(MANIFEST, data="2")
    assert launched(world.follow(COLLECT, TRAIN)) == [(TRAIN, ["sae_checkpoint"], ["2", "8"])]


def test_a_canceled_training_is_left_until_its_inputs_are_others(world):
    world.make(MANIFEST)
    (request,), _ = world.follow(COLLECT, TRAIN)
    tags = {ATTEMPT_TAG: request.tags[ATTEMPT_TAG]}
    world.run(["2", "4", "8"], STATUS.CANCELED, TRAIN, **tags)
    said = "sae_checkpoint [2, 4, 8]: was canceled; launch it yourself"
    assert world.follow(COLLECT, TRAIN) == ([], said)
    world.make(MANIFEST, data="2")
    assert launched(world.follow(COLLECT, TRAIN)) == [(TRAIN, ["sae_checkpoint"], ["2", "8"])]


@pytest.mark.parametrize("count", [98, 99, 100, 120])
def test_however_many_shards_there_are_only_another_content_leads_to_training(world_of, count):
    world = world_of(samples={"small_size": 50 * count})
    world.provide()
    world.embed(world.shards)
    world.make(MANIFEST)
    assert launched(world.follow(COLLECT, TRAIN)) == [(TRAIN, ["sae_checkpoint"], ["2", "8"])]
    world.embed(world.shards[:1])
    assert launched(world.follow(COLLECT, TRAIN)) == [(TRAIN, ["sae_checkpoint"], ["2", "8"])]
    world.embed(world.shards[-1:], data="other rows")
    assert launched(world.follow(COLLECT, TRAIN)) == [(COLLECT, ["embedding_manifest"], [])]


def test_what_was_made_and_is_not_current_is_not_made_for_ever(world, world_of):
    world.make(MANIFEST)
    (request,), _ = world.follow(COLLECT, TRAIN)
    tags = {ATTEMPT_TAG: request.tags[ATTEMPT_TAG]}
    run = world.run(["2", "4", "8"], STATUS.SUCCESS, TRAIN, **tags)
    newer = world_of(sae={"learning_rate": 1e-2})
    for k in ("2", "4", "8"):
        newer.make(CHECKPOINT, k, run=run)
    requests, said = world.follow(COLLECT, TRAIN)
    assert requests == []
    assert "reload the code location" in said
    assert newer.follow(COLLECT, TRAIN) == ([], "0 runs to launch")


def test_with_the_analysis_a_run_makes_what_follows_on_each_other(world):
    world.make(MANIFEST)
    for k in ("2", "4", "8"):
        world.make(CHECKPOINT, k)
    requests, said = world.follow("prepare_analysis", ANALYSE, "compare_autoencoders")
    by_k = [
        *("feature_activations", "feature_taxonomy", "sae_metrics", "sae_model_fidelity"),
        "feature_clusters",
    ]
    assert launched((requests, said)) == [
        ("prepare_analysis", ["concept_annotations", "concept_baselines"], []),
        *((ANALYSE, by_k, k) for k in ("2", "4", "8")),
    ]
    assert said.endswith(": feature_concepts, feature_summary, sae_release, sae_comparison")
    world.make(METRICS, "2")
    (request,) = [each for each in world.follow(ANALYSE)[0] if each.partition_key == "2"]
    assert METRICS not in request.asset_selection


def test_the_sensors_are_off_and_automation_is_too():
    def status(**schedules):
        repository = build_defs(load_settings({}, schedules=schedules)).get_repository_def()
        return {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs}

    off = {"train_after_embedding": "STOPPED", "new_source": "STOPPED"}
    assert status() == off | {"make_what_is_missing": "STOPPED"}
    # Never both ways of doing the same.
    on = dict.fromkeys(off, "RUNNING")
    assert status(enabled=True) == on | {"make_what_is_missing": "STOPPED"}


def test_analysis_is_asked_for_where_the_settings_say_so():
    def jobs(**schedules):
        repository = build_defs(load_settings({}, schedules=schedules)).get_repository_def()
        sensor = repository.get_sensor_def("train_after_embedding")
        return {job.name for job in sensor.jobs}

    assert jobs() == {COLLECT, TRAIN}
    everything = {job.name for job in build_defs(load_settings({})).jobs or []}
    assert jobs(analyse=True) == everything - {"sample_sequences", "embed_shards"}


class Source:
    """A local source and the looks at it."""

    def __init__(self, path, world):
        self.path = path
        self.world = world
        self.cursor = None

    def look(self):
        """Return the run asked for, or why there is none."""
        found = look_at_source(
            self.world.settings, self.cursor, self.world.graph, self.world.instance
        )
        if isinstance(found, dg.SkipReason):
            return found.skip_message
        self.cursor = found.cursor
        return found.run_requests[0] if found.run_requests else found.skip_reason.skip_message

    def run(self, request, status):
        return self.world.run([], status, "sample_sequences", **request.tags)


@pytest.fixture
def source(tmp_path, instance):
    path = tmp_path / "proteins.fasta"
    path.write_text(">P1\nMKV\n")
    settings = load_settings(
        {}, source=str(path), data_root=str(tmp_path / "data"), schedules={"attempts": 2}
    )
    return Source(path, RecordedWorld(settings, instance))


def test_a_source_is_sampled_once_and_again_when_it_is_another(source):
    request = source.look()
    assert request.tags["esm_sae/launched_by"] == "new_source"
    run = source.run(request, STATUS.STARTED)
    assert source.look() == "the source is being sampled"
    source.world.instance.delete_run(run)
    source.run(request, STATUS.SUCCESS)
    source.world.provide()
    assert source.look().startswith("sampled: 8 bytes")
    source.path.write_text(">P1\nMKVL\n")
    other = source.look()
    assert other.run_key != request.run_key
    assert source.look().run_key == other.run_key


def test_a_source_that_is_what_it_was_before_is_sampled_all_the_same(source, monkeypatch):
    states = iter(["2026_01", "2026_02", "2026_01"])
    monkeypatch.setattr("esm_sae_assets.sensors.source_state", lambda settings: next(states))
    requests = [source.look() for _ in range(3)]
    assert len({request.run_key for request in requests}) == 3


def test_sampling_that_fails_is_asked_for_again_and_then_left(source):
    keys = set()
    for _ in range(2):
        request = source.look()
        keys.add(request.run_key)
        source.run(request, STATUS.FAILURE)
    assert len(keys) == 2
    assert source.look().startswith("2 runs failed on 8 bytes")
    assert "launch the job sample_sequences yourself" in source.look()


def test_canceled_sampling_is_left(source):
    source.run(source.look(), STATUS.CANCELED)
    assert source.look().startswith("canceled on 8 bytes")


def test_a_source_that_cannot_be_had_is_said_and_no_failure(source):
    source.path.unlink()
    assert source.look() == f"{source.path}: no such file; check the setting source"
    assert source.cursor is None


def test_a_release_is_known_by_its_metalink(serve, tmp_path, instance):
    folder, address = serve
    (folder / "uniref50.fasta").write_text(">P1\nMKV\n")
    metalink = (
        '<metalink version="3.0" xmlns="http://www.metalinker.org/"><version>{}</version><files>'
        '<file name="uniref50.fasta"><verification><hash type="md5">{}</hash></verification>'
        "</file></files></metalink>"
    )
    settings = load_settings(
        {}, source=f"{address}/uniref50.fasta", data_root=str(tmp_path / "data")
    )
    source = Source(None, RecordedWorld(settings, instance))
    # Nothing but the server's description is known.
    first = source.look()
    assert json.loads(json.loads(source.cursor)["state"]).keys() == {"bytes", "last_modified"}
    (folder / "RELEASE.metalink").write_text(metalink.format("2026_01", "0" * 32))
    second = source.look()
    assert json.loads(json.loads(source.cursor)["state"]) == {
        "checksum": f"md5:{'0' * 32}",
        "release": "2026_01",
    }
    (folder / "RELEASE.metalink").write_text(metalink.format("2026_02", "1" * 32))
    third = source.look()
    assert len({each.run_key for each in (first, second, third)}) == 3
    (folder / "RELEASE.metalink").write_text("no metalink")
    assert "not a metalink file" in source.look()
    # Nothing of the source itself is brought, or put anywhere.
    assert not settings.root.exists()


def test_a_server_that_is_away_is_said_in_one_look(tmp_path, instance):
    settings = load_settings(
        {}, source="http://127.0.0.1:9/uniref50.fasta", data_root=str(tmp_path / "data")
    )
    source = Source(None, RecordedWorld(settings, instance))
    assert "http://127.0.0.1:9/RELEASE.metalink" in source.look()


def test_a_file_in_a_store_is_known_by_what_the_store_says(tmp_path, instance):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe("/source/uniref50.fasta", b">P1\nMKV\n")
    settings = load_settings(
        {}, source="memory://source/uniref50.fasta", data_root=str(tmp_path / "data")
    )
    source = Source(None, RecordedWorld(settings, instance))
    first = source.look()
    assert source.look().run_key == first.run_key
    store.pipe("/source/uniref50.fasta", b">P1\nMKVLLL\n")
    assert source.look().run_key != first.run_key
    store.rm("/source/uniref50.fasta")
    assert "memory://source/uniref50.fasta: cannot be had" in source.look()
