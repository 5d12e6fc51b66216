"""A second look at how latents compare: with each other, with clusters, with other seeds."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from esm_sae.formats.analysis_tables import (
    LATENT_MAP,
    LATENT_MAP_SCHEMA,
    MAIN,
    MARKED_CLUSTER_SCHEMA,
    MARKED_CLUSTERS,
    MATCH_COMPARISON,
    MATCH_COMPARISON_SCHEMA,
    MATCH_SCHEMA,
    MATCHES,
    NEAR_DUPLICATE_SCHEMA,
    NEAR_DUPLICATES,
    STABILITY,
    STABILITY_SCHEMA,
)
from esm_sae.formats.manifest import Product
from esm_sae.formats.verification import (
    lacking,
    not_finite,
    outside,
    refuse_rows,
    require_equal,
    require_files,
    scan_table,
)

# Of two equal unit vectors the product can come out above 1.
_COSINE = 1 + 1e-5


class SoundLatents(NamedTuple):
    """What is known of latents whose tables fit one another.

    Attributes:
        live_latents: latents on the map.
        near_duplicates: pairs that are nearly the same.
        duplicated_share: share of the live latents that are in such a pair.
        marked_clusters: density clusters that a latent marks.
    """

    live_latents: int
    near_duplicates: int
    duplicated_share: float
    marked_clusters: int


class SoundMatches(NamedTuple):
    """What is known of matches between autoencoders of different seeds.

    Attributes:
        pairs: ordered pairs of autoencoders.
        matches: rows of the table of nearest latents.
        stable_latents: found again with another seed of the same k.
        compared_latents: live latents that were looked for.
    """

    pairs: int
    matches: int
    stable_latents: int
    compared_latents: int


def verify_latents(product: Product) -> SoundLatents:
    """Check places, cosines and scores of latents, and that the counts fit.

    Args:
        product: as ``cluster_latents`` made it.

    Raises:
        InputError: one cannot be such, or they do not.
    """
    require_files(product)
    folder, summary = product.path, product.manifest.summary
    latents = summary["latents"]
    none = {"are of a latent that is none": pl.col("latent") >= latents}
    places = folder / LATENT_MAP
    live = refuse_rows(
        places,
        scan_table(places, LATENT_MAP_SCHEMA),
        none | not_finite("x", "y") | outside(0, 1, "probability"),
        named_by=["latent"],
    )
    path = folder / NEAR_DUPLICATES
    pairs = scan_table(path, NEAR_DUPLICATE_SCHEMA)
    wrong = none | outside(-_COSINE, _COSINE, "cosine", "correlation")
    wrong["are of a latent and one that is not behind it"] = pl.col("other") <= pl.col("latent")
    near = refuse_rows(path, pairs, wrong, named_by=["latent", "other"])
    other = summary["silent_latents"] + summary["rarely_firing_latents"]
    require_equal(
        folder,
        {
            "latents on the map": (live, summary["live_latents"]),
            "live latents and others": (live + other, latents),
            "near duplicates": (near, summary["near_duplicates"]),
        },
    )
    share = summary["latents_with_near_duplicate"] / live if live else 0.0
    return SoundLatents(live, near, round(share, 4), _marked(folder / MARKED_CLUSTERS, none))


def verify_matches(product: Product) -> SoundMatches:
    """Check cosines, correlations and shares of matched latents, and that the counts fit.

    Args:
        product: as ``match_latents`` made it.

    Raises:
        InputError: one cannot be such, or they do not.
    """
    require_files(product)
    folder, summary = product.path, product.manifest.summary
    matches, comparison = folder / MATCHES, folder / MATCH_COMPARISON
    stability = folder / STABILITY
    near = outside(-_COSINE, _COSINE, "cosine", "correlation")
    nearest = refuse_rows(
        matches, scan_table(matches, MATCH_SCHEMA), near, named_by=["sae", "k", "latent"]
    )
    shares = [
        f"{measure}_{what}"
        for measure in ("cosine", "correlation")
        for what in ("matched", "mutual", "ceiling", "chance")
    ]
    table = scan_table(comparison, MATCH_COMPARISON_SCHEMA)
    key = ["sae", "other", "k", "other_k"]
    pairs = refuse_rows(comparison, table, lacking(*key) | outside(0, 1, *shares), named_by=key)
    found = scan_table(stability, STABILITY_SCHEMA)
    compared = refuse_rows(stability, found, near | lacking("stable"), named_by=["k", "latent"])
    sums = table.select(pl.sum_horizontal("live", "rare", "silent").n_unique()).collect().item()
    values = table.select(pl.col("k").n_unique()).collect().item()
    stable = found.select(pl.col("stable").sum()).collect().item()
    # Of a k whose replicate has no live latent, none was looked for.
    live = {k: summary["live_latents"][k] for k in summary["stable_latents"]}
    require_equal(
        folder,
        {
            "pairs of autoencoders": (pairs, 2 * values * values),
            "sums of live, rare and silent latents": (sums, 1),
            "live latents of the autoencoders": (compared, sum(live.values())),
            "stable latents": (stable, sum(summary["stable_latents"].values())),
        },
    )
    return SoundMatches(pairs, nearest, stable, compared)


def chance_of_matches(product: Product) -> dict[int, tuple[float, float]]:
    """Return, by k, the shares of latents that another seed and that chance find, by correlation.

    Those of which either is not known are left out.
    """
    table = scan_table(product.path / MATCH_COMPARISON, MATCH_COMPARISON_SCHEMA)
    same = table.filter(
        (pl.col("sae") == MAIN)
        & (pl.col("k") == pl.col("other_k"))
        & pl.all_horizontal(pl.col("correlation_matched", "correlation_chance").is_not_null())
    )
    shares = same.select("k", "correlation_matched", "correlation_chance").collect()
    return {k: (matched, chance) for k, matched, chance in shares.iter_rows()}


def _marked(path: Path, none: dict[str, pl.Expr]) -> int:
    table = scan_table(path, MARKED_CLUSTER_SCHEMA)
    wrong = none | lacking("cluster") | outside(0, 1, "train_f1", "precision", "recall", "f1")
    refuse_rows(path, table, wrong, named_by=["latent", "cluster"])
    return int(table.select(pl.col("cluster").n_unique()).collect().item())
