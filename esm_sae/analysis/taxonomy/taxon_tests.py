"""Which latents are taxonomic: similarity clusters as units, within strata, and what it changes."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from esm_sae.analysis.taxonomy.enrichment import LEVEL, Enrichment, Firing, enrichment
from esm_sae.analysis.taxonomy.strata import strata_of
from esm_sae.analysis.taxonomy.units import cluster_units
from esm_sae.multiple_testing import benjamini_hochberg, benjamini_yekutieli

FEWEST_FIRING_CLUSTERS = 3
"""Similarity clusters that a latent must fire on in a taxon to be called taxonomic."""


class ProteinsOfTaxa(NamedTuple):
    """N proteins of embedded clusters.

    Attributes:
        taxa: names of taxa, N of them.
        sequence_ids: N ids.
        clusters: the similarity cluster of each, N ids.
        sequences: N sequences of amino acids.
    """

    taxa: list[str]
    sequence_ids: list[str]
    clusters: np.ndarray
    sequences: list[str]


def taxon_tests(
    firing: Firing, proteins: ProteinsOfTaxa, *, permutations: int, seed: int
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Test every pair of a taxon and a latent.

    Memory with 200 permutations is at most 700 bytes for each pair, and some 250 MB.

    Args:
        firing: the latents of each protein.
        proteins: what the proteins are.
        permutations: of the calibration; 0 switches it off.
        seed: of the proteins drawn and the permutations.

    Returns:
        A row for each pair, with the columns of ``Enrichment.pairs``, the taxon by name, q_value,
        q_value_dependent and taxonomic; and counts for a summary.
    """
    names, taxa = np.unique(np.asarray(proteins.taxa, dtype=object), return_inverse=True)
    drawn = cluster_units(taxa, proteins.clusters, proteins.sequence_ids, seed=seed)
    strata = strata_of([proteins.sequences[protein] for protein in drawn])
    found = enrichment(firing.of(drawn), taxa[drawn], strata, permutations=permutations, seed=seed)
    table = _called(found)
    naive = _called(enrichment(firing, taxa, np.zeros_like(taxa), permutations=0, seed=seed))
    summary = {
        "similarity_clusters": len(np.unique(proteins.clusters.astype(str))),
        "drawn_proteins": len(drawn),
        "strata": int(strata.max()) + 1,
        "smallest_stratum": int(np.bincount(strata).min()),
        "tested_pairs": found.tests,
        "untested_pairs": len(names) * firing.latent_count - found.tests,
        "significant_pairs": _count(table, pl.col("q_value") < LEVEL),
        "significant_pairs_dependent": _count(table, pl.col("q_value_dependent") < LEVEL),
        "taxonomic_pairs": _count(table, pl.col("taxonomic")),
        "taxonomic_latents": table.filter("taxonomic")["latent"].n_unique(),
        "taxa_with_taxonomic_latents": table.filter("taxonomic")["taxon"].n_unique(),
        "naive_pairs": _count(naive, pl.col("q_value") < LEVEL),
        "naive_latents": naive.filter(pl.col("q_value") < LEVEL)["latent"].n_unique(),
        "naive_taxa": naive.filter(pl.col("q_value") < LEVEL)["taxon"].n_unique(),
        "permutations": permutations,
        "permutations_with_discovery": int(found.with_discovery.sum()),
        "share_of_permutations_with_discovery": float(found.with_discovery.mean())
        if permutations
        else None,
    }
    by_number = pl.Series("taxon", names.tolist(), dtype=pl.String)
    return table.with_columns(by_number.gather(table["taxon"])), summary


def _called(found: Enrichment) -> pl.DataFrame:
    p = found.pairs["p_value"].drop_nulls().to_numpy()
    tested = pl.col("p_value").is_not_null()
    q = {
        "q_value": benjamini_hochberg(p, found.tests),
        "q_value_dependent": benjamini_yekutieli(p, found.tests),
    }
    rows = np.flatnonzero(found.pairs["p_value"].is_not_null().to_numpy())
    columns = []
    for name, values in q.items():
        column = np.full(len(found.pairs), np.nan)
        column[rows] = values
        columns.append(pl.when(tested).then(pl.Series(name, column)).alias(name))
    taxonomic = (
        (pl.col("q_value") < LEVEL)
        & (pl.col("odds_ratio") > 1)
        & (pl.col("firing_clusters") >= FEWEST_FIRING_CLUSTERS)
    )
    return found.pairs.with_columns(columns).with_columns(
        taxonomic=taxonomic.fill_null(False),
    )


def _count(table: pl.DataFrame, condition: pl.Expr) -> int:
    return int(table.select(condition.sum()).item())
