"""Shards that are to be made: missing, outdated or failed, and those that someone is at."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from esm_sae.formats.shards import parse_shard_key, shard_name
from esm_sae_assets.partition_ranges import contiguous, partitions_of_run
from esm_sae_assets.partitions import shard_partitions
from esm_sae_assets.progress.attempts import EndedRun, attempt_of, last_runs, runs_of_attempt
from esm_sae_assets.progress.currency import Made, Target, made_partitions, versions_now
from esm_sae_assets.resources import data_root
from esm_sae_assets.settings import Settings

SHARDS = dg.AssetKey("embedding_shards")

_MOST_NAMED = 10


@dataclass(frozen=True)
class Backlog:
    """Partitions of an asset that are not as they should be, in the order of its keys.

    Attributes:
        attempt: what marks the runs that make them from the present code and inputs.
        ready: those to launch.
        tried: how often runs of this attempt failed on those to launch, where they did.
        under_way: those that a run or a backfill is at.
        given_up: those on which as many runs of this attempt failed as may.
        made_otherwise: those that such a run made, but from other code than is loaded here.
        unseen: those that as many runs made as may fail, and whose file is still not seen here.
    """

    attempt: str
    ready: list[str]
    tried: Mapping[str, int]
    under_way: list[str]
    given_up: list[str]
    made_otherwise: list[str]
    unseen: list[str]

    @property
    def is_empty(self) -> bool:
        """Whether all partitions are there, made from the present code and inputs."""
        stuck = self.given_up or self.made_otherwise or self.unseen
        return not (self.ready or self.under_way or stuck)

    def described(self, count: int) -> str:
        """Say in a few words how far ``count`` partitions are, and which need someone."""
        parts = [
            (self.ready, "to launch"),
            (self.under_way, "in progress"),
            (self.given_up, "given up"),
            (self.made_otherwise, "made by other code"),
            (self.unseen, "made but not seen"),
        ]
        counts = [f"{len(names):,} {what}" for names, what in parts if names]
        said = [f"{count:,} shards: {', '.join(counts) or 'all are current'}"]
        if self.given_up:
            said.append(
                f"given up after as many failures as may be: {_some(self.given_up)}; look at "
                "their runs, and launch them yourself once the cause is gone"
            )
        if self.made_otherwise:
            said.append(
                f"made, but by other code than is loaded here: {_some(self.made_otherwise)}; "
                "reload the code location"
            )
        if self.unseen:
            said.append(
                f"made again and again, and not in the data root as seen here: "
                f"{_some(self.unseen)}; is it the same folder where runs are launched from and "
                "where they run?"
            )
        return ". ".join(said)

    def runs(self, keys: Sequence[str], *, most: int, at_once: int) -> list[list[str]]:
        """Return what to launch now, one list of neighbours per run.

        One on which a run failed gets a run of its own, after the others: what fails hard does
        not take its neighbours with it again.

        Args:
            keys: all partitions.
            most: length of the longest run.
            at_once: most partitions in progress.
        """
        room = max(0, at_once - len(self.under_way))
        untried = [key for key in self.ready if key not in self.tried][:room]
        again = [key for key in self.ready if key in self.tried][: room - len(untried)]
        return [*contiguous(untried, keys, most=most), *([key] for key in again)]


def shard_backlog(
    settings: Settings, graph: AssetGraph, instance: dg.DagsterInstance
) -> Backlog | None:
    """Look up which shards are to be embedded; None where their sample is not there yet."""
    return backlog_of(
        SHARDS,
        graph,
        instance,
        attempts=settings.schedules.attempts,
        lost=_lost_shards(settings),
    )


def backlog_of(
    key: dg.AssetKey,
    graph: AssetGraph,
    instance: dg.DagsterInstance,
    *,
    attempts: int,
    lost: Collection[str] = (),
) -> Backlog | None:
    """Look up what is to be made of an asset whose inputs have no partitions.

    A few queries, whatever the number of partitions is. None where an input is not there yet.

    Args:
        key: of the asset.
        graph: with the asset.
        instance: with the records.
        attempts: failed runs after which a partition is left alone.
        lost: partitions that are recorded but gone from the data root.
    """
    partitions = graph.get(key).partitions_def
    assert partitions is not None
    now = versions_now(Target(key, None), graph, instance)
    if now is None:
        return None
    keys = list(partitions.get_partition_keys())
    made, last = made_partitions(key, instance), last_runs(key, graph, instance)
    attempt = attempt_of(key.to_user_string(), asdict(now))
    outdated = {name for name in keys if name not in made or not made[name].versions.are(now)}
    wanted = [name for name in keys if name in outdated | last.failed | set(lost)]
    left = [name for name in wanted if name not in last.under_way]
    ended = runs_of_attempt(attempt, instance) if left else []
    tried = _failures(ended, keys, made)
    given_up = [name for name in left if tried[name] >= attempts]
    ids = {run.run_id for run in ended if run.succeeded}
    unlike = [name for name in left if name in outdated & made.keys() and made[name].run_id in ids]
    brought = Counter(
        name for run in ended if run.succeeded for name in partitions_of_run(run.tags, keys)
    )
    unseen = [name for name in left if name in lost and brought[name] >= attempts]
    return Backlog(
        attempt,
        [name for name in left if name not in {*given_up, *unlike, *unseen}],
        {name: count for name, count in tried.items() if name in left},
        [name for name in keys if name in last.under_way],
        given_up,
        unlike,
        unseen,
    )


def _lost_shards(settings: Settings) -> set[str]:
    """Return the shards without a manifest in the data root, made or not.

    On object storage that would take requests at every look: there the records decide alone.
    """
    data = data_root(settings)
    if not data.is_local:
        return set()
    folder = data.shards
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {
        key
        for key in shard_partitions(settings).get_partition_keys()
        if f"{shard_name(*parse_shard_key(key))}.json" not in there
    }


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more:,} more" if more > 0 else shown


def _failures(
    ended: Iterable[EndedRun], keys: Sequence[str], made: Mapping[str, Made]
) -> Counter[str]:
    """Count the failed runs over each partition since it was made."""
    return Counter(
        name
        for run in ended
        if run.failed
        for name in partitions_of_run(run.tags, keys)
        if name not in made or made[name].timestamp < run.created
    )
