"""Runs over several partitions, on assets of the test's own."""

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from esm_sae.errors import InputError, ResumableError
from esm_sae_assets.partition_ranges import (
    contiguous,
    one_by_one,
    partitions_of_run,
    range_tags,
    record_each,
)
from esm_sae_assets.progress.currency import Target, runs_of

KEYS = ["16", "32", "64"]
PARTITIONS = dg.StaticPartitionsDefinition(KEYS)
ALL = ("16", "64")
MATERIALISED, FAILED = "MATERIALIZED", "FAILED"


class World:
    """Three assets in a row, and what they are made of."""

    def __init__(self, instance):
        self.instance = instance
        self.rows = "rows-1"
        self.trained = {key: f"weights-{key}" for key in KEYS}
        self.failing = set()
        self.assets = self._assets()
        self.defs = dg.Definitions(self.assets)

    def run(self, name, partition=None, over=None):
        tags = {}
        if over is not None:
            tags["dagster/asset_partition_range_start"] = over[0]
            tags["dagster/asset_partition_range_end"] = over[1]
        return dg.materialize(
            self.assets,
            selection=[name],
            partition_key=partition,
            tags=tags,
            instance=self.instance,
            raise_on_error=False,
        )

    def latest(self, name, partition):
        chosen = dg.AssetRecordsFilter(dg.AssetKey(name), asset_partitions=[partition])
        (record,) = self.instance.fetch_materializations(chosen, limit=1).records
        return record.asset_materialization

    def versions(self):
        return {key: self.latest("trained", key).tags["dagster/data_version"] for key in KEYS}

    def status(self):
        found = self.instance.get_status_by_partition(dg.AssetKey("trained"), KEYS, PARTITIONS)
        return [found[key].value if found[key] else None for key in KEYS]

    def stale(self):
        """Return which targets are stale, as Dagster shows it."""
        graph = self.defs.resolve_asset_graph()
        context = LoadingContextForTest(self.instance)
        resolver = CachingStaleStatusResolver(self.instance, graph, context)
        return {
            (name, key)
            for name in ("trained", "measured")
            for key in KEYS
            if resolver.get_status(dg.AssetKey(name), key) == StaleStatus.STALE
        }

    def _assets(self):
        @dg.asset(code_version="1")
        def rows():
            return dg.MaterializeResult(data_version=dg.DataVersion(self.rows))

        @dg.asset(
            deps=[rows],
            partitions_def=PARTITIONS,
            backfill_policy=dg.BackfillPolicy.single_run(),
            output_required=False,
            code_version="7",
        )
        def trained(context: dg.AssetExecutionContext):
            yield from record_each(context, self._train(context.partition_keys))

        @dg.asset(deps=[trained], partitions_def=PARTITIONS, code_version="1")
        def measured(context: dg.AssetExecutionContext):
            version = f"measures of {self.trained[context.partition_key]}"
            return dg.MaterializeResult(data_version=dg.DataVersion(version))

        return [rows, trained, measured]

    def _train(self, keys):
        for key in keys:
            if key not in self.failing:
                yield (
                    key,
                    dg.MaterializeResult(
                        data_version=dg.DataVersion(self.trained[key]), metadata={"k": int(key)}
                    ),
                )
        if self.failing & set(keys):
            raise dg.Failure(f"failed: {sorted(self.failing)}")


