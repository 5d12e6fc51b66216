"""From what headers say of a taxon to the taxon that their records are clustered by."""

import polars as pl

from esm_sae.clusters.taxon_names import find_names
from esm_sae.clusters.taxonomy import Rank, Taxonomy

# Why records are left out.
WITHOUT_TAXON, UNKNOWN_TAXON = "without_taxon", "unknown_taxon"
# How a taxon without TaxID was found.
_IN_FILE = "taxid_of_the_file"


def resolve(taxa: pl.DataFrame, taxonomy: Taxonomy | None, rank: Rank | None) -> pl.DataFrame:
    """Find the taxon that records are clustered by.

    A name without TaxID means the one TaxID that bears the name in this file; where none or
    several do, the one taxon that bears it in the taxonomy (``find_names``); where there is none
    either, it is a taxon of its own. A TaxID is brought up to date. With a rank, the taxon is
    the one of that rank which it belongs to; what has none is left out.

    Args:
        taxa: taxid, taxon (name): distinct pairs, both nullable.
        taxonomy: None to take taxa as they are given.
        rank: needs a taxonomy.

    Returns:
        The pairs, in order, with key (TaxID of the cluster, null where it has none), name_key
        (the name where that is the key), name, left_out (None, or why), and with a taxonomy
        taxid_state and name_state: what became of the TaxID, and of a name without one.
    """
    owned = _owned(taxa)
    if taxonomy is None:
        return _with_name_key(owned.with_columns(name="taxon", left_out=_no_taxon()))
    found = _looked_up(owned, taxonomy)
    current = taxonomy.current(found["key"]).rename({"taxid": "known", "state": "taxid_state"})
    known = found.hstack(current).with_columns(
        pl.when(pl.col("key").is_not_null() & pl.col("looked_up").is_null())
        .then("taxid_state")
        .alias("taxid_state"),
    )
    if rank is None:
        known = known.with_columns(pl.coalesce("known", "key").alias("key"), left_out=_no_taxon())
    else:
        known = _lifted(known, taxonomy, rank)
    scientific = taxonomy.names(known["key"])
    is_known = pl.col("known").is_not_null()
    return _with_name_key(
        known.with_columns(name=pl.when(is_known).then(scientific).otherwise("taxon"))
    ).drop("known", "looked_up")


def _owned(taxa: pl.DataFrame) -> pl.DataFrame:
    """Add key and name_state: the TaxID, of a name without one that which it has in this file."""
    owners = (
        taxa.drop_nulls(["taxid", "taxon"])
        .group_by("taxon")
        .agg(pl.col("taxid").first().alias("owner"), pl.len().alias("owners"))
        .filter(pl.col("owners") == 1)
        .select("taxon", "owner")
    )
    by_name = pl.col("taxid").is_null() & pl.col("owner").is_not_null()
    return (
        taxa.join(owners, on="taxon", how="left", maintain_order="left")
        .with_columns(
            key=pl.coalesce("taxid", "owner"), name_state=pl.when(by_name).then(pl.lit(_IN_FILE))
        )
        .drop("owner")
    )


def _looked_up(owned: pl.DataFrame, taxonomy: Taxonomy) -> pl.DataFrame:
    """Add looked_up, the TaxID that the taxonomy gives to a name without one."""
    nameless = owned.filter(pl.col("key").is_null() & pl.col("taxon").is_not_null())
    found = find_names(nameless["taxon"], taxonomy).select(
        pl.lit(None, pl.Int64).alias("taxid"),
        pl.col("name").alias("taxon"),
        pl.col("taxid").alias("looked_up"),
        pl.col("state").alias("looked_up_state"),
    )
    return (
        owned.join(
            found, on=["taxid", "taxon"], how="left", nulls_equal=True, maintain_order="left"
        )
        .with_columns(
            key=pl.coalesce("key", "looked_up"),
            name_state=pl.coalesce("name_state", "looked_up_state"),
        )
        .drop("looked_up_state")
    )


def _lifted(known: pl.DataFrame, taxonomy: Taxonomy, rank: Rank) -> pl.DataFrame:
    taxids = known["known"].drop_nulls().unique().sort()
    lifted = taxonomy.lift(taxids, rank).select(
        pl.Series("known", taxids),
        pl.col("taxid").alias("at_rank"),
        pl.when(pl.col("taxid").is_null()).then("state").alias("left_out"),
    )
    unknown = pl.when(pl.col("known").is_null()).then(pl.lit(UNKNOWN_TAXON))
    return (
        known.join(lifted, on="known", how="left", maintain_order="left")
        .with_columns(key="at_rank", left_out=pl.coalesce(_no_taxon(), unknown, "left_out"))
        .drop("at_rank")
    )


def _with_name_key(taxa: pl.DataFrame) -> pl.DataFrame:
    by_name = pl.col("key").is_null() & pl.col("left_out").is_null()
    return taxa.with_columns(name_key=pl.when(by_name).then("taxon"))


def _no_taxon() -> pl.Expr:
    nothing = pl.col("taxid").is_null() & pl.col("taxon").is_null()
    return pl.when(nothing).then(pl.lit(WITHOUT_TAXON))
