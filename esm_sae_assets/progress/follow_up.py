"""What can be made next below the shards: what is not current and whose inputs are."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from esm_sae_assets.partition_ranges import contiguous
from esm_sae_assets.progress.attempts import attempt_of, last_runs, runs_of_attempt
from esm_sae_assets.progress.currency import (
    Target,
    inputs_of,
    is_current,
    latest,
    targets_in_order,
    versions_now,
)


@dataclass(frozen=True)
class FollowUp:
    """One run of a job: some of its assets, over neighbouring partitions or over none."""

    job: str
    assets: tuple[dg.AssetKey, ...]
    partitions: tuple[str, ...]

    def __str__(self) -> str:
        over = f" [{', '.join(self.partitions)}]" if self.partitions else ""
        return f"{', '.join(key.to_user_string() for key in self.assets)}{over}"

    @property
    def targets(self) -> list[Target]:
        """All that the run makes."""
        return [
            Target(key, partition)
            for key in self.assets
            for partition in (self.partitions or (None,))
        ]


@dataclass(frozen=True)
class Trials:
    """What became of earlier runs that made the same from the same.

    Attributes:
        attempt: what marks them.
        failures: how many failed since the output was last made.
        canceled: whether one of them was canceled since then.
        since: when that was, in whole seconds since the epoch; 0: never.
        made_it: whether one of them made it; it is not current all the same.
    """

    attempt: str
    failures: int
    canceled: bool
    since: int
    made_it: bool


def follow_ups(
    selections: Mapping[str, Collection[dg.AssetKey]],
    graph: AssetGraph,
    instance: dg.DagsterInstance,
) -> tuple[list[FollowUp], list[str]]:
    """Return the runs to launch, and the names of what is being made or waits for something.

    Assets that are in no selection are taken for current.

    Args:
        selections: the assets of each job, which have the same partitions.
        graph: with the assets.
        instance: with the records.
    """
    selected = set().union(*selections.values())
    targets = [target for target in targets_in_order(graph) if target.key in selected]
    outdated = [target for target in targets if not is_current(target, graph, instance)]
    busy = {
        key: last_runs(key, graph, instance).under_way for key in {each.key for each in outdated}
    }
    to_be_made, found, waiting = set(outdated), [], []
    for job, keys in selections.items():
        together: dict[str | None, list[Target]] = {}
        for target in outdated:
            if target.key not in keys:
                continue
            of_partition = together.setdefault(target.partition, [])
            inputs = _inputs(target, graph) & to_be_made
            if target.partition in busy[target.key] or not inputs <= set(of_partition):
                waiting.append(target.name)
            else:
                of_partition.append(target)
        found += _runs(job, together, graph)
    return found, list(dict.fromkeys(waiting))


def trials_of(run: FollowUp, graph: AssetGraph, instance: dg.DagsterInstance) -> Trials:
    """Look up what became of earlier runs that made the same from the same."""
    wanted = {target: versions_now(target, graph, instance) for target in run.targets}
    attempt = attempt_of(
        [[each.name, each.partition, asdict(now) if now else None] for each, now in wanted.items()]
    )
    records = [latest(target, instance) for target in run.targets]
    made = {record.run_id: record.timestamp for record in records if record is not None}
    since = max(made.values(), default=0.0)
    ended = runs_of_attempt(attempt, instance)
    later = [each for each in ended if each.created > since]
    return Trials(
        attempt,
        sum(each.failed for each in later),
        any(each.canceled for each in later),
        int(since),
        any(each.succeeded and each.run_id in made for each in ended),
    )


def _inputs(target: Target, graph: AssetGraph) -> set[Target]:
    return {
        Target(parent, partition)
        for parent, partitions in inputs_of(target, graph).items()
        for partition in partitions
    }


def _runs(
    job: str, together: Mapping[str | None, Iterable[Target]], graph: AssetGraph
) -> list[FollowUp]:
    """Put partitions of which the same is to be made into one run, where the assets allow it."""
    by_assets: dict[tuple[dg.AssetKey, ...], list[str | None]] = {}
    for partition, targets in together.items():
        by_assets.setdefault(tuple(target.key for target in targets), []).append(partition)
    runs = []
    for keys, partitions in by_assets.items():
        if not keys:
            continue
        node = graph.get(keys[0])
        if node.partitions_def is None:
            runs.append(FollowUp(job, keys, ()))
            continue
        most = 1 if node.backfill_policy is None else node.backfill_policy.max_partitions_per_run
        named = [name for name in partitions if name is not None]
        groups = contiguous(named, node.partitions_def.get_partition_keys(), most=most)
        runs += [FollowUp(job, keys, tuple(group)) for group in groups]
    return runs
