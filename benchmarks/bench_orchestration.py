"""What the orchestration itself costs as shards grow in number: Dagster, its log, the checks.

    python benchmarks/bench_orchestration.py --folder DIR [--shards 640 4000] [--per-run 8]

A shard holds one protein of a few residues, so that what remains is the cost of having a shard. The
first 64 or so are embedded by steps in one process, in runs of ``--per-run``, all with the pictures
of the first; the others by the library, and recorded with the metadata of those, so that the log
has as much to read. Then a real ``dagster dev`` is asked what the UI asks, and given a backfill
over all shards, of which the first runs are timed before it is cancelled.

Seconds are wall time and, where this process does it all, that of its cores ("core s"). A folder
that an earlier call left is gone on with.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "esm_sae_assets_tests" / "support"))

from dagster_dev import Ask, dagster_dev, launch_backfill
from esm_sae.embedding import embed_shard, load_encoder
from esm_sae.formats.shards import parse_shard_key
from esm_sae_assets.assets.embeddings import embedding_options
from esm_sae_assets.demo import prepare_instance
from esm_sae_assets.metadata import MANIFEST_KEY
from esm_sae_assets.partition_ranges import DATA_VERSION_TAG
from esm_sae_assets.progress.currency import is_current, targets_in_order
from esm_sae_assets.schedules import NAME as SCHEDULE
from esm_sae_assets.settings import load_settings
from rerunning import World, same_pictures

SHARDS, MANIFEST = "embedding_shards", "embedding_manifest"
SAMPLES = ("uniref50_fasta", "uniref50_10M_sample", "uniref50_1M_sample")

_RUNS_OF_STEPS, _RUNS_TIMED = 8, 3
_LOAD = """
import json, time
started, cores = time.perf_counter(), time.process_time()
import esm_sae_assets.definitions
seconds = time.perf_counter() - started
print(json.dumps([seconds, time.process_time() - cores]))
"""
_QUERIES = {
    "partition health of the shards": """
{ assetNodes(assetKeys: [{path: ["embedding_shards"]}]) {
    partitionStats { numMaterialized numFailed numMaterializing }
    assetPartitionStatuses { ... on DefaultPartitionStatuses {
        materializedPartitions failedPartitions materializingPartitions } } } }""",
    "keys of the shards": """
{ assetNodes(assetKeys: [{path: ["embedding_shards"]}]) { partitionKeys } }""",
    "staleness of the manifest": """
{ assetNodes(assetKeys: [{path: ["embedding_manifest"]}]) { staleStatus } }""",
    "staleness of every shard": """
{ assetNodes(assetKeys: [{path: ["embedding_shards"]}]) { staleStatusByPartition } }""",
    "the graph with what is stale": """
{ assetNodes { assetKey { path } staleStatus partitionStats { numMaterialized } } }""",
}
# What their commands have in them.
_SERVERS = {"webserver": "dagster_webserver", "daemon": "._daemon", "code server": " api grpc "}
_RUNS = """
query ($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
    ... on Runs { results { status creationTime startTime endTime } } } }"""
_CANCEL = "mutation ($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"


def main() -> None:
    """Parse the options, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where projects are made")
    parser.add_argument("--shards", type=int, nargs="+", default=[640, 4_000])
    parser.add_argument("--per-run", type=int, default=8, help="shards in a run")
    options = parser.parse_args()
    columns = [_measure(count, options.per_run, options.folder) for count in options.shards]
    for name in columns[0]:
        cells = " | ".join(f"{column[name]:,.4g}" for column in columns)
        print(f"| {name} | {cells} |")


