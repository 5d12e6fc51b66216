"""The shards as one input: an external asset with one event per shard that got other content.

Dagster compares an asset with at most 99 partitions of an input, so that `embedding_manifest`
would never be shown as stale where there are more shards. It depends on this asset too.
"""

import dagster as dg

from esm_sae_assets.partition_ranges import DATA_VERSION_TAG
from esm_sae_assets.partitions import FROM_ALL

CHANGES = "embedding_changes"


def changes_asset(shards: dg.AssetsDefinition, group: str) -> dg.AssetSpec:
    """Return the asset of the changes, which no step makes: those of the shards report to it."""
    return dg.AssetSpec(
        CHANGES,
        deps=[dg.AssetDep(shards, partition_mapping=FROM_ALL)],
        group_name=group,
        kinds={"numpy"},
        code_version="1",
        description="Which shard last got other content, and when: one event is one such shard. "
        "What depends on it is stale once any shard has changed, however many there are.",
    )


def change_of(
    shard: str, version: str, key: dg.AssetKey, instance: dg.DagsterInstance
) -> dg.AssetMaterialization | None:
    """Return the event that a shard with this data version is; None if its content is the last.

    Args:
        shard: partition key.
        version: data version of what was made.
        key: of the asset of the shards.
        instance: with the records, this one not among them yet.
    """
    chosen = dg.AssetRecordsFilter(key, asset_partitions=[shard])
    found = instance.fetch_materializations(chosen, limit=1).records
    made = found[0].asset_materialization if found else None
    if made is not None and (made.tags or {}).get(DATA_VERSION_TAG) == version:
        return None
    # With the record that it follows: a shard that gets its former content back has changed again.
    after = found[0].storage_id if found else 0
    return dg.AssetMaterialization(
        CHANGES,
        description=f"shard {shard}",
        metadata={"shard": shard, "data_version": version},
        tags={DATA_VERSION_TAG: f"{shard} {version[:12]} {after}"},
    )
