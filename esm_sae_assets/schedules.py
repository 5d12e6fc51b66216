"""The schedule that embeds what is missing, a few shards at a time."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from esm_sae_assets.jobs import EMBED, SAMPLE
from esm_sae_assets.partition_ranges import range_tags
from esm_sae_assets.partitions import shard_partitions
from esm_sae_assets.progress.attempts import ATTEMPT_TAG, LAUNCHED_BY_TAG, last_runs
from esm_sae_assets.progress.backlog import shard_backlog
from esm_sae_assets.settings import Settings

NAME = "embed_missing_shards"


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Build the schedules."""
    chosen, on_off = settings.schedules, dg.DefaultScheduleStatus

    @dg.schedule(
        name=NAME,
        job_name=EMBED,
        cron_schedule=chosen.cron,
        execution_timezone="UTC",
        default_status=on_off.RUNNING if chosen.enabled else on_off.STOPPED,
        description="Launches the shards that are missing, outdated or failed, at most "
        f"{chosen.shards_at_once} at once, and none that a run or a backfill is at.",
    )
    def embed_missing_shards(
        context: dg.ScheduleEvaluationContext,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        graph, instance = context.repository_def.asset_graph, context.instance
        when = context.scheduled_execution_time.isoformat()
        requests, state = shards_to_embed(settings, graph, instance, when)
        context.log.info(state)
        return requests or dg.SkipReason(state)

    return [embed_missing_shards]


def shards_to_embed(
    settings: Settings, graph: AssetGraph, instance: dg.DagsterInstance, tick: str
) -> tuple[list[dg.RunRequest], str]:
    """Return the runs to launch in a tick, and how far the shards are."""
    sample = dg.AssetKey(settings.embedding.sample)
    if last_runs(sample, graph, instance).under_way:
        return [], f"a run or a backfill is at {sample.to_user_string()}"
    backlog = shard_backlog(settings, graph, instance)
    if backlog is None:
        return [], f"{sample.to_user_string()} is not there yet; launch the job {SAMPLE}"
    chosen, keys = settings.schedules, shard_partitions(settings).get_partition_keys()
    runs = backlog.runs(keys, most=chosen.shards_per_run, at_once=chosen.shards_at_once)
    requests = [_request(run, backlog.attempt, tick) for run in runs]
    return requests, backlog.described(len(keys))


def _request(run: Sequence[str], attempt: str, tick: str) -> dg.RunRequest:
    over = range_tags(run) if len(run) > 1 else {}
    return dg.RunRequest(
        # A tick that is cut off and evaluated again finds the runs that it had launched.
        run_key=f"{run[0]}+{len(run)}@{tick}",
        partition_key=None if over else run[0],
        tags={LAUNCHED_BY_TAG: NAME, ATTEMPT_TAG: attempt, **over},
    )
