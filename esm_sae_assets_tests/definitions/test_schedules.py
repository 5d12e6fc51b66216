"""What the schedule of the shards launches, on recorded runs and materialisations."""

from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from esm_sae.errors import InputError
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.progress.attempts import ATTEMPT_TAG
from esm_sae_assets.progress.backlog import SHARDS
from esm_sae_assets.settings import load_settings
from recorded_world import RecordedWorld

STATUS = dg.DagsterRunStatus
SECTIONS = {
    "samples": {"small_size": 400},
    "embedding": {"sequences_per_shard": 50},
    "schedules": {"shards_per_run": 2, "shards_at_once": 4, "attempts": 2},
}


@pytest.fixture
def world(world_of):
    """Eight shards, none of them there; their sample is."""
    made = world_of()
    made.provide()
    return made


def launched(requests):
    """Return the shards of each request by their numbers."""
    assert not isinstance(requests, str), requests
    found = []
    for request in requests:
        first = request.tags.get("dagster/asset_partition_range_start", request.partition_key)
        last = request.tags.get("dagster/asset_partition_range_end", first)
        found.append(list(range(int(first[:4]), int(last[:4]) + 1)))
    return found


def test_without_the_sample_there_is_nothing_to_embed(world_of):
    assert world_of().tick() == (
        "uniref50_1M_sample is not there yet; launch the job sample_sequences"
    )


def test_missing_shards_are_launched_in_runs_of_neighbours_a_few_at_once(world):
    assert launched(world.tick()) == [[0, 1], [2, 3]]
    world.embed([world.shards[n] for n in (0, 2, 3, 5)])
    assert launched(world.tick()) == [[1], [4], [6, 7]]
    world.embed(world.shards)
    assert world.tick() == "8 shards: all are current"


def test_every_request_says_where_it_is_from_and_is_found_again_in_its_tick(world):
    (one, two), again, next_tick = world.tick("00:00"), world.tick("00:00"), world.tick("00:05")
    assert one.tags["esm_sae/launched_by"] == "embed_missing_shards"
    assert one.tags[ATTEMPT_TAG] == two.tags[ATTEMPT_TAG]
    assert [request.run_key for request in again] == [one.run_key, two.run_key]
    assert len({request.run_key for request in [one, two, *next_tick]}) == 4


@pytest.mark.parametrize("status", [STATUS.QUEUED, STATUS.STARTING, STATUS.STARTED])
def test_what_a_run_is_at_is_not_launched_and_counts_as_in_progress(world, status):
    world.run(world.shards[1:3], status)
    assert launched(world.tick()) == [[0], [3]]
    world.run(world.shards[4:7], status)
    assert world.tick() == "8 shards: 3 to launch, 5 in progress"


@pytest.mark.parametrize("status", [STATUS.NOT_STARTED, STATUS.CANCELED])
def test_a_run_that_never_started_or_was_canceled_holds_nothing_up(world, status):
    world.run(world.shards, status)
    assert launched(world.tick()) == [[0, 1], [2, 3]]


@pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`")
def test_what_a_backfill_is_to_make_is_left_to_it(world):
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="b1",
        asset_graph=world.graph,
        partition_names=[world.shards[n] for n in (0, 1, 5)],
        asset_selection=[SHARDS],
        backfill_timestamp=0.0,
        tags={},
        dynamic_partitions_store=world.instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    world.instance.add_backfill(backfill)
    # One in progress fewer than may be.
    assert launched(world.tick()) == [[2]]
    world.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_FAILED))
    assert launched(world.tick()) == [[0, 1], [2, 3]]


def test_another_sample_makes_shards_outdated_and_the_same_again_does_not(world):
    world.embed(world.shards)
    world.provide()
    assert world.tick() == "8 shards: all are current"
    world.provide(data="2")
    assert launched(world.tick()) == [[0, 1], [2, 3]]


def test_while_the_sample_is_being_made_nothing_is_launched(world):
    run = world.run([], STATUS.STARTED, "sample_sequences")
    assert world.tick() == "a run or a backfill is at uniref50_1M_sample"
    world.make(world.sample, data="2", run=run)
    assert launched(world.tick()) == [[0, 1], [2, 3]]


def test_a_changed_setting_makes_shards_outdated(world, world_of):
    world.embed(world.shards)
    changed = world_of(embedding={"layer": 1})
    changed.embed(world.shards[:3])
    assert launched(changed.tick()) == [[3, 4], [5, 6]]


def test_a_shard_whose_files_are_gone_is_launched(world):
    world.embed(world.shards)
    (world.settings.root / f"embeddings3/embeddings_{world.shards[4]}.json").unlink()
    assert launched(world.tick()) == [[4]]


def test_a_failed_shard_is_tried_again_alone_and_then_left(world):
    attempt = world.tick()[0].tags[ATTEMPT_TAG]
    run = world.run(world.shards[2:5], STATUS.FAILURE, **{ATTEMPT_TAG: attempt})
    # One of them was made before the run failed.
    world.embed([world.shards[3]], run=run)
    # Behind those never tried.
    world.embed([world.shards[n] for n in (0, 1, 7)])
    assert launched(world.tick()) == [[5, 6], [2], [4]]
    world.run(world.shards[2:3], STATUS.FAILURE, **{ATTEMPT_TAG: attempt})
    assert launched(world.tick()) == [[5, 6], [4]]
    world.embed([world.shards[n] for n in (4, 5, 6)])
    left = world.tick()
    assert left.startswith("8 shards: 1 given up. given up after as many failures as may be: 0002-")
    assert "launch them yourself once the cause is gone" in left
    # From another sample it may come out.
    world.provide(data="2")
    assert launched(world.tick()) == [[0, 1], [2, 3]]


def test_a_shard_that_failed_when_it_was_made_anew_is_launched_although_it_is_there(world):
    world.embed(world.shards)
    world.run(world.shards[6:7], STATUS.FAILURE)
    assert launched(world.tick()) == [[6]]


def test_what_other_code_made_is_not_launched_for_ever(world, world_of):
    """A run reads settings and files anew; the code server knows those of when it was loaded."""
    attempt = world.tick()[0].tags[ATTEMPT_TAG]
    newer = world_of(embedding={"layer": 1})
    run = world.run(world.shards, STATUS.SUCCESS, **{ATTEMPT_TAG: attempt})
    newer.embed(world.shards, run=run)
    assert "8 made by other code" in world.tick()
    assert "reload the code location" in world.tick()
    assert newer.tick() == "8 shards: all are current"


def test_a_shard_that_runs_make_and_nobody_sees_here_is_not_launched_for_ever(world):
    world.embed(world.shards)
    (world.settings.root / f"embeddings3/embeddings_{world.shards[4]}.json").unlink()
    launches = 0
    while isinstance(requests := world.tick(), list):
        (request,) = requests
        launches += 1
        run = world.run(world.shards[4:5], STATUS.SUCCESS, **request.tags)
        world.make(SHARDS, world.shards[4], data=world.shards[4], run=run)
    assert launches == world.settings.schedules.attempts
    assert "1 made but not seen" in requests
    assert world.shards[4] in requests
    assert "is it the same folder" in requests


def test_the_schedule_is_off_unless_the_settings_say_otherwise():
    def status(**schedules):
        defs = build_defs(load_settings({}, schedules=schedules))
        (schedule,) = defs.get_repository_def().schedule_defs
        return schedule.default_status, schedule.cron_schedule

    assert status() == (dg.DefaultScheduleStatus.STOPPED, "*/5 * * * *")
    chosen = {"enabled": True, "cron": "0 3 * * *"}
    assert status(**chosen) == (dg.DefaultScheduleStatus.RUNNING, "0 3 * * *")


def test_dagster_evaluates_the_schedule(world_of, tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        defs = world_of().defs
        context = dg.build_schedule_context(
            instance,
            repository_def=defs.get_repository_def(),
            scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC),
        )
        (schedule,) = defs.get_repository_def().schedule_defs
        assert "launch the job sample_sequences" in schedule.evaluate_tick(context).skip_message
        RecordedWorld(world_of().settings, instance).provide()
        requests = schedule.evaluate_tick(context).run_requests
    assert [request.run_key for request in requests] == [
        "0000-of-0008+2@2026-01-01T00:00:00+00:00",
        "0002-of-0008+2@2026-01-01T00:00:00+00:00",
    ]


@pytest.mark.parametrize("cron", ["every day", "* * * * * *", "61 * * * *"])
def test_a_cron_expression_is_checked(cron):
    with pytest.raises(InputError, match=r"schedules\.cron.*five fields"):
        load_settings({"ESM_SAE_SCHEDULES_CRON": cron})