def _measure(count: int, per_run: int, folder: Path) -> dict[str, float]:
    project = folder / f"shards_{count}"
    variables = _prepare(project, count, per_run)
    found: dict[str, float] = {"shards": count}
    found |= _loading(variables)
    with dg.DagsterInstance.from_config(str(project / ".dagster")) as instance:
        world = World(load_settings(variables), instance)
        found |= _embedding(world, per_run, project)
        found |= _looking(world)
    with dagster_dev(project) as ask:
        found |= _serving(ask)
        found |= _backfill(ask)
    (project / "figures.json").write_text(json.dumps(found, indent=1))
    return found


def _prepare(project: Path, count: int, per_run: int) -> dict[str, str]:
    project.mkdir(parents=True, exist_ok=True)
    source = project / "proteins.fasta"
    generator = np.random.default_rng(0)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    with source.open("w") as file:
        for number in range(count):
            header = f"UniRef50_P{number:06d} Protein n=1 Tax=Taxon TaxID=9606 RepID=P_{number}"
            file.write(f">{header}\n{''.join(generator.choice(letters, 6))}\n")
    os.utime(source, ns=(0, 0))
    prepare_instance(project)
    variables = {
        "ESM_SAE_DATA_ROOT": str(project / "data"),
        "ESM_SAE_SOURCE": str(source),
        "ESM_SAE_SAMPLES_SMALL_SIZE": str(count),
        "ESM_SAE_EMBEDDING_SEQUENCES_PER_SHARD": "1",
        "ESM_SAE_EMBEDDING_RESIDUES_PER_PROTEIN": "4",
        "ESM_SAE_SCHEDULES_SHARDS_PER_RUN": str(per_run),
    }
    lines = [f"{name}={value}" for name, value in variables.items()]
    with (project / ".env").open("a") as file:
        file.write("\n".join(lines) + "\n")
    return variables


def _loading(variables: dict[str, str]) -> dict[str, float]:
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", _LOAD],
                env=os.environ | variables,
                capture_output=True,
                check=True,
            ).stdout
        )
        for _ in range(3)
    ]
    return {
        "definitions: s to load, median of 3": statistics.median(each[0] for each in found),
        "definitions: core s": statistics.median(each[1] for each in found),
    }


def _embedding(world: World, per_run: int, project: Path) -> dict[str, float]:
    for name in SAMPLES:
        world.run(name)
    keys = world.partitions(SHARDS)
    by_steps, others = keys[: _RUNS_OF_STEPS * per_run], keys[_RUNS_OF_STEPS * per_run :]
    before = _bytes_below(project / ".dagster")
    taken: list[Taken] = []
    with same_pictures():
        # The first run loads the encoder and what is imported late.
        for start in range(0, len(by_steps), per_run):
            run = functools.partial(world.run, SHARDS, *by_steps[start : start + per_run])
            taken.append(_timed(run))
    inside = [each["seconds"] for run in taken for each in run.result]
    after = _bytes_below(project / ".dagster")
    _fill(world, others)
    manifest = _timed(lambda: world.run(MANIFEST))
    return {
        "a shard, in its step: s, median": statistics.median(inside),
        "a run of shards, in a process that goes on: s, median": statistics.median(
            run.seconds for run in taken[1:]
        ),
        "that run: core s": statistics.median(run.cores for run in taken[1:]),
        "a shard: KB in the instance": (after - before) / len(by_steps) / 1e3,
        "manifest of all shards: s": manifest.seconds,
        "the manifest: core s": manifest.cores,
    }


def _fill(world: World, keys: list[str]) -> None:
    """Embed shards by the library and record them as the steps do."""
    known = world.instance.get_materialized_partitions(dg.AssetKey(SHARDS))
    chosen = dg.AssetRecordsFilter(dg.AssetKey(SHARDS))
    (record,) = world.instance.fetch_materializations(chosen, limit=1).records
    made = record.asset_materialization
    assert made is not None
    settings = world.settings
    encoder = load_encoder(settings.embedding.encoder)
    sample = settings.root / f"{settings.embedding.sample}.fasta"
    for key in keys:
        if key in known:
            continue
        shard, count = parse_shard_key(key)
        product = embed_shard(
            sample,
            settings.root / "embeddings3",
            shard=shard,
            count=count,
            encoder=encoder,
            options=embedding_options(settings, settings.seed),
        ).product
        version = {DATA_VERSION_TAG: product.manifest.data_version}
        manifest = {MANIFEST_KEY: dg.MetadataValue.path(str(product.manifest_path))}
        world.instance.report_runless_asset_event(
            dg.AssetMaterialization(
                SHARDS,
                partition=key,
                metadata={**made.metadata, **manifest},
                tags={**(made.tags or {}), **version},
            )
        )


