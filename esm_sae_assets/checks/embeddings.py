"""Checks of the embeddings: shards, their manifest, and the untrained encoder's."""

from pathlib import Path

import dagster as dg

from esm_sae.embedding.verification import verify_proteins, verify_shard, verify_shards
from esm_sae.formats.manifest import Product
from esm_sae_assets.checks.looking import Check, Found, Outputs, look, look_at_each
from esm_sae_assets.settings import CheckSettings

SHARD = (
    Check(
        "rows_are_sound",
        "Of the latest shards: shape and number format are as recorded, every row is named in the "
        "table, all values are finite, no row is zero, and every norm is within 1,000 times the "
        "median.",
    ),
    Check(
        "proteins_are_the_samples",
        "Of the latest shards: the proteins are those of their part of the sample, in its order, "
        "and none is missing but those that the settings skip.",
    ),
)
MANIFEST = (
    Check(
        "shards_are_complete",
        "All shards are there and of one origin, every file has its size, every row is named in "
        "a table, and the proteins add up.",
    ),
    Check(
        "proteins_are_whole",
        "Few proteins were cut off or left out for their length.",
        warns=True,
    ),
)


def shard_checks(shards: Outputs, fasta: Path) -> list[dg.AssetCheckResult]:
    """Look at the shards of a run, by their keys."""
    sound, named = SHARD
    return [
        look_at_each(sound, verify_shard, shards, of="shard"),
        look_at_each(named, lambda shard: verify_proteins(shard, fasta), shards, of="shard"),
    ]


def manifest_checks(
    product: Product, count: int, limits: CheckSettings, *, matrices: bool = True
) -> list[dg.AssetCheckResult]:
    """Look at all shards of a folder; without ``matrices`` those are elsewhere."""
    complete, whole = MANIFEST
    return [
        look(complete, lambda: verify_shards(product, count=count, matrices=matrices)),
        look(whole, lambda: whole_proteins(product, limits.cut_share)),
    ]


def whole_proteins(product: Product, most: float) -> Found:
    """Find what share of the proteins of an embedding lacks residues."""
    counts = product.manifest.summary
    cut, skipped = counts["truncated"], counts["skipped"]
    every = counts["proteins"] + skipped
    share = (cut + skipped) / every
    figures = {"truncated": cut, "skipped": skipped, "share": share, "at_most": f"{most:.0%}"}
    if share <= most:
        return Found(figures)
    return Found(
        figures,
        f"{cut:,} proteins were cut off and {skipped:,} left out of {every:,} ({share:.1%}), more "
        f"than {most:.0%}; raise ESM_SAE_EMBEDDING_MAX_LENGTH, set "
        "ESM_SAE_EMBEDDING_LONG_SEQUENCES=window, or raise ESM_SAE_CHECKS_CUT_SHARE",
    )
