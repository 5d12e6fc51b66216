"""A second look at the summary of latents."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from esm_sae.formats.analysis_tables import LATENTS, SUMMARY_ADDITIONS
from esm_sae.formats.manifest import Product, read_manifest
from esm_sae.formats.verification import (
    made_from,
    not_finite,
    outside,
    refuse_rows,
    require_equal,
    require_files,
    scan_table,
)

_COPIED = ("firing_rows", "firing_proteins", "max_activation")
_SHARES = (
    *("density", "protein_density", "best_taxon_q", "best_concept_f1", "best_concept_auroc"),
    *("marked_cluster_f1", "label_score", "label_precision", "label_recall"),
)
_NONE = "none"


class SoundSummary(NamedTuple):
    """What is known of a summary with one row for each latent.

    Attributes:
        latents: rows of the table.
        firing_latents: that fire on any row.
        labelled_latents: that have a label.
        compared_with_activations: whether they are those that it was made from, and equal.
    """

    latents: int
    firing_latents: int
    labelled_latents: int
    compared_with_activations: bool


def verify_summary(product: Product, activations: Path) -> SoundSummary:
    """Check that each latent has one row, with what the table of its activations says.

    Args:
        product: as ``summarise_latents`` made it.
        activations: folder of ``compute_activations``; compared where the summary is made from
            what it holds now.

    Raises:
        InputError: one has not, or a figure cannot be one.
    """
    require_files(product)
    path, summary = product.path, product.manifest.summary
    table = scan_table(path, SUMMARY_ADDITIONS)
    scan_table(path, ("latent", "top_proteins", *_COPIED))
    wrong = {
        "are out of order": pl.col("latent") != pl.int_range(pl.len()),
        **outside(0, 1, *_SHARES),
        **not_finite("mean_activation", "max_activation", "map_x", "map_y"),
        "fire and name no protein": (pl.col("firing_rows") > 0)
        & (pl.col("top_proteins").list.len() == 0),
        "have a label and no kind of it": pl.col("label").is_not_null()
        & (pl.col("label_kind").is_null() | (pl.col("label_kind") == _NONE)),
    }
    rows = refuse_rows(path, table, wrong, named_by=["latent"])
    counts = table.select(
        (pl.col("firing_rows") > 0).sum().alias("firing"),
        pl.col("label").is_not_null().sum().alias("labelled"),
    )
    firing, labelled = counts.collect(engine="streaming").row(0)
    require_equal(
        path,
        {
            "latents": (rows, summary["latents"]),
            "latents that fire": (firing, summary["firing_latents"]),
        },
    )
    manifest = read_manifest(activations)
    compared = manifest is not None and made_from(product, "activations", manifest.data_version)
    if compared:
        columns = ["latent", *_COPIED]
        own, made = (
            source.select(columns).collect()
            for source in (table, scan_table(activations / LATENTS, columns))
        )
        differ = [name for name in columns if not own[name].equals(made[name])]
        require_equal(path, {f"columns other than in {LATENTS}": (differ, [])})
    return SoundSummary(rows, firing, labelled, compared)
