"""Which materialisations are current: there, made by this code, and newer than their inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from esm_sae.formats.manifest import in_place, read_manifest
from esm_sae_assets.metadata import MANIFEST_KEY
from esm_sae_assets.partition_ranges import CODE_VERSION_TAG, DATA_VERSION_TAG, contiguous


@dataclass(frozen=True)
class Target:
    """One asset, or one partition of it."""

    key: dg.AssetKey
    partition: str | None

    @property
    def name(self) -> str:
        """The asset's name."""
        return self.key.to_user_string()


def targets_in_order(defs: dg.Definitions) -> list[Target]:
    """Return every asset partition, each after all it depends on."""
    graph = defs.resolve_asset_graph()
    targets = []
    for key in graph.toposorted_asset_keys:
        partitions = graph.get(key).partitions_def
        names = partitions.get_partition_keys() if partitions else [None]
        targets += [Target(key, name) for name in names]
    return targets


def runs_of(targets: Sequence[Target], defs: dg.Definitions) -> list[list[Target]]:
    """Group targets of one asset into runs.

    Where the asset makes several partitions in one run, neighbouring ones go together, as in a
    backfill; else each target has its own.
    """
    if not targets:
        return []
    key = targets[0].key
    node = defs.resolve_asset_graph().get(key)
    policy = node.backfill_policy
    if node.partitions_def is None or policy is None or policy.max_partitions_per_run is not None:
        return [[target] for target in targets]
    wanted = [target.partition for target in targets if target.partition is not None]
    groups = contiguous(wanted, node.partitions_def.get_partition_keys())
    return [[Target(key, name) for name in group] for group in groups]


def is_current(target: Target, defs: dg.Definitions, instance: dg.DagsterInstance) -> bool:
    """Whether a target's output is complete, of this code version, and newer than its inputs."""
    record = _latest(target, instance)
    if record is None or record.asset_materialization is None:
        return False
    made = record.asset_materialization
    node = defs.resolve_asset_graph().get(target.key)
    if (made.tags or {}).get(CODE_VERSION_TAG) != node.code_version or not _is_in_place(made):
        return False
    inputs = [_latest(each, instance) for each in _inputs_of(target, defs)]
    return all(each is not None and each.storage_id < record.storage_id for each in inputs)


def _is_in_place(made: dg.AssetMaterialization) -> bool:
    entry = made.metadata.get(MANIFEST_KEY)
    if entry is None:
        return False
    path = str(entry.value)
    manifest = read_manifest(path)
    if manifest is None or not in_place(manifest, path):
        return False
    return manifest.data_version == (made.tags or {}).get(DATA_VERSION_TAG)


def _inputs_of(target: Target, defs: dg.Definitions) -> list[Target]:
    graph = defs.resolve_asset_graph()
    own = graph.get(target.key).partitions_def
    inputs = []
    for parent in sorted(graph.get(target.key).parent_keys):
        partitions = graph.get(parent).partitions_def
        if partitions is None:
            inputs.append(Target(parent, None))
        elif partitions == own:
            inputs.append(Target(parent, target.partition))
        else:
            inputs += [Target(parent, name) for name in partitions.get_partition_keys()]
    return inputs


def _latest(target: Target, instance: dg.DagsterInstance) -> dg.EventLogRecord | None:
    partitions = [target.partition] if target.partition else None
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=target.key, asset_partitions=partitions), limit=1
    )
    return found.records[0] if found.records else None
