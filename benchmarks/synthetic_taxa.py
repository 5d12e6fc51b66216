"""A synthetic taxonomy of NCBI's size, UniProt's species list for it, and a FASTA like UniRef50."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

# Nodes of each rank, about as many as NCBI's taxonomy has.
_LEVELS = {
    "domain": 4,
    "phylum": 300,
    "class": 700,
    "order": 2_000,
    "family": 12_000,
    "genus": 110_000,
    "species": 2_200_000,
    "strain": 300_000,
}
_RANKS = list(_LEVELS)
_SPECIES, _ORDER = _RANKS.index("species"), _RANKS.index("order")
_MERGED, _DELETED, _SYNONYMS = 90_000, 700_000, 1_200_000
# Species with proteins, and those of them with an organism code of their own.
_WITH_PROTEINS, _WITH_CODE = 500_000, 20_000
# Share of a species by its place in the order of sizes: about that of UniRef50's taxa.
_ZIPF = 0.9
_MEMBERS_EXPONENT, _LARGEST_CLUSTER = 1.1, 200_000
_LONGEST, _LINE, _POOL = 2_048, 60, 1 << 22
_RECORDS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class SyntheticTaxonomy:
    """Per rank the TaxIDs, names and the parents' places in the rank above; codes of species."""

    taxids: list[np.ndarray]
    parents: list[np.ndarray]
    names: list[np.ndarray]
    codes: np.ndarray


def make_taxonomy(seed: int = 0) -> SyntheticTaxonomy:
    generator = np.random.default_rng(seed)
    count = sum(_LEVELS.values())
    every = generator.permutation(np.arange(2, count + 2 + _MERGED + _DELETED))[:count]
    taxids = np.split(every, np.cumsum(list(_LEVELS.values()))[:-1])
    parents, names = [np.zeros(len(taxids[0]), dtype=np.int64)], []
    for above, below in itertools.pairwise(taxids):
        # Squared: large families and small ones.
        parents.append((generator.random(len(below)) ** 2 * len(above)).astype(np.int64))
    for rank, own, parent in zip(_RANKS, taxids, parents, strict=True):
        title = {"species": "species", "strain": "strain"}.get(rank, rank.title())
        plain = np.array([f"{title}{number}" for number in range(len(own))], dtype=object)
        behind = rank in ("species", "strain")
        names.append(names[-1][parent] + " " + plain if behind else plain)
    return SyntheticTaxonomy(taxids, parents, names, _codes(parents))


def write_taxdump(taxonomy: SyntheticTaxonomy, folder: Path, seed: int = 0) -> None:
    """Write nodes.dmp, names.dmp, merged.dmp and delnodes.dmp."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    above = [np.array([1]), *taxonomy.taxids[:-1]]
    nodes = pl.DataFrame(
        {
            "taxid": np.concatenate([[1], *taxonomy.taxids]),
            "parent": np.concatenate(
                [[1], *(ids[at] for ids, at in zip(above, taxonomy.parents, strict=True))]
            ),
            "rank": np.repeat(["no rank", *_RANKS], [1, *_LEVELS.values()]),
            "rest": "\t|\t".join(["", "0", "1", "11", "1", "0", "1", "1", "0", "code compliant"]),
        }
    ).sort("taxid")
    _write(nodes, folder / "nodes.dmp")
    names = pl.DataFrame(
        {
            "taxid": np.concatenate([[1], *taxonomy.taxids]),
            "name": ["root", *(name for level in taxonomy.names for name in level)],
            "unique": "",
            "class": "scientific name",
        }
    )
    other = names.sample(_SYNONYMS, seed=seed).with_columns(
        pl.format("{} auct. non L.", "name").alias("name"), pl.lit("synonym").alias("class")
    )
    _write(pl.concat([names, other]).sort("taxid", maintain_order=True), folder / "names.dmp")
    used = np.concatenate([[1], *taxonomy.taxids])
    free = np.setdiff1d(np.arange(used.max()), used)
    free = generator.permutation(free[free > 0])
    merged = pl.DataFrame(
        {"old": free[:_MERGED], "new": generator.choice(taxonomy.taxids[_SPECIES], _MERGED)}
    )
    _write(merged, folder / "merged.dmp")
    _write(pl.DataFrame({"old": free[_MERGED:]}), folder / "delnodes.dmp")


def write_species_list(taxonomy: SyntheticTaxonomy, path: Path) -> None:
    """Write the organism codes in the form of UniProt's speclist.txt."""
    lines = ["(1) Real organism codes", "", "Code    Taxon    N=Official (scientific) name", ""]
    for place in range(_WITH_CODE):
        taxid, name = taxonomy.taxids[_SPECIES][place], taxonomy.names[_SPECIES][place]
        lines += [f"{taxonomy.codes[place]:5} B {taxid:7}: N={name}", " " * 17 + "C=A name"]
    lines += ["", '(2) "Virtual" codes that regroup organisms at a certain taxonomic level', ""]
    for place in range(_LEVELS["order"]):
        taxid, name = taxonomy.taxids[_ORDER][place], taxonomy.names[_ORDER][place]
        lines.append(f"{_virtual(place)} B {taxid:7}: N={name}")
    path.write_text("\n".join(lines) + "\n")


