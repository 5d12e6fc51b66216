"""Terms that headers tell of proteins: the words of their names, and taxa."""

import polars as pl

from esm_sae.clusters.cluster_names import name_clusters
from esm_sae.formats.headers import parse_headers
from esm_sae.formats.protein_names import words_of

_CHUNK = 100_000


def parsed_headers(headers: pl.Series) -> pl.DataFrame:
    """Return name, taxon and taxid of headers, in order; a missing header tells nothing."""
    return pl.concat(
        [
            parse_headers(headers.slice(start, _CHUNK).fill_null(""))
            .select("name", "taxon", "taxid")
            .collect()
            for start in range(0, max(len(headers), 1), _CHUNK)
        ]
    )


def word_bearers(names: pl.Series, groups: pl.DataFrame) -> pl.DataFrame:
    """Return cluster and term, a row per protein and word of its name.

    Args:
        names: of each protein.
        groups: cluster and group of each; the proteins of a group, copies of one another and all
            in one cluster, count as one, which bears the words of all.
    """
    words = pl.select(words_of(pl.lit(names))).to_series()
    return _distinct(groups.with_columns(words.alias("term")).explode("term"))


def taxon_bearers(parsed: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """Return cluster and term, a row per protein and taxon; see ``taxon_names``.

    Args:
        parsed: taxon and taxid of each protein.
        groups: as of ``word_bearers``.
    """
    return _distinct(
        groups.with_columns(parsed.select(_taxon_term("taxid", "taxon").alias("term")))
    )


def taxon_names(parsed: pl.DataFrame) -> pl.DataFrame:
    """Return term, taxon (its name) and taxid of each taxon.

    A taxon is its TaxID, called by the commonest name that comes with it, or a name that comes
    without one; no two have the same name, see ``name_clusters``.
    """
    keyed = (
        parsed.group_by("taxid", "taxon")
        .len("records")
        .filter(pl.col("taxid").is_not_null() | pl.col("taxon").is_not_null())
        .with_columns(pl.when(pl.col("taxid").is_null()).then("taxon").alias("name_key"))
        .rename({"taxid": "key", "taxon": "name"})
    )
    return name_clusters(keyed).select(
        _taxon_term("key", "name_key").alias("term"),
        pl.col("cluster").alias("taxon"),
        pl.col("key").alias("taxid"),
    )


def _taxon_term(taxid: str, name: str) -> pl.Expr:
    # A TaxID is all digits, so that no name can pass for one with what follows it.
    return pl.coalesce(pl.format("{}\t", taxid), pl.format("\t{}", name))


def _distinct(borne: pl.DataFrame) -> pl.DataFrame:
    return borne.drop_nulls("term").unique(["group", "term"]).select("cluster", "term")
