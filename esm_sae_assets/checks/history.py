"""What Dagster recorded of an output's earlier versions."""

from typing import Any

import dagster as dg

from esm_sae.formats.manifest import Product
from esm_sae_assets.partition_ranges import DATA_VERSION_TAG

# A record holds its plots, so few are read.
_LOOKED_BACK = 10


def last_other_figures(
    instance: dg.DagsterInstance, asset: str, partition: str, product: Product
) -> dict[str, Any] | None:
    """Return the metadata of a partition's last materialisation that was another output.

    A rerun that changed nothing is passed over, so that what was worse stays worse until it is
    made anew. None where the last ten are of this output, or there are none.

    Args:
        instance: whose records are read.
        asset: its name.
        partition: its key.
        product: the output that is there now.
    """
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition]),
        limit=_LOOKED_BACK,
    )
    for record in found.records:
        made = record.asset_materialization
        if made and (made.tags or {}).get(DATA_VERSION_TAG) != product.manifest.data_version:
            return {name: entry.value for name, entry in made.metadata.items()}
    return None
