"""Names without a TaxID: which taxon of a taxonomy they mean."""

import polars as pl

from esm_sae.clusters.taxonomy import Taxonomy

# A trailing '(strain K12)' or '(Mouse)', with at most one level of brackets in it.
_TRAILING_PARENTHESIS = r" *\((?:[^()]|\([^()]*\))*\)$"
# As in 'Human immunodeficiency virus type 1 (isolate HXB2) (HIV-1)'.
_MOST_PARENTHESES = 3


def find_names(names: pl.Series, taxonomy: Taxonomy) -> pl.DataFrame:
    """Look up distinct names in a taxonomy.

    A name is looked for among the scientific names, then among synonyms and equivalent names;
    then, UniProt's addition of strain or common name in brackets taken off, in the same order
    again. The first of these that knows the name decides: where it means several taxa there, it
    is ambiguous.

    Returns:
        One row per name in order: name, taxid (null where it was not found) and state:
        ``scientific_name``, ``synonym``, ``without_brackets``, ``ambiguous`` or ``not_found``.
    """
    wanted = pl.DataFrame({"name": names.cast(pl.String)}).with_columns(looked_up="name")
    found: list[pl.DataFrame] = []
    for stripped in range(_MOST_PARENTHESES + 1):
        if stripped:
            shorter = pl.col("looked_up").str.replace(_TRAILING_PARENTHESIS, "")
            wanted = wanted.filter(shorter.is_not_null() & (shorter != pl.col("looked_up")))
            wanted = wanted.with_columns(looked_up=shorter)
        for known, way in (
            (taxonomy.scientific, "scientific_name"),
            (taxonomy.synonyms, "synonym"),
        ):
            met = _meet(wanted, known, "without_brackets" if stripped else way)
            found.append(met)
            wanted = wanted.join(met, on="name", how="anti", maintain_order="left")
    return (
        pl.DataFrame({"name": names.cast(pl.String)})
        .join(pl.concat(found), on="name", how="left", maintain_order="left")
        .with_columns(pl.col("state").fill_null("not_found"))
    )


def _meet(wanted: pl.DataFrame, known: pl.DataFrame, way: str) -> pl.DataFrame:
    """Return name, taxid and state of the wanted names that are known."""
    unique = pl.col("owners") == 1
    return (
        known.join(wanted, left_on="name", right_on="looked_up", suffix="_wanted")
        .group_by(pl.col("name_wanted").alias("name"))
        .agg(pl.col("taxid").first(), pl.col("taxid").n_unique().alias("owners"))
        .select(
            "name",
            pl.when(unique).then("taxid").alias("taxid"),
            pl.when(unique).then(pl.lit(way)).otherwise(pl.lit("ambiguous")).alias("state"),
        )
    )
