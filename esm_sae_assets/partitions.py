"""The two partition definitions: shards of the embedded sample, and values of k.

Both are static, built from the settings. With dynamic partitions a backfill of the whole graph
that is launched before the keys exist ends in success with nothing run.
"""

import dagster as dg

from esm_sae.formats.shards import shard_key
from esm_sae_assets.settings import Settings

FROM_ALL = dg.AllPartitionMapping()
SAME_KEY = dg.IdentityPartitionMapping()


def shard_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """Return one key per embedding shard: ``0007-of-0064``."""
    count = settings.shard_count
    return dg.StaticPartitionsDefinition([shard_key(index, count) for index in range(count)])


def k_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """Return one key per k: ``16``, ``32``, ``64``."""
    return dg.StaticPartitionsDefinition([str(k) for k in settings.sae.ks])