@pytest.fixture
def world(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        made = World(instance)
        made.run("rows")
        yield made


def test_each_partition_of_a_range_has_its_own_version_and_metadata(world):
    result = world.run("trained", over=ALL)
    assert result.success
    assert world.versions() == {key: f"weights-{key}" for key in KEYS}
    assert [world.latest("trained", key).metadata["k"].value for key in KEYS] == [16, 32, 64]
    assert world.status() == [MATERIALISED] * 3
    assert world.stale() == set()
    # One event each: nothing of the step's end lies over them.
    assert len(result.asset_materializations_for_node("trained")) == 3


@pytest.mark.parametrize("rows_are_there", [True, False])
def test_the_tags_are_those_that_dagster_gives_a_partition_alone(tmp_path, rows_are_there):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        world = World(instance)
        if rows_are_there:
            world.run("rows")
        world.run("trained", partition="32")
        alone = world.latest("trained", "32").tags
        world.run("trained", over=("16", "32"))
        assert world.latest("trained", "32").tags == alone
        assert alone["dagster/code_version"] == "7"
        assert world.stale() == set()


def test_what_is_below_is_stale_only_of_the_partition_that_changed(world):
    world.run("trained", over=ALL)
    for key in KEYS:
        world.run("measured", partition=key)
    world.trained["32"] = "other weights"
    world.run("trained", over=ALL)
    assert world.stale() == {("measured", "32")}
    world.run("measured", partition="32")
    assert world.stale() == set()


def test_other_rows_make_every_partition_stale(world):
    world.run("trained", over=ALL)
    world.rows = "rows-2"
    world.run("rows")
    assert world.stale() == {("trained", key) for key in KEYS}
    world.run("trained", over=("16", "32"))
    assert world.stale() == {("trained", "64")}


def test_what_finished_stays_when_another_partition_fails(world):
    world.failing = {"32"}
    assert not world.run("trained", over=ALL).success
    assert world.status() == [MATERIALISED, FAILED, MATERIALISED]
    world.failing = set()
    assert world.run("trained", partition="32").success
    assert world.status() == [MATERIALISED] * 3
    assert world.versions() == {key: f"weights-{key}" for key in KEYS}


def test_a_failure_leaves_the_older_output_of_that_partition_stale(world):
    world.run("trained", over=ALL)
    world.rows, world.failing = "rows-2", {"32"}
    world.trained = {key: f"new weights-{key}" for key in KEYS}
    world.run("rows")
    assert not world.run("trained", over=ALL).success
    assert world.versions() == world.trained | {"32": "weights-32"}
    assert world.status() == [MATERIALISED, FAILED, MATERIALISED]
    assert world.stale() == {("trained", "32")}


@pytest.mark.parametrize(
    ("chosen", "groups"),
    [
        ([], []),
        (["b"], [["b"]]),
        (["a", "b", "c"], [["a", "b", "c"]]),
        (["d", "a", "b"], [["a", "b"], ["d"]]),
        (["a", "c"], [["a"], ["c"]]),
    ],
)
def test_neighbours_go_together(chosen, groups):
    assert contiguous(chosen, "abcd") == groups


def test_a_run_has_at_most_so_many():
    assert contiguous("abcef", "abcdef", most=2) == [["a", "b"], ["c"], ["e", "f"]]
    assert contiguous("abc", "abc", most=1) == [["a"], ["b"], ["c"]]


def test_the_tags_of_a_run_tell_its_partitions():
    assert partitions_of_run(range_tags(["b", "c"]), list("abcd")) == ["b", "c"]
    assert partitions_of_run({"dagster/partition": "d"}, list("abcd")) == ["d"]
    # Of other partitions than there are by now.
    assert partitions_of_run({"dagster/partition": "x"}, list("abcd")) == []
    assert partitions_of_run({}, list("abcd")) == []


def _make(failing):
    def make(partition):
        if partition in failing:
            raise failing[partition]
        return dg.MaterializeResult(data_version=dg.DataVersion(partition))

    return make


def test_what_cannot_be_used_is_named_once_the_rest_is_made():
    made = []
    failing = {
        "a": InputError("a is bad"),
        "c": InputError("c is bad"),
        "d": InputError("c is bad"),
    }
    with pytest.raises(InputError, match=r"^a is bad; c is bad$"):
        list(one_by_one("abcde", _append_to(made, _make(failing))))
    assert made == ["b", "e"]


def test_a_full_disk_ends_the_run_at_once():
    made = []
    failing = {"b": ResumableError("the disk is full")}
    with pytest.raises(ResumableError, match="full"):
        list(one_by_one("abc", _append_to(made, _make(failing))))
    assert made == ["a"]


def _append_to(made, make):
    def make_and_note(partition):
        result = make(partition)
        made.append(partition)
        return result

    return make_and_note


def test_only_assets_that_take_a_range_are_run_over_one(world):
    def runs(name, keys):
        targets = [Target(dg.AssetKey(name), key) for key in keys]
        graph = world.defs.resolve_asset_graph()
        return [[target.partition for target in run] for run in runs_of(targets, graph)]

    assert runs("trained", KEYS) == [KEYS]
    assert runs("trained", ["16", "64"]) == [["16"], ["64"]]
    assert runs("measured", KEYS) == [["16"], ["32"], ["64"]]
    assert runs("rows", [None]) == [[None]]
    assert runs("trained", []) == []
