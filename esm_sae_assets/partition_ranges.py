"""Runs over several partitions, each of which is recorded on its own as it finishes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import dagster as dg

from esm_sae.errors import InputError, ResumableError

PartitionEvent = dg.MaterializeResult | dg.AssetMaterialization | dg.AssetCheckResult

CODE_VERSION_TAG, DATA_VERSION_TAG = "dagster/code_version", "dagster/data_version"
INPUT_VERSION_TAG = "dagster/input_data_version"
# What Dagster writes of an input that was never materialised.
NO_VERSION = "INITIAL"

_PARTITION_TAG = "dagster/partition"
_FIRST_TAG = "dagster/asset_partition_range_start"
_LAST_TAG = "dagster/asset_partition_range_end"
_IS_OWN_VERSION_TAG = "dagster/data_version_is_user_provided"
_INPUT_EVENT_TAG = "dagster/input_event_pointer"
_NO_EVENT = "NULL"


def record_each(
    context: dg.AssetExecutionContext,
    results: Iterable[tuple[str, dg.MaterializeResult]],
    checks: Callable[[], Iterable[dg.AssetCheckResult]] = tuple,
) -> Iterator[PartitionEvent]:
    """Record each partition of a run as it finishes, with its own data version and metadata.

    Dagster itself records the partitions of a run when the step ends, all with one data version,
    and none where the step fails. So in a run over several this records them, and the asset needs
    ``output_required=False``: the step then has no output that Dagster would record over them.
    What is below such an asset in the same run is skipped; Dagster puts there only assets of the
    same backfill policy.

    Args:
        context: of the step; the asset's inputs have no partitions.
        results: partition key and result, without checks, in the order in which they finish.
        checks: looks at what the run made, once all of it is recorded; one result per check.
    """
    yield from _recorded(context, results)
    yield from checks()


def one_by_one(
    partitions: Iterable[str], make: Callable[[str], dg.MaterializeResult]
) -> Iterator[tuple[str, dg.MaterializeResult]]:
    """Make partitions one after the other; one whose input cannot be used does not stop the rest.

    Raises:
        ResumableError: at once, as of a full disk.
        InputError: of those that could not be made, once the others are.
    """
    reasons = []
    for partition in partitions:
        try:
            result = make(partition)
        except ResumableError:
            raise
        except InputError as error:
            reasons.append(str(error))
        else:
            yield partition, result
    if reasons:
        raise InputError("; ".join(dict.fromkeys(reasons)))


def range_tags(partitions: Sequence[str]) -> dict[str, str]:
    """Return the tags of a run over several neighbouring partitions."""
    return {_FIRST_TAG: partitions[0], _LAST_TAG: partitions[-1]}


def partitions_of_run(tags: Mapping[str, str], keys: Sequence[str]) -> list[str]:
    """Return the partitions that a run with these tags is over, of all ``keys`` there are."""
    first = tags.get(_FIRST_TAG, tags.get(_PARTITION_TAG))
    last = tags.get(_LAST_TAG, first)
    if first not in keys or last not in keys:
        return []
    return list(keys[keys.index(first) : keys.index(last) + 1])


def contiguous(
    chosen: Iterable[str], keys: Iterable[str], *, most: int | None = None
) -> list[list[str]]:
    """Group chosen partition keys into runs of neighbours among ``keys``, all there are.

    Args:
        most: length of the longest run; None: any.
    """
    wanted = set(chosen)
    groups: list[list[str]] = [[]]
    for key in keys:
        if groups[-1] and (key not in wanted or len(groups[-1]) == most):
            groups.append([])
        if key in wanted:
            groups[-1].append(key)
    return [group for group in groups if group]


def _recorded(
    context: dg.AssetExecutionContext, results: Iterable[tuple[str, dg.MaterializeResult]]
) -> Iterator[PartitionEvent]:
    if len(context.partition_keys) == 1:
        for _, result in results:
            yield result
        return
    tags = _provenance(context)
    for partition, result in results:
        version = result.data_version
        assert version is not None, "metadata.result gives every output one"
        yield dg.AssetMaterialization(
            context.asset_key,
            partition=partition,
            metadata=result.metadata,
            tags=tags | {DATA_VERSION_TAG: version.value, _IS_OWN_VERSION_TAG: "true"},
        )


def _provenance(context: dg.AssetExecutionContext) -> dict[str, str]:
    """Return the tags that tell Dagster what an output was made from, and whether it is stale."""
    spec = context.assets_def.get_asset_spec(context.asset_key)
    assert spec.code_version is not None, "every asset has one"
    tags = {CODE_VERSION_TAG: spec.code_version}
    for dep in spec.deps:
        name = dep.asset_key.to_user_string()
        found = context.instance.fetch_materializations(dep.asset_key, limit=1).records
        made = found[0].asset_materialization if found else None
        version = (made.tags or {}).get(DATA_VERSION_TAG) if made else None
        tags[f"{INPUT_VERSION_TAG}/{name}"] = version or NO_VERSION
        tags[f"{_INPUT_EVENT_TAG}/{name}"] = str(found[0].storage_id) if found else _NO_EVENT
    return tags