def write_uniref_like_fasta(
    taxonomy: SyntheticTaxonomy, path: Path, records: int, *, seed: int = 0
) -> None:
    """Write records with UniRef50's headers.

    Species are Zipf-distributed. A cluster's ``Tax=`` is, the more members it has, the more
    likely of a higher rank; its ``RepID=`` has the representative's organism code, or none.
    """
    generator = np.random.default_rng(seed)
    weights = 1 / np.arange(2, _WITH_PROTEINS + 2) ** _ZIPF
    cumulated = np.cumsum(weights) / weights.sum()
    pool = generator.choice(np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8), _POOL)
    residues = pool.tobytes().decode()
    with path.open("wb") as file:
        for first in range(0, records, _RECORDS_AT_ONCE):
            count = min(_RECORDS_AT_ONCE, records - first)
            species = np.searchsorted(cumulated, generator.random(count))
            members = generator.random(count) ** (-1 / _MEMBERS_EXPONENT)
            members = np.minimum(members.astype(np.int64), _LARGEST_CLUSTER)
            lengths = np.clip(generator.lognormal(5.4, 0.75, count), 11, _LONGEST).astype(int)
            starts = generator.integers(0, _POOL - _LONGEST, count)
            above = generator.exponential(0.6, count) * np.log2(members)
            taxids, names = _common_ancestors(taxonomy, species, above.astype(np.int64))
            codes = np.where(generator.random(count) < 0.15, "", taxonomy.codes[species])
            rows = zip(
                range(first, first + count),
                *(column.tolist() for column in (members, names, taxids, codes, starts, lengths)),
                strict=True,
            )
            file.write("".join(_record(residues, *row) for row in rows).encode())


def _record(
    residues: str, number: int, n: int, name: str, taxid: int, code: str, start: int, length: int
) -> str:
    representative = f"A0A{number:07X}_{code}" if code else f"UPI{number:010X}"
    sequence = residues[start : start + length]
    wrapped = "\n".join(sequence[at : at + _LINE] for at in range(0, length, _LINE))
    return (
        f">UniRef50_A0A{number:07X} Uncharacterized protein n={n} Tax={name} TaxID={taxid} "
        f"RepID={representative}\n{wrapped}\n"
    )


def _common_ancestors(
    taxonomy: SyntheticTaxonomy, species: np.ndarray, above: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    places = species.copy()
    taxids = taxonomy.taxids[_SPECIES][places]
    names = taxonomy.names[_SPECIES][places]
    for step in range(1, _SPECIES + 1):
        level = _SPECIES - step
        places = taxonomy.parents[level + 1][places]
        higher = above >= step
        taxids[higher] = taxonomy.taxids[level][places[higher]]
        names[higher] = taxonomy.names[level][places[higher]]
    return taxids, names


def _codes(parents: list[np.ndarray]) -> np.ndarray:
    places = np.arange(_WITH_PROTEINS)
    for level in range(_SPECIES, _ORDER, -1):
        places = parents[level][places]
    codes = np.array([_virtual(place) for place in places.tolist()], dtype=object)
    codes[:_WITH_CODE] = [_letters(place, 5) for place in range(_WITH_CODE)]
    return codes


def _virtual(order: int) -> str:
    return "9" + _letters(order, 4)


def _letters(number: int, length: int) -> str:
    return "".join(chr(65 + number // 26**place % 26) for place in range(length))


def _write(table: pl.DataFrame, path: Path) -> None:
    columns = [part for name in table.columns for part in (pl.col(name), pl.lit("\t|\t"))][:-1]
    lines = table.select(pl.concat_str([*columns, pl.lit("\t|")]))
    lines.write_csv(path, include_header=False, quote_style="never")
