"""Which taxon a record belongs to: what its header says, by a taxonomy, at a rank."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import polars as pl

from esm_sae import storage
from esm_sae.clusters.cluster_names import name_clusters
from esm_sae.clusters.lineages import UNKNOWN_TAXON, WITHOUT_TAXON, resolve
from esm_sae.clusters.organisms import member_count, read_species_list, representative_code
from esm_sae.clusters.tables import identity_of_file
from esm_sae.clusters.taxa_statistics import member_class
from esm_sae.clusters.taxdump import identity_of_taxdump
from esm_sae.clusters.taxonomy import ABOVE_RANK, RANK_MISSING, RANKS, Rank, read_taxonomy
from esm_sae.errors import InputError

Organism = Literal["common_ancestor", "representative"]

# What tells one taxon of the headers from another.
KEYS = ["taxid", "taxon", "code"]

_WITHOUT_CODE = "without_code"
_PAIR = ["taxid", "taxon"]


@dataclass(frozen=True)
class TaxonChoice:
    """How the taxon of a record is told; the attributes are the options of ``cluster_taxa``.

    Raises:
        InputError: the options do not go together.
    """

    taxonomy: storage.PathLike | None
    rank: Rank | None
    organism: Organism
    species_list: storage.PathLike | None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("rank", self.rank or RANKS[0], RANKS),
            ("organism", self.organism, get_args(Organism)),
        ):
            if value not in known:
                raise InputError(f"{name} '{value}' is none of {', '.join(known)}")
        if self.rank is not None and self.taxonomy is None:
            raise InputError(f"rank {self.rank} needs a taxonomy, NCBI's taxdump.tar.gz")
        if not self._by_code and self.species_list is not None:
            raise InputError(
                "a species list goes with organism 'representative'; leave one of them out"
            )
        if self._by_code and self.taxonomy is not None and self.species_list is None:
            raise InputError(
                "organism 'representative' with a taxonomy needs the species list, UniProt's "
                "speclist.txt, for the TaxIDs of organism codes"
            )

    @property
    def reasons(self) -> list[str]:
        """Why records can be left out."""
        if self.rank is not None:
            return [WITHOUT_TAXON, UNKNOWN_TAXON, ABOVE_RANK, RANK_MISSING]
        return [WITHOUT_TAXON, _WITHOUT_CODE] if self._by_code else [WITHOUT_TAXON]

    def determinants(self) -> dict[str, Any]:
        """Return what the choice adds to what determines the output."""
        taxonomy, species = self.taxonomy, self.species_list
        return {
            "taxonomy": None if taxonomy is None else identity_of_taxdump(taxonomy),
            "rank": self.rank,
            "organism": self.organism,
            "species_list": None if species is None else identity_of_file(species),
        }

    def columns(self) -> dict[str, pl.Expr]:
        """Return the columns that are needed beside those of a FASTA's index.

        ``code`` is the representative's organism code, empty of a UniRef header without one and
        null of other headers; ``member_class`` is that of the header's ``n=``.
        """
        header = pl.col("header")
        code, members = pl.lit(None, pl.String), pl.lit(None, pl.Int8)
        if self._by_code:
            is_uniref = member_count(header).is_not_null()
            code = pl.when(is_uniref).then(representative_code(header).fill_null(""))
        if self.rank is not None:
            members = member_class(member_count(header))
        return {"code": code, "member_class": members}

    def assign(self, taxa: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Give each taxon of the headers its cluster.

        Args:
            taxa: ``KEYS`` and records, one row per distinct taxon.

        Returns:
            The same rows with key (the cluster's TaxID), cluster and left_out (None, or why), and
            what became of how many records.
        """
        taxonomy = None if self.taxonomy is None else read_taxonomy(self.taxonomy)
        taxa, sayings = self._sayings(taxa)
        pairs = pl.concat(sayings).unique()
        resolved = resolve(pairs, taxonomy, self.rank)
        fate = _looked_up(sayings[0], resolved)
        for saying in sayings[1:]:
            fate = _where_left_out(fate, _looked_up(saying, resolved))
        if self._by_code and self.rank is None:
            without_code = pl.when(taxa["code"] == "").then(pl.lit(_WITHOUT_CODE))
            fate = fate.with_columns(left_out=pl.coalesce(without_code, "left_out"))
        taxa = taxa.select(*KEYS, "records", "code_state").hstack(fate)
        kept = taxa.filter(pl.col("left_out").is_null())
        named = taxa.join(
            name_clusters(kept),
            on=["key", "name_key"],
            how="left",
            nulls_equal=True,
            maintain_order="left",
        ).with_columns(cluster=pl.when(pl.col("left_out").is_null()).then("cluster"))
        return named.select(*KEYS, "records", "key", "cluster", "left_out"), {
            **_name_conflicts(pairs),
            **{
                states: _records_by(taxa, states)
                for states in ("taxid_state", "name_state", "code_state")
                if states in taxa.columns and taxa[states].null_count() < len(taxa)
            },
        }

    @property
    def _by_code(self) -> bool:
        return self.organism == "representative"

    def _sayings(self, taxa: pl.DataFrame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
        """Return the taxa with ``code_state``, and what is said of them as taxid and taxon.

        Of several sayings the first counts by which the record is not left out.
        """
        by_header = taxa.select(_PAIR)
        if not self._by_code:
            return taxa.with_columns(code_state=pl.lit(None, pl.String)), [by_header]
        listed = _listed(taxa, self.species_list)
        by_code = listed.select(
            pl.when("is_uniref").then(f"code_{name}").otherwise(name).alias(name) for name in _PAIR
        )
        if self.rank is None:
            return listed, [by_code]
        return listed, [by_code, by_header]


def _listed(taxa: pl.DataFrame, species_list: storage.PathLike | None) -> pl.DataFrame:
    """Add code_taxid, code_taxon (the code itself where it is not listed) and code_state."""
    code = pl.col("code")
    is_unlisted = pl.lit(False)
    if species_list is None:
        listed = taxa.with_columns(code_taxid=pl.lit(None, pl.Int64), name=pl.lit(None, pl.String))
    else:
        listed = taxa.join(
            read_species_list(species_list).rename({"taxid": "code_taxid"}),
            on="code",
            how="left",
            maintain_order="left",
        )
        is_unlisted = pl.col("code_taxid").is_null()
    return listed.with_columns(
        is_uniref=code.is_not_null(),
        code_taxon=pl.coalesce("name", pl.when(code != "").then("code")),
        code_state=pl.when(code == "")
        .then(pl.lit("none"))
        .when(is_unlisted & code.is_not_null())
        .then(pl.lit("not_listed"))
        .when(code.str.starts_with("9"))
        .then(pl.lit("group"))
        .when(code.is_not_null())
        .then(pl.lit("species")),
    )


def _looked_up(said: pl.DataFrame, resolved: pl.DataFrame) -> pl.DataFrame:
    """Return what a saying of each taxon, in order, was resolved to."""
    return said.join(resolved, on=_PAIR, how="left", nulls_equal=True, maintain_order="left").drop(
        _PAIR
    )


def _where_left_out(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    is_left_out = first["left_out"].is_not_null()
    return first.with_columns(
        pl.when(is_left_out).then(second[name]).otherwise(name).alias(name)
        for name in first.columns
    )


def _records_by(taxa: pl.DataFrame, states: str) -> dict[str, int]:
    counted = taxa.drop_nulls(states).group_by(states).agg(pl.col("records").sum()).sort(states)
    return dict(counted.iter_rows())


def _name_conflicts(pairs: pl.DataFrame) -> dict[str, int]:
    both = pairs.drop_nulls()
    return {
        "names_of_several_taxids": _repeated(both["taxon"]),
        "taxids_of_several_names": _repeated(both["taxid"]),
    }


def _repeated(values: pl.Series) -> int:
    return int(values.filter(values.is_duplicated()).n_unique())
