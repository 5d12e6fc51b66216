"""Runs that were launched to make an output: those under way, and those that failed."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

LAUNCHED_BY_TAG = "esm_sae/launched_by"
ATTEMPT_TAG = "esm_sae/attempt"

# Not NOT_STARTED: a launch that was killed leaves such a run behind, which never starts.
_UNDER_WAY = {
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
}
_ENDED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]
_BACKFILL_UNDER_WAY = [
    BulkActionStatus.REQUESTED,
    BulkActionStatus.CANCELING,
    BulkActionStatus.FAILING,
]
_RUNS_AT_ONCE = 500


@dataclass(frozen=True)
class LastRuns:
    """Partitions of an asset by their last run, where that recorded nothing; None: the asset.

    Attributes:
        under_way: those that a run or a backfill is at, or has queued.
        failed: those whose last run failed.
    """

    under_way: set[str | None]
    failed: set[str | None]


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended; when it was created, in seconds since the epoch."""

    run_id: str
    status: dg.DagsterRunStatus
    created: float
    tags: Mapping[str, str]

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        return self.status is dg.DagsterRunStatus.FAILURE

    @property
    def succeeded(self) -> bool:
        """Whether it did all it was to do."""
        return self.status is dg.DagsterRunStatus.SUCCESS

    @property
    def canceled(self) -> bool:
        """Whether someone ended it."""
        return self.status is dg.DagsterRunStatus.CANCELED


def attempt_of(*what: Any) -> str:
    """Return the value of ``ATTEMPT_TAG`` for runs that make the same from the same."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def last_runs(key: dg.AssetKey, graph: AssetGraph, instance: dg.DagsterInstance) -> LastRuns:
    """Look up the last runs over an asset, with a few queries whatever its partitions are."""
    planned = _planned(key, graph, instance)
    states = _states_of(set(planned.values()), instance)
    under_way = {partition for partition, run in planned.items() if states.get(run) in _UNDER_WAY}
    failed = {
        partition
        for partition, run in planned.items()
        if states.get(run) is dg.DagsterRunStatus.FAILURE
    }
    return LastRuns(under_way | _in_backfills(key, graph, instance), failed)


def runs_of_attempt(attempt: str, instance: dg.DagsterInstance) -> list[EndedRun]:
    """Return the runs of an attempt that have ended."""
    chosen = dg.RunsFilter(statuses=_ENDED, tags={ATTEMPT_TAG: attempt})
    records = instance.get_run_records(chosen)
    return [
        EndedRun(
            record.dagster_run.run_id,
            record.dagster_run.status,
            record.create_timestamp.replace(tzinfo=UTC).timestamp(),
            record.dagster_run.tags,
        )
        for record in records
    ]


def _planned(
    key: dg.AssetKey, graph: AssetGraph, instance: dg.DagsterInstance
) -> dict[str | None, str]:
    """Return the last run planned over each partition, where it recorded nothing of it."""
    log = instance.event_log_storage
    if graph.get(key).partitions_def is not None:
        unmade = log.get_latest_asset_partition_materialization_attempts_without_materializations
        found = unmade(key)
        return {partition: run for partition, (run, _) in found.items()}
    last = log.get_latest_planned_materialization_info(key)
    made = instance.fetch_materializations(key, limit=1).records
    if last is None or (made and made[0].run_id == last.run_id):
        return {}
    return {None: last.run_id}


def _states_of(runs: Iterable[str], instance: dg.DagsterInstance) -> dict[str, dg.DagsterRunStatus]:
    ordered, states = sorted(runs), {}
    for start in range(0, len(ordered), _RUNS_AT_ONCE):
        some = dg.RunsFilter(run_ids=ordered[start : start + _RUNS_AT_ONCE])
        states |= {run.run_id: run.status for run in instance.get_runs(some)}
    return states


def _in_backfills(
    key: dg.AssetKey, graph: AssetGraph, instance: dg.DagsterInstance
) -> set[str | None]:
    """Return the partitions that a backfill is to make, until it has ended."""
    partitions_def = graph.get(key).partitions_def
    keys: Sequence[str] = partitions_def.get_partition_keys() if partitions_def else []
    targeted: set[str | None] = set()
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=_BACKFILL_UNDER_WAY)):
        if not backfill.is_asset_backfill:
            # Of a job; the keys of shards and of k have nothing in common.
            targeted |= set(backfill.partition_names or []) & set(keys)
            continue
        target = backfill.get_asset_backfill_data(graph).target_subset
        if key in target.asset_keys:
            some = target.get_partitions_subset(key).get_partition_keys() if partitions_def else []
            targeted |= set(some) if partitions_def else {None}
    return targeted
