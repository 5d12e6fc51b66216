"""Sensors: training once all shards are there, and sampling once there is another source."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from esm_sae.errors import InputError
from esm_sae_assets.jobs import COLLECT, EMBED, SAMPLE, TRAIN
from esm_sae_assets.partition_ranges import range_tags
from esm_sae_assets.progress.attempts import (
    ATTEMPT_TAG,
    LAUNCHED_BY_TAG,
    attempt_of,
    last_runs,
    runs_of_attempt,
)
from esm_sae_assets.progress.backlog import shard_backlog
from esm_sae_assets.progress.follow_up import FollowUp, Trials, follow_ups, trials_of
from esm_sae_assets.progress.source_state import source_state
from esm_sae_assets.settings import Settings

TRAIN_AFTER_EMBEDDING, NEW_SOURCE = "train_after_embedding", "new_source"

_SOURCE = dg.AssetKey("uniref50_fasta")


def sensors(settings: Settings, jobs: Sequence[Any]) -> list[dg.SensorDefinition]:
    """Build the sensors; ``jobs`` are those of the code location."""
    return [_train_after_embedding(settings, jobs), _new_source(settings, jobs)]


def what_follows(
    settings: Settings,
    selections: Mapping[str, Collection[dg.AssetKey]],
    graph: AssetGraph,
    instance: dg.DagsterInstance,
) -> tuple[list[dg.RunRequest], str]:
    """Return the runs to launch once all shards are there, and what holds others up.

    Args:
        settings: of the code location.
        selections: the assets of each job that may be launched.
        graph: with the assets.
        instance: with the records.
    """
    sample = dg.AssetKey(settings.embedding.sample)
    if last_runs(sample, graph, instance).under_way:
        return [], f"a run or a backfill is at {sample.to_user_string()}"
    backlog = shard_backlog(settings, graph, instance)
    if backlog is None:
        return [], f"{sample.to_user_string()} is not there yet"
    if not backlog.is_empty:
        return [], backlog.described(settings.shard_count)
    runs, waiting = follow_ups(selections, graph, instance)
    requests, said = [], []
    for run in runs:
        trials = trials_of(run, graph, instance)
        refusal = _refusal(run, trials, settings.schedules.attempts)
        if refusal:
            said.append(refusal)
        else:
            requests.append(_request(run, trials))
    if waiting:
        said.append(f"being made, or waiting for what it is made from: {', '.join(waiting)}")
    return requests, "; ".join(said) or f"{len(requests)} runs to launch"


def look_at_source(
    settings: Settings, cursor: str | None, graph: AssetGraph, instance: dg.DagsterInstance
) -> dg.SensorResult | dg.SkipReason:
    """Ask for the samples where the source is not what it was at the last look.

    ``cursor`` is what the last look left: the state of the source, and how many there have been.
    """
    try:
        state = source_state(settings)
    except InputError as error:
        return dg.SkipReason(str(error))
    last: Mapping[str, Any] = json.loads(cursor) if cursor else {"number": 0, "state": None}
    number = last["number"] + (state != last["state"])
    # By its number: a source that is what it was two releases ago is sampled all the same.
    attempt = attempt_of(NEW_SOURCE, number, state)
    ended = runs_of_attempt(attempt, instance)
    requests, reason = [], None
    if last_runs(_SOURCE, graph, instance).under_way:
        reason = "the source is being sampled"
    elif any(run.succeeded for run in ended):
        reason = f"sampled: {state}"
    elif any(run.canceled for run in ended):
        reason = f"canceled on {state}; launch the job {SAMPLE} yourself"
    elif len(ended) >= settings.schedules.attempts:
        reason = (
            f"{len(ended)} runs failed on {state}; look at them, and launch the job {SAMPLE} "
            "yourself once the cause is gone"
        )
    else:
        tags = {LAUNCHED_BY_TAG: NEW_SOURCE, ATTEMPT_TAG: attempt}
        requests = [dg.RunRequest(run_key=f"{attempt}-{len(ended)}", tags=tags)]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=reason,
        cursor=json.dumps({"number": number, "state": state}),
    )


def _train_after_embedding(settings: Settings, jobs: Sequence[Any]) -> dg.SensorDefinition:
    chosen = settings.schedules
    left_out = {SAMPLE, EMBED}
    wanted = [
        job
        for job in jobs
        if (job.name not in left_out if chosen.analyse else job.name in (COLLECT, TRAIN))
    ]

    @dg.sensor(
        name=TRAIN_AFTER_EMBEDDING,
        jobs=wanted,
        minimum_interval_seconds=chosen.seconds_between_looks,
        default_status=_default_status(settings),
        description="Once all shards are there: their manifest, then the training of every k whose "
        "inputs are others" + (", then all that is below." if chosen.analyse else "."),
    )
    def train_after_embedding(
        context: dg.SensorEvaluationContext,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        assert context.repository_def is not None
        graph = context.repository_def.asset_graph
        selections = {job.name: job.selection.resolve(graph) for job in wanted}
        requests, said = what_follows(settings, selections, graph, context.instance)
        context.log.info(said)
        return requests or dg.SkipReason(said)

    return train_after_embedding


def _new_source(settings: Settings, jobs: Sequence[Any]) -> dg.SensorDefinition:
    chosen = settings.schedules

    @dg.sensor(
        name=NEW_SOURCE,
        jobs=[job for job in jobs if job.name == SAMPLE],
        minimum_interval_seconds=chosen.seconds_between_source_looks,
        default_status=_default_status(settings),
        description="Samples the source anew when it is another file or release. The first look "
        "samples in any case: where nothing is new, all stays unchanged.",
    )
    def new_source(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        assert context.repository_def is not None
        return look_at_source(
            settings, context.cursor, context.repository_def.asset_graph, context.instance
        )

    return new_source


def _default_status(settings: Settings) -> dg.DefaultSensorStatus:
    on_off = dg.DefaultSensorStatus
    return on_off.RUNNING if settings.schedules.enabled else on_off.STOPPED


def _refusal(run: FollowUp, trials: Trials, attempts: int) -> str | None:
    """Say why a run is not launched again; None where it can be."""
    if trials.canceled:
        return f"{run}: was canceled; launch it yourself"
    if trials.failures >= attempts:
        return (
            f"{run}: {trials.failures} runs failed; look at them, and launch it yourself once the "
            "cause is gone"
        )
    if trials.made_it:
        return (
            f"{run}: was made from what is there now, and is not current all the same: a file is "
            "gone, or it was made by other code than is loaded here; reload the code location, "
            "or launch it yourself"
        )
    return None


def _request(run: FollowUp, trials: Trials) -> dg.RunRequest:
    several = len(run.partitions) > 1
    over = range_tags(run.partitions) if several else {}
    return dg.RunRequest(
        # The same run is requested once, and once more after each failure.
        run_key=f"{trials.attempt}-{trials.since}-{trials.failures}",
        job_name=run.job,
        asset_selection=list(run.assets),
        partition_key=run.partitions[0] if run.partitions and not several else None,
        tags={LAUNCHED_BY_TAG: TRAIN_AFTER_EMBEDDING, ATTEMPT_TAG: trials.attempt, **over},
    )
