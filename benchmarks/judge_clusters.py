"""Do density clusters hold one family each? Purity of header names, against k-means.

    make demo
    python benchmarks/judge_clusters.py --data data

On a data folder of the demo: the density clusters beside k-means on amino-acid composition, with
and without length, and on the same points, of the same proteins in as many clusters. Copies (equal
sequences) are removed first. Names are those of headers: evidence of kinship, not proof.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from esm_sae.clusters.points import read_points
from esm_sae.data.masked_residues import AMINO_ACIDS
from esm_sae.data.nearest_neighbours import composition
from esm_sae.formats.fasta import read_fasta
from esm_sae.formats.headers import parse_header
from esm_sae.formats.protein_names import family_of
from esm_sae.split import read_similarity_clusters

_SHUFFLES = 200
_SEEDS = 5
_LISTED = 15


class Proteins(NamedTuple):
    """Distinct proteins of the table: what was clustered and what is known of them.

    Attributes:
        names: the protein's name in its header.
        families: number of the family that the name tells, -1 where it tells none.
        similarity: number of the similarity cluster.
        clusters: density cluster, -1 noise.
        points: (N, C), as they were clustered.
        features: (N, 21), composition and length.
    """

    names: list[str]
    families: np.ndarray
    similarity: np.ndarray
    clusters: np.ndarray
    points: np.ndarray
    features: np.ndarray

    def take(self, chosen: np.ndarray) -> "Proteins":
        """Return the proteins where ``chosen`` is true."""
        names = [name for name, wanted in zip(self.names, chosen, strict=True) if wanted]
        return Proteins(names, *(np.asarray(column)[chosen] for column in self[1:]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; print it, and write it as JSON where that is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python benchmarks/judge_clusters.py"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--fasta", default="uniref50_1M_sample.fasta", help="within --data")
    parser.add_argument("--table", default="embedding_clusters.parquet", help="within --data")
    parser.add_argument("--similarity_clusters", default="bundled")
    parser.add_argument("--output", type=Path, metavar="PATH", help="JSON file")
    options = parser.parse_args(argv)
    proteins = read_proteins(
        options.data / options.table, options.data / options.fasta, options.similarity_clusters
    )
    found = judge(proteins)
    show(found)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1))
    return 0


def read_proteins(table_path: Path, fasta: Path, similarity_clusters: str) -> Proteins:
    """Read a cluster table with its sequences, each sequence once."""
    table = pl.read_parquet(table_path)
    sequence_of = {record.header: record.sequence for record in read_fasta(fasta)}
    table = table.with_columns(
        pl.Series("sequence", [sequence_of[header] for header in table["header"]])
    ).with_row_index("row")
    table = table.unique("sequence", keep="first", maintain_order=True)
    known = read_similarity_clusters(similarity_clusters)
    names = [parse_header(header).name for header in table["header"]]
    ids = table["sequence_id"].to_list()
    return Proteins(
        names,
        _numbered([family_of(name) for name in names]),
        _numbered([known.get(identifier, identifier) for identifier in ids]),
        table["cluster"].to_numpy(),
        np.asarray(read_points(table_path))[table["row"].to_numpy()],
        composition(table["sequence"].to_list(), AMINO_ACIDS),
    )


def judge(proteins: Proteins) -> dict[str, Any]:
    """Compare the partitions of the clustered proteins, and list what joins similarity clusters."""
    inside = proteins.take(proteins.clusters >= 0)
    clusters = len(np.unique(inside.clusters))
    partitions = {
        "density": [inside.clusters],
        "k-means, points": _k_means(inside.points, clusters),
        "k-means, composition": _k_means(inside.features[:, : len(AMINO_ACIDS)], clusters),
        "k-means, composition and length": _k_means(inside.features, clusters),
        "30% similarity": [inside.similarity],
    }
    return {
        "distinct_proteins": len(proteins.names),
        "clustered": len(inside.names),
        "clusters": clusters,
        "named": int((inside.families >= 0).sum()),
        "families_of_several": int((np.bincount(inside.families[inside.families >= 0]) > 1).sum()),
        "partitions": {
            name: _mean([measures(labels, inside) for labels in drawn])
            for name, drawn in partitions.items()
        },
        "by_similarity_clusters": _by_similarity(inside),
        "joining": _joining(inside),
    }


def measures(labels: np.ndarray, proteins: Proteins) -> dict[str, float]:
    """Measure how well the clusters of named proteins agree with their families.

    ``purity``: share of the proteins that are of their cluster's commonest family; ``chance``: the
    same with families shuffled among the proteins; ``adjusted`` 0 at chance, 1 where pure.
    ``pairs``: of two proteins of a cluster, how often they are of one family; ``found``: of two
    proteins of a family, how often they are in one cluster. ``remote``: the same as ``pairs`` for
    proteins of different similarity clusters, ``remote_chance`` for any two such.
    """
    named = proteins.families >= 0
    labels, families = _numbered(labels[named].tolist()), proteins.families[named]
    similarity = proteins.similarity[named]
    generator = np.random.default_rng(0)
    purity = _purity(labels, families)
    chance = float(
        np.mean([_purity(labels, generator.permutation(families)) for _ in range(_SHUFFLES)])
    )
    one, other = np.triu_indices(len(labels), 1)
    together = labels[one] == labels[other]
    related = families[one] == families[other]
    apart = similarity[one] != similarity[other]
    return {
        "largest": float(np.bincount(labels).max()),
        "purity": purity,
        "chance": chance,
        "adjusted": (purity - chance) / (1 - chance),
        "pairs": _share(related & together, together),
        "found": _share(related & together, related),
        "remote": _share(related & together & apart, together & apart),
        "remote_pairs": float((together & apart).sum()),
        "remote_chance": _share(related & apart, apart),
    }


def show(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(
        f"{found['clusters']} density clusters of {found['clustered']:,} of "
        f"{found['distinct_proteins']:,} distinct proteins; {found['named']:,} have a telling name"
    )
    columns = list(found["partitions"]["density"])
    print(f"{'':22}" + "".join(f"{column:>14}" for column in columns))
    for name, figures in found["partitions"].items():
        print(f"{name:22}" + "".join(f"{figures[column]:14.4g}" for column in columns))
    print("\nclusters by the number of 30% similarity clusters that they join")
    for row in found["by_similarity_clusters"]:
        print(f"  {row['joined']:>4}: {row['clusters']} clusters, purity {row['purity']:.2f}")
    print("\nlargest clusters that join several 30% similarity clusters")
    for row in found["joining"]:
        names = "; ".join(f"{count} {name}" for name, count in row["names"])
        print(f"  {row['cluster']:>4}: {row['proteins']} of {row['joined']}: {names}")


def _numbered(values: Sequence[Any]) -> np.ndarray:
    """Number values from 0; None is -1."""
    numbers: dict[Any, int] = {}
    return np.array(
        [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    )


def _k_means(rows: np.ndarray, clusters: int) -> list[np.ndarray]:
    from sklearn.cluster import KMeans

    return [KMeans(clusters, random_state=seed).fit_predict(rows) for seed in range(_SEEDS)]


def _purity(labels: np.ndarray, families: np.ndarray) -> float:
    table = np.zeros((labels.max() + 1, families.max() + 1), dtype=np.int64)
    np.add.at(table, (labels, families), 1)
    return float(table.max(axis=1).sum() / len(labels))


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / max(whole.sum(), 1))


def _mean(drawn: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([figures[name] for figures in drawn])) for name in drawn[0]}


def _members(proteins: Proteins) -> dict[int, np.ndarray]:
    return {
        int(cluster): np.flatnonzero(proteins.clusters == cluster)
        for cluster in np.unique(proteins.clusters)
    }


def _by_similarity(proteins: Proteins) -> list[dict[str, Any]]:
    """Return number and purity of density clusters by how many similarity clusters they join."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for rows in _members(proteins).values():
        joined = len(np.unique(proteins.similarity[rows]))
        families = proteins.families[rows]
        families = families[families >= 0]
        most = int(np.bincount(families).max()) if len(families) else 0
        group = "1" if joined == 1 else "2-3" if joined < 4 else "4+"
        groups.setdefault(group, []).append((most, len(families)))
    return [
        {
            "joined": group,
            "clusters": len(rows),
            "purity": sum(most for most, _ in rows) / max(sum(named for _, named in rows), 1),
        }
        for group, rows in sorted(groups.items())
    ]


def _joining(proteins: Proteins) -> list[dict[str, Any]]:
    joining = [
        {
            "cluster": cluster,
            "proteins": len(rows),
            "joined": len(np.unique(proteins.similarity[rows])),
            "names": Counter(proteins.names[row] for row in rows).most_common(6),
        }
        for cluster, rows in _members(proteins).items()
    ]
    several = [row for row in joining if row["joined"] > 1]
    return sorted(several, key=lambda row: (-row["proteins"], row["cluster"]))[:_LISTED]


if __name__ == "__main__":
    sys.exit(main())
