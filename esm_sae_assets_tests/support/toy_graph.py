"""The asset graph with steps that take no time: names, partitions, versions and jobs are real.

An output is a small file with a manifest, a function of the code version, of its inputs and of
what a test writes into ``<data root>/toy/``: ``<asset>.value`` is one more determinant, and
``<asset>.<partition>.fault`` fails the step with its text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import produce_files
from esm_sae.formats.shards import parse_shard_key, shard_name
from esm_sae_assets.automation import automation_sensor, with_automation
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.jobs import jobs
from esm_sae_assets.metadata import MANIFEST_KEY
from esm_sae_assets.partition_ranges import one_by_one, record_each
from esm_sae_assets.progress.backlog import SHARDS
from esm_sae_assets.progress.currency import Target, inputs_of
from esm_sae_assets.schedules import schedules
from esm_sae_assets.sensors import sensors
from esm_sae_assets.settings import Settings
from esm_sae_assets.shard_changes import change_of


def toy_defs(settings: Settings) -> dg.Definitions:
    """Build the code location of the settings with toy steps."""
    graph = build_defs(settings).resolve_asset_graph()
    all_jobs = jobs(settings)
    assets = [_toy(graph, key, settings.root) for key in graph.toposorted_asset_keys]
    return dg.Definitions(
        assets=with_automation(assets),
        jobs=all_jobs,
        schedules=schedules(settings),
        sensors=[*sensors(settings, all_jobs), automation_sensor()],
        # A process for every step would take longer than the steps.
        executor=dg.in_process_executor,
    )


def fault(settings: Settings, asset: str, partition: str = "None") -> Path:
    """Return the file that fails a step."""
    return settings.root / "toy" / f"{asset}.{partition}.fault"


def output(settings: Settings, asset: str, partition: str | None = None) -> Path:
    """Return the file that a toy step writes."""
    return _output(settings.root, asset, partition)


def _toy(graph: AssetGraph, key: dg.AssetKey, root: Path) -> dg.AssetsDefinition | dg.AssetSpec:
    node, name = graph.get(key), key.to_user_string()
    if node.is_external:
        return dg.AssetSpec(name, deps=list(node.parent_keys), group_name=node.group_name)

    @dg.asset(
        name=name,
        group_name=node.group_name,
        kinds=node.kinds,
        partitions_def=node.partitions_def,
        backfill_policy=node.backfill_policy,
        output_required=node.backfill_policy is None,
        code_version=node.code_version,
        deps=[
            dg.AssetDep(
                parent, partition_mapping=node.assets_def.get_partition_mapping_for_dep(parent)
            )
            for parent in sorted(node.parent_keys)
        ],
        pool=next(iter(node.pools), None),
    )
    def toy(context: dg.AssetExecutionContext) -> Iterator[Any]:
        def make(partition: str | None) -> dg.MaterializeResult:
            made = _make(root, graph, Target(key, partition))
            if key == SHARDS and made.data_version:
                version = made.data_version.value
                if change := change_of(str(partition), version, key, context.instance):
                    context.log_event(change)
            return made

        try:
            if not context.has_partition_key and node.partitions_def is None:
                yield make(None)
            else:
                yield from record_each(context, one_by_one(context.partition_keys, make))
        except InputError as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    return toy


def _make(root: Path, graph: AssetGraph, target: Target) -> dg.MaterializeResult:
    path, folder = _output(root, target.name, target.partition), root / "toy"
    failing = folder / f"{target.name}.{target.partition}.fault"
    if failing.exists():
        raise InputError(failing.read_text())
    value = folder / f"{target.name}.value"
    inputs = [
        _output(root, parent.to_user_string(), partition)
        for parent, partitions in inputs_of(target, graph).items()
        if not graph.get(parent).is_external
        for partition in partitions
    ]
    determinants = {
        "inputs": {made.name: storage.sha256_of(made) for made in inputs},
        "code": graph.get(target.key).code_version,
        "value": value.read_text() if value.exists() else "",
        "partition": target.partition,
    }

    def build(paths: list[Path]) -> dict[str, Any]:
        paths[0].write_bytes(storage.encode_json(determinants))
        return {}

    manifest = path.with_name(f"{path.name}.json")
    if target.key == SHARDS:
        manifest = path.with_name(f"{shard_name(*parse_shard_key(str(target.partition)))}.json")
    product = produce_files(
        [path], manifest=manifest, kind="toy", determinants=determinants, build=build
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(product.manifest.data_version),
        metadata={MANIFEST_KEY: dg.MetadataValue.path(str(product.manifest_path))},
    )


def _output(root: Path, name: str, partition: str | None) -> Path:
    folder = root / ("embeddings3" if name == SHARDS.to_user_string() else "toy")
    storage.make_folder(folder)
    return folder / f"{name}.{partition}.toy"
