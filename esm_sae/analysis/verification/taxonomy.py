"""A second look at what is known of latents and taxa."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import MAPPING, TAXA, TAXONOMY, TAXONOMY_SCHEMA
from esm_sae.formats.manifest import Product
from esm_sae.formats.verification import (
    AGAIN,
    lacking,
    out_of_order,
    outside,
    refuse_rows,
    require_equal,
    require_files,
    scan_table,
)

_PROBABILITIES = ("p_value", "q_value", "q_value_dependent")
_SHARES = ("firing_frequency", "normalized_frequency", "other_frequency", "specificity")


class SoundTaxonomy(NamedTuple):
    """What is known of a table of latents and taxa in which every figure can be one.

    Attributes:
        rows: pairs of a latent and a taxon in which it fires.
        taxa: that were embedded.
        tested_pairs: pairs that were tested for enrichment.
        significant_pairs: of these, with q below 5%.
        taxonomic_latents: latents with a taxon that they are enriched in.
    """

    rows: int
    taxa: int
    tested_pairs: int
    significant_pairs: int
    taxonomic_latents: int


def verify_taxonomy(product: Product) -> SoundTaxonomy:
    """Check that frequencies and probabilities are such, and that tables and counts fit.

    Args:
        product: as ``feature_taxonomy`` made it.

    Raises:
        InputError: they do not.
    """
    require_files(product)
    folder, summary = product.path, product.manifest.summary
    path = folder / TAXONOMY
    table = scan_table(path, TAXONOMY_SCHEMA)
    p, q = pl.col("p_value"), pl.col("q_value")
    wrong = {
        **lacking("latent", "taxon"),
        **outside(0, 1, *_PROBABILITIES, *_SHARES),
        **out_of_order("frequency_low", "firing_frequency", "frequency_high"),
        "have a q below their p": q < p - 1e-12,
        "fire in more proteins than there are": pl.col("firing_proteins") > pl.col("proteins"),
        "fire in more clusters than there are": pl.col("firing_clusters") > pl.col("clusters"),
        "are of a latent that is none": pl.col("latent") >= summary["latents"],
        "are taxonomic without a q below 5%": pl.col("taxonomic") & ~(q < 0.05).fill_null(False),
    }
    rows = refuse_rows(path, table, wrong, named_by=["latent", "taxon"])
    counted = table.select(
        (q < 0.05).sum().alias("significant"),
        pl.col("latent").n_unique().alias("latents"),
        pl.col("latent").filter("taxonomic").n_unique().alias("taxonomic"),
        pl.struct("latent", "taxon").is_duplicated().sum().alias("twice"),
    )
    found = counted.collect(engine="streaming").row(0, named=True)
    taxa = scan_table(folder / TAXA, ("taxon", "proteins")).collect()
    shares = table.group_by("taxon").agg(pl.col("normalized_frequency").sum().alias("sum"))
    off = {"are taxa whose frequencies do not add up to 1": (pl.col("sum") - 1).abs() > 1e-6}
    refuse_rows(path, shares, off, named_by=["taxon", "sum"])
    require_equal(
        path,
        {
            "pairs that stand there twice": (found["twice"], 0),
            "latents that fire": (found["latents"], summary["firing_latents"]),
            "pairs of q below 5%": (found["significant"], summary["significant_pairs"]),
            "taxonomic latents": (found["taxonomic"], summary["taxonomic_latents"]),
            "taxa": (len(taxa), summary["taxa"]),
            "proteins of the taxa": (int(taxa["proteins"].sum()), summary["proteins"]),
        },
    )
    _require_mapping(folder / MAPPING, set(taxa["taxon"]), summary["firing_latents"])
    return SoundTaxonomy(
        rows,
        len(taxa),
        summary["tested_pairs"],
        found["significant"],
        found["taxonomic"],
    )


def _require_mapping(path: Path, taxa: set[str], latents: int) -> None:
    mapping = storage.read_json(path)
    if not isinstance(mapping, dict):
        raise InputError(f"{path}: expected an object of latents, found another shape; {AGAIN}")
    for latent, entry in mapping.items():
        fits = isinstance(entry, dict) and entry.keys() == {"taxon", "normalized_frequency"}
        if not fits or not 0 <= entry["normalized_frequency"] <= 1:
            raise InputError(f"{path}: latent {latent} has no taxon and share of one; {AGAIN}")
        if entry["taxon"] not in taxa:
            raise InputError(
                f"{path}: latent {latent} has the taxon {entry['taxon']}, which is none; {AGAIN}"
            )
    require_equal(path, {"latents that fire": (len(mapping), latents)})