def _looking(world: World) -> dict[str, float]:
    """Time what looks over all shards without a server: the demo, and the schedule twice."""
    shards = [target for target in targets_in_order(world.graph) if target.name == SHARDS]
    every = _timed(lambda: [is_current(target, world.graph, world.instance) for target in shards])
    repository = world.defs.get_repository_def()
    schedule = repository.get_schedule_def(SCHEDULE)

    def tick() -> None:
        with dg.build_schedule_context(
            instance=world.instance,
            repository_def=repository,
            scheduled_execution_time=datetime.now(UTC),
        ) as context:
            schedule.evaluate_tick(context)

    return {
        "what is current, asked of each shard: s": every.seconds,
        "that: core s": every.cores,
        "the schedule's first tick: s": _timed(tick).seconds,
        "its next: s": _timed(tick).seconds,
    }


def _serving(ask: Ask) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, query in _QUERIES.items():
        ask(query)
        times = [_timed(lambda query=query: ask(query)).seconds for _ in range(5)]
        found[f"{name}: s, median of 5"] = statistics.median(times)
    return found | {f"{name}: MB": size / 1e6 for name, size in _processes().items()}


def _backfill(ask: Ask) -> dict[str, float]:
    """Launch all shards; count the runs that are created, and time the first that end."""
    started = time.time()
    backfill = launch_backfill(ask, [SHARDS])
    launching = time.time() - started
    while True:
        time.sleep(1)
        runs: list[dict[str, Any]] = ask(_RUNS, id=backfill)["runsOrError"]["results"]
        ended = [run for run in runs if run["status"] == "SUCCESS"]
        if len(ended) >= _RUNS_TIMED and time.time() > started + 60:
            break
    ask(_CANCEL, id=backfill)
    created = [run["creationTime"] - started for run in runs]
    finished = sorted(run["endTime"] for run in ended)
    return {
        "backfill: s to launch": launching,
        "backfill: s to its first run": min(created),
        "backfill: runs created in a minute": sum(seconds < 60 for seconds in created),
        "a run: s from start to end, median": statistics.median(
            run["endTime"] - run["startTime"] for run in ended
        ),
        "a run: s from one's end to the next's": (finished[-1] - finished[0]) / (len(finished) - 1),
    }


class Taken(NamedTuple):
    """Seconds of an action, those of this process's cores, and what the action returned."""

    seconds: float
    cores: float
    result: Any


def _timed(action: Callable[[], Any]) -> Taken:
    started, cores = time.perf_counter(), time.process_time()
    result = action()
    return Taken(time.perf_counter() - started, time.process_time() - cores, result)


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _processes() -> dict[str, int]:
    """Return the resident bytes of the servers below this process, by what they are."""
    listed = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,rss=,command="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 3) for line in listed.stdout.splitlines()]
    below, found = {os.getpid()}, dict.fromkeys(_SERVERS, 0)
    while children := {int(row[0]) for row in rows if int(row[1]) in below} - below:
        below |= children
    for pid, _, kilobytes, command in rows:
        kinds = [name for name, part in _SERVERS.items() if part in command]
        if int(pid) in below and kinds:
            found[kinds[0]] = max(found[kinds[0]], int(kilobytes) * 1024)
    return found


if __name__ == "__main__":
    main()
