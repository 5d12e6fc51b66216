"""A second look at the activations of an SAE."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from esm_sae.analysis.queries import activation_parts
from esm_sae.formats.analysis_tables import LATENTS, PROTEINS, SEQUENCES
from esm_sae.formats.manifest import Product
from esm_sae.formats.verification import (
    lacking,
    not_finite,
    outside,
    refuse_rows,
    require_equal,
    require_files,
    row_count,
    scan_table,
    seeded_rows,
)

_PARTS_LOOKED_AT = 2
_PAIRS_LOOKED_AT = 1_000_000


class SoundActivations(NamedTuple):
    """What is known of activations whose tables fit one another.

    Attributes:
        rows: rows that were encoded.
        proteins: that these are of.
        latents: L.
        activations: all above 0.
        l0_mean: latents that fire on a row, in the mean.
        l0_max: most that fire on one of the rows looked at.
        activations_looked_at: of some files of the table by row, drawn by a fixed seed.
        silent_share: share of the latents that never fire.
    """

    rows: int
    proteins: int
    latents: int
    activations: int
    l0_mean: float
    l0_max: int
    activations_looked_at: int
    silent_share: float


def verify_activations(product: Product) -> SoundActivations:
    """Check that the counts of the four tables fit, and that at most k latents fire on a row.

    Of the table by row two files are looked at, of the pairs of protein and latent the first
    million.

    Args:
        product: as ``compute_activations`` made it.

    Raises:
        InputError: they do not.
    """
    require_files(product)
    folder, summary = product.path, product.manifest.summary
    config, latents = product.manifest.determinants["config"], summary["latents"]
    # By thresholds any number of latents can fire.
    most_of_row = config["k"] if config.get("activation", "topk") == "topk" else latents
    firing = _require_latents(folder / LATENTS, latents)
    parts = activation_parts(folder)
    pairs = _require_pairs(folder / PROTEINS, latents, summary["proteins"])
    table = folder / SEQUENCES
    wrong = lacking("sequence_id") | {"are out of order": pl.col("protein").diff() != 1}
    proteins = refuse_rows(
        table, scan_table(table, ("protein", "sequence_id", "rows")), wrong, named_by=["protein"]
    )
    require_equal(
        folder,
        {
            "latents that fire": (firing["latents"], summary["firing_latents"]),
            "activations by latent": (firing["rows"], summary["activations"]),
            "activations by row": (sum(map(row_count, parts)), summary["activations"]),
            "pairs of protein and latent": (firing["proteins"], pairs),
            "proteins": (proteins, summary["proteins"]),
            "rows of these proteins": (_sum(table, "rows"), summary["rows"]),
        },
    )
    chosen = [parts[number] for number in seeded_rows(len(parts), _PARTS_LOOKED_AT)]
    found = [_require_part(path, most_of_row, latents) for path in chosen]
    looked_at, most = zip(*found, strict=True)
    return SoundActivations(
        summary["rows"],
        proteins,
        latents,
        summary["activations"],
        round(summary["mean_l0"], 4),
        max(most),
        sum(looked_at),
        round(summary["silent_latents"] / latents, 4),
    )


def _require_latents(path: Path, latents: int) -> dict[str, int]:
    """Check the table of latents; return how many fire, and on how many rows and proteins."""
    table = scan_table(path, ("latent", "firing_rows", "firing_proteins", "histogram"))
    wrong = {
        "are out of order": pl.col("latent") != pl.int_range(pl.len()),
        **outside(0, 1, "density", "protein_density"),
        **not_finite("mean_activation", "max_activation"),
        "have a histogram of other rows": pl.col("histogram").list.sum() != pl.col("firing_rows"),
        "fire on more proteins than rows": pl.col("firing_proteins") > pl.col("firing_rows"),
    }
    rows = refuse_rows(path, table, wrong, named_by=["latent"])
    require_equal(path, {"latents": (rows, latents)})
    counts = table.select(
        (pl.col("firing_rows") > 0).sum().alias("latents"),
        pl.col("firing_rows").cast(pl.Int64).sum().alias("rows"),
        pl.col("firing_proteins").cast(pl.Int64).sum().alias("proteins"),
    )
    return counts.collect().row(0, named=True)


def _require_pairs(path: Path, latents: int, proteins: int) -> int:
    table = scan_table(path, ("latent", "protein", "sequence_id", "activation"))
    wrong = _of_none(latents, proteins) | {"are out of order": pl.col("latent").diff() < 0}
    refuse_rows(path, table.head(_PAIRS_LOOKED_AT), wrong, named_by=["latent", "sequence_id"])
    return row_count(path)


def _require_part(path: Path, k: int, latents: int) -> tuple[int, int]:
    """Check one file of the table by row; return its activations and the most of one row."""
    table = scan_table(path, ("row", "protein", "sequence_id", "latent", "activation"))
    firing = table.group_by("row").len("l0")
    wrong = _of_none(latents) | {"are out of order": pl.col("row").diff() < 0}
    looked_at = refuse_rows(path, table, wrong, named_by=["row", "sequence_id", "latent"])
    over = {f"have more than {k} latents that fire": pl.col("l0") > k}
    refuse_rows(path, firing, over, named_by=["row", "l0"])
    most = firing.select(pl.col("l0").max()).collect(engine="streaming").item()
    return looked_at, int(most or 0)


def _of_none(latents: int, proteins: int | None = None) -> dict[str, pl.Expr]:
    positive = pl.col("activation").is_finite() & (pl.col("activation") > 0)
    wrong = {
        "are of a latent that is none": pl.col("latent") >= latents,
        "have an activation that is not above 0": ~positive,
    }
    if proteins is not None:
        wrong["are of a protein that is none"] = pl.col("protein") >= proteins
    return wrong


def _sum(path: Path, column: str) -> int:
    total = pl.scan_parquet(path).select(pl.col(column).cast(pl.Int64).sum())
    return int(total.collect(engine="streaming").item())
