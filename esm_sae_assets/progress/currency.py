"""Which materialisations are current: there, made by this code, and from the inputs as they are."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from esm_sae import storage
from esm_sae.formats.manifest import in_place, read_manifest
from esm_sae.remote import manifest_at
from esm_sae_assets.metadata import MANIFEST_KEY
from esm_sae_assets.partition_ranges import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    INPUT_VERSION_TAG,
    NO_VERSION,
    contiguous,
)

_RECORDS_AT_ONCE = 200
# Of so many partitions of an input Dagster does not record the versions.
_NOT_RECORDED = 100


@dataclass(frozen=True)
class Target:
    """One asset, or one partition of it."""

    key: dg.AssetKey
    partition: str | None

    @property
    def name(self) -> str:
        """The asset's name."""
        return self.key.to_user_string()


@dataclass(frozen=True)
class Versions:
    """What decides whether an output is current.

    Attributes:
        code: code version of the asset.
        inputs: data version of each input, by the asset's name.
    """

    code: str | None
    inputs: Mapping[str, str | None]

    def are(self, now: "Versions") -> bool:
        """Whether an output made from these is of what it would be made from now."""
        return self.code == now.code and now.inputs.items() <= self.inputs.items()


@dataclass(frozen=True)
class Made:
    """The last materialisation of a partition: by which run, when, and from what."""

    run_id: str
    timestamp: float
    versions: Versions


def targets_in_order(graph: AssetGraph) -> list[Target]:
    """Return every asset partition that a step makes, each after all it depends on."""
    targets = []
    for key in graph.toposorted_asset_keys:
        if graph.get(key).is_external:
            continue
        partitions = graph.get(key).partitions_def
        names = partitions.get_partition_keys() if partitions else [None]
        targets += [Target(key, name) for name in names]
    return targets


def runs_of(targets: Sequence[Target], graph: AssetGraph) -> list[list[Target]]:
    """Group targets of one asset into runs.

    Where the asset makes several partitions in one run, neighbouring ones go together, as in a
    backfill; else each target has its own.
    """
    if not targets:
        return []
    key = targets[0].key
    node = graph.get(key)
    policy = node.backfill_policy
    if node.partitions_def is None or policy is None:
        return [[target] for target in targets]
    wanted = [target.partition for target in targets if target.partition is not None]
    groups = contiguous(
        wanted, node.partitions_def.get_partition_keys(), most=policy.max_partitions_per_run
    )
    return [[Target(key, name) for name in group] for group in groups]


def is_current(target: Target, graph: AssetGraph, instance: dg.DagsterInstance) -> bool:
    """Whether a target's output is complete, of this code version, and of its inputs' versions.

    For an input of more partitions than Dagster records the versions of, the asset that stands for
    its changes is compared alone.
    """
    record, now = latest(target, instance), versions_now(target, graph, instance)
    if record is None or record.asset_materialization is None or now is None:
        return False
    made = record.asset_materialization
    versions = versions_in(made)
    if versions.code != now.code or not _is_in_place(made):
        return False
    return all(
        versions.inputs.get(parent.to_user_string()) == now.inputs[parent.to_user_string()]
        for parent, partitions in inputs_of(target, graph).items()
        if len(partitions) < _NOT_RECORDED
    )


def versions_now(
    target: Target, graph: AssetGraph, instance: dg.DagsterInstance
) -> Versions | None:
    """Return what a target would be made from now; None where some of it is not there yet."""
    inputs = {}
    for parent, partitions in inputs_of(target, graph).items():
        version = _version_of(parent, partitions, instance)
        if version is None and graph.get(parent).is_external:
            version = NO_VERSION
        if version is None:
            return None
        inputs[parent.to_user_string()] = version
    return Versions(graph.get(target.key).code_version, inputs)


def inputs_of(target: Target, graph: AssetGraph) -> dict[dg.AssetKey, list[str | None]]:
    """Return what a target is made from, by partitions; None: the whole asset."""
    own = graph.get(target.key).partitions_def
    inputs: dict[dg.AssetKey, list[str | None]] = {}
    for parent in sorted(graph.get(target.key).parent_keys):
        node = graph.get(parent)
        if node.partitions_def is None:
            inputs[parent] = [None]
        elif node.partitions_def == own:
            inputs[parent] = [target.partition]
        else:
            inputs[parent] = list(node.partitions_def.get_partition_keys())
    return inputs


def latest(target: Target, instance: dg.DagsterInstance) -> dg.EventLogRecord | None:
    """Return the record of a target's last materialisation."""
    partitions = [target.partition] if target.partition else None
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=target.key, asset_partitions=partitions), limit=1
    )
    return found.records[0] if found.records else None


def versions_in(made: dg.AssetMaterialization) -> Versions:
    """Return what a materialisation was made from."""
    tags, prefix = made.tags or {}, f"{INPUT_VERSION_TAG}/"
    inputs = {
        name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)
    }
    return Versions(tags.get(CODE_VERSION_TAG), inputs)


def made_partitions(key: dg.AssetKey, instance: dg.DagsterInstance) -> dict[str, Made]:
    """Return the last materialisation of each partition of an asset that has one.

    A record is read once in a process: those of thousands of shards, with their pictures, take
    seconds.
    """
    latest_ids = instance.event_log_storage.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION
    )
    place = (cast(SqlRunStorage, instance.run_storage).get_run_storage_id(), key)
    known = _known_records.get(place, {})
    read = {number: known[number] for number in latest_ids.values() if number in known}
    read |= _read(key, sorted(set(latest_ids.values()) - read.keys()), instance)
    _known_records[place] = read
    return {partition: read[number] for partition, number in latest_ids.items()}


_known_records: dict[tuple[str, dg.AssetKey], dict[int, Made]] = {}


def _read(
    key: dg.AssetKey, storage_ids: Sequence[int], instance: dg.DagsterInstance
) -> dict[int, Made]:
    read = {}
    for start in range(0, len(storage_ids), _RECORDS_AT_ONCE):
        some = storage_ids[start : start + _RECORDS_AT_ONCE]
        chosen = dg.AssetRecordsFilter(key, storage_ids=some)
        for record in instance.fetch_materializations(chosen, limit=len(some)).records:
            assert record.asset_materialization is not None
            versions = versions_in(record.asset_materialization)
            read[record.storage_id] = Made(record.run_id, record.timestamp, versions)
    return read


def _data_version(made: dg.AssetMaterialization) -> str | None:
    return (made.tags or {}).get(DATA_VERSION_TAG)


def _version_of(
    key: dg.AssetKey, partitions: Sequence[str | None], instance: dg.DagsterInstance
) -> str | None:
    """Return the data version of an input as Dagster records it; of partitions a joint one."""
    if partitions == [None]:
        record = latest(Target(key, None), instance)
        made = record.asset_materialization if record else None
        return _data_version(made) if made else None
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    names = sorted(str(name) for name in partitions)
    if not all(name in tags for name in names):
        return None
    versions = "".join(tags[name][DATA_VERSION_TAG] for name in names)
    return hashlib.sha256(versions.encode()).hexdigest()


def _is_in_place(made: dg.AssetMaterialization) -> bool:
    entry = made.metadata.get(MANIFEST_KEY)
    if entry is None:
        return False
    path = str(entry.value)
    # Of what is on object storage the manifest is enough: no object that one names is removed.
    is_remote = storage.is_url(path)
    manifest = manifest_at(path) if is_remote else read_manifest(path)
    if manifest is None or not (is_remote or in_place(manifest, path)):
        return False
    return manifest.data_version == (made.tags or {}).get(DATA_VERSION_TAG)
