"""A taxonomy: which taxon is whose child, of which rank, and what it is called."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.clusters.taxdump import DELETED, MERGED, NAMES, NODES, line_of, read_taxdump
from esm_sae.errors import InputError

Rank = Literal["species", "genus", "family", "order", "class", "phylum", "kingdom", "superkingdom"]
# From the highest.
RANKS: tuple[str, ...] = get_args(Rank)[::-1]

# Why a taxon has none of a rank.
ABOVE_RANK, RANK_MISSING = "above_rank", "rank_missing"

# NCBI's names since 2025: 'domain' of cellular organisms, 'acellular root' of viruses.
_OTHER_RANK_NAMES = {"domain": "superkingdom", "acellular root": "superkingdom"}
_LIFTED = "lifted"
_SCIENTIFIC = "scientific name"
_SYNONYMS = ("synonym", "genbank synonym", "equivalent name")


@dataclass(frozen=True)
class Taxonomy:
    """A taxonomy of N taxa.

    Attributes:
        taxids: (N,) int64, ascending.
        parents: (N,) int64, place of each taxon's parent in ``taxids``; a root is its own.
        ranks: (N,) int8, place of each taxon's rank in ``RANKS``, -1 for another or no rank.
        scientific: name, taxid: at most one scientific name of each taxon.
        synonyms: name, taxid.
        merged: old, new: TaxIDs that have become another.
        deleted: TaxIDs that are no more.
    """

    taxids: np.ndarray
    parents: np.ndarray
    ranks: np.ndarray
    scientific: pl.DataFrame
    synonyms: pl.DataFrame
    merged: pl.DataFrame
    deleted: pl.Series

    def current(self, taxids: pl.Series) -> pl.DataFrame:
        """Bring TaxIDs up to date.

        Returns:
            One row per TaxID in order: taxid (null where it is not in the taxonomy) and state:
            ``current``, ``merged``, ``deleted`` or ``unknown``.
        """
        rows = (
            pl.DataFrame({"old": taxids.cast(pl.Int64)})
            .join(self.merged, on="old", how="left", maintain_order="left")
            .with_columns(
                is_current=pl.Series(self._has(taxids), dtype=pl.Boolean),
                is_deleted=pl.col("old").is_in(self.deleted.implode()),
            )
        )
        is_merged = pl.Series(self._has(rows["new"]), dtype=pl.Boolean)
        return rows.select(
            pl.when("is_current").then("old").when(is_merged).then("new").alias("taxid"),
            pl.when("is_current")
            .then(pl.lit("current"))
            .when(is_merged)
            .then(pl.lit("merged"))
            .when("is_deleted")
            .then(pl.lit("deleted"))
            .otherwise(pl.lit("unknown"))
            .alias("state"),
        )

    def lift(self, taxids: pl.Series, rank: Rank) -> pl.DataFrame:
        """Find the taxa of a rank that TaxIDs of this taxonomy are, or belong to.

        Returns:
            One row per TaxID in order: taxid (null where there is none) and state: ``lifted``;
            ``above_rank``, where the taxon is of a higher rank; ``rank_missing``, where it is of
            a lower one and its lineage leaves this one out.
        """
        wanted = RANKS.index(rank)
        at = np.searchsorted(self.taxids, taxids.to_numpy())
        found = np.full(len(at), -1)
        is_below = np.zeros(len(at), dtype=bool)
        waiting = np.arange(len(at))
        while len(waiting):
            here = at[waiting]
            hit = self.ranks[here] == wanted
            found[waiting[hit]] = here[hit]
            is_below[waiting] |= self.ranks[here] > wanted
            at[waiting] = self.parents[here]
            waiting = waiting[~hit & (self.parents[here] != here)]
        is_found = found >= 0
        state = np.where(is_found, _LIFTED, np.where(is_below, RANK_MISSING, ABOVE_RANK))
        lifted = pl.Series(self.taxids[found], dtype=pl.Int64)
        return pl.DataFrame(
            {"taxid": lifted, "state": state}, schema_overrides={"state": pl.String}
        ).with_columns(pl.when(pl.Series(is_found, dtype=pl.Boolean)).then("taxid").alias("taxid"))

    def names(self, taxids: pl.Series) -> pl.Series:
        """Return the scientific names of TaxIDs, in order; null where a taxon has none."""
        rows = pl.DataFrame({"taxid": taxids.cast(pl.Int64)})
        return rows.join(self.scientific, on="taxid", how="left", maintain_order="left")["name"]

    def _has(self, taxids: pl.Series) -> np.ndarray:
        # No TaxID is negative.
        wanted = taxids.fill_null(-1).to_numpy()
        places = np.minimum(np.searchsorted(self.taxids, wanted), len(self.taxids) - 1)
        return self.taxids[places] == wanted


def read_taxonomy(source: storage.PathLike) -> Taxonomy:
    """Read a taxonomy from an NCBI taxdump: a folder, a .tar, .tar.gz, .tar.zst or .zip.

    Memory is bounded by some 400 bytes per taxon: 1.2 GB for NCBI's 2.7 million.

    Raises:
        InputError: as ``read_taxdump``, or nodes.dmp is no tree: a TaxID stands twice, a parent
            is missing, or taxa are their own ancestors.
    """
    tables = read_taxdump(source)
    taxids, parents, ranks = _tree(tables.pop(NODES), source)
    names = tables.pop(NAMES)
    return Taxonomy(
        taxids,
        parents,
        ranks,
        names.filter(pl.col("class") == _SCIENTIFIC)
        .select("name", "taxid")
        .unique("taxid", keep="first", maintain_order=True),
        names.filter(pl.col("class").is_in(_SYNONYMS)).select("name", "taxid"),
        tables[MERGED].unique("old", keep="first", maintain_order=True),
        tables[DELETED]["old"].unique(),
    )


def _tree(
    nodes: pl.DataFrame, source: storage.PathLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = nodes["taxid"].arg_sort().to_numpy()
    taxids, parent_ids = (nodes[name].to_numpy()[order] for name in ("taxid", "parent"))
    repeated = np.flatnonzero(taxids[1:] == taxids[:-1])
    if len(repeated):
        row = int(order[repeated[0] : repeated[0] + 2].max())
        raise _no_tree(source, nodes, row, "stands a second time")
    parents = np.minimum(np.searchsorted(taxids, parent_ids), len(taxids) - 1)
    missing = np.flatnonzero(taxids[parents] != parent_ids)
    if len(missing):
        row = int(order[missing].min())
        raise _no_tree(
            source, nodes, row, f"has the parent {nodes['parent'][row]}, which no line has"
        )
    looped = _without_root(parents)
    if len(looped):
        raise _no_tree(
            source, nodes, int(order[looped].min()), "is its own ancestor, or has such a one"
        )
    return taxids, parents, _rank_places(nodes["rank"])[order]


def _without_root(parents: np.ndarray) -> np.ndarray:
    """Return the places from which no root is reached: those of a cycle and below it."""
    is_root = parents == np.arange(len(parents))
    ancestors = parents
    # Each step doubles the generations that are looked back.
    for _ in range(math.ceil(math.log2(max(len(parents), 2))) + 1):
        if is_root[ancestors].all():
            break
        ancestors = ancestors[ancestors]
    return np.flatnonzero(~is_root[ancestors])


def _rank_places(ranks: pl.Series) -> np.ndarray:
    places = {name: place for place, name in enumerate(RANKS)}
    places |= {other: places[name] for other, name in _OTHER_RANK_NAMES.items()}
    return ranks.replace_strict(places, default=-1, return_dtype=pl.Int8).to_numpy()


def _no_tree(source: storage.PathLike, nodes: pl.DataFrame, row: int, why: str) -> InputError:
    taxid = nodes["taxid"][row]
    return InputError(
        f"{line_of(source, NODES, row)}: TaxID {taxid} {why}; fetch taxdump.tar.gz of NCBI's "
        "taxonomy again"
    )
