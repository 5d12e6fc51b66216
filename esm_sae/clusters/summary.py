"""What the density clusters are: medoids, words of names, taxa, similarity clusters, a map."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.clusters.cluster_map import Layout, cluster_map, drawn_rows, require_layout
from esm_sae.clusters.copies import distinct_points
from esm_sae.clusters.medoids import medoids
from esm_sae.clusters.points import points_path, read_points
from esm_sae.clusters.summary_table import summary_table
from esm_sae.errors import InputError
from esm_sae.formats.cluster_summary import AXES, map_path
from esm_sae.formats.manifest import (
    Product,
    identity_of,
    manifest_beside,
    produce_files,
    read_manifest,
    require_unclaimed,
)
from esm_sae.split import identity_of_clusters

_ALGORITHM = "cluster-summary-1"
_TOP = 10
_TABLE = {
    "sequence_id": pl.String,
    "header": pl.String,
    "cluster": pl.Int32,
    "probability": pl.Float64,
}


def describe_clusters(
    table: storage.PathLike,
    output_parquet: storage.PathLike,
    *,
    similarity_clusters: storage.PathLike | None = None,
    layout: Layout = "pca",
    seed: int = 0,
) -> Product:
    """Tell of each density cluster what is in it, and lay the proteins out as a map.

    Writes one row per cluster, in the order of their numbers:

    - cluster, size (proteins), distinct (without copies), share (of all proteins, noise
      included), mean_probability, mean_length (residues; null where the table has no lengths).
    - medoid_id, medoid_header, medoid_row (in the table, from 0): the member whose mean distance
      to the others, without copies, is least; see ``medoids``.
    - words, taxa: the 8 commonest words of the members' names and their 5 commonest taxa, each
      with count, share, fold and q of ``enrichment``; those that at least 2 proteins of the
      cluster and 3 of all bear. Both come from the headers.
    - label: the commonest word with q up to 5% that at least half of the proteins bear; null
      where there is none.
    - similarity_clusters: how many similarity clusters the members are of, similarity_share: the
      commonest one's share; of members whose similarity cluster is known, null where none is.

    Copies, rows whose points are equal but for rounding, count as one protein in
    ``distinct``, words, taxa and similarity clusters: it bears the words and taxa of all of them.
    Near copies, such as one protein of many strains, count each, so that a small q says that a
    term belongs to the cluster, not that so many independent observations do.

    Beside it ``<stem>.map.parquet`` has a row per protein drawn (sequence_id, row, cluster, x,
    y): 20,000 drawn at random, and all medoids; the parquet's metadata names the axes.

    Memory is that of the headers and of the words in them, about 1.3 kB a protein.

    Args:
        table: the table that ``cluster_embeddings`` wrote, with its points beside it.
        output_parquet: the summary to write.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"``, or None
            where they are not known.
        layout: ``pca`` draws the first two coordinates of the points, ``umap`` needs the extra.
        seed: of the proteins drawn, of medoids' samples and of UMAP.

    Raises:
        InputError: the table is none by embedding, its points are missing or its place is
            wanted for the summary, a table of similarity clusters cannot be read, or UMAP is not
            installed.
    """
    source, output = Path(table), Path(output_parquet)
    if output.resolve() == source.resolve():
        raise InputError(f"{output}: is the table to describe; name another file to write")
    require_layout(layout)
    require_unclaimed([output, map_path(output)], manifest_beside(output))
    _require_table(source)
    axes, embeddings = _recorded(source, layout)
    determinants = {
        "table": identity_of(source),
        "points": identity_of(points_path(source)),
        "similarity_clusters": identity_of_clusters(similarity_clusters),
        "axes": axes,
        "embeddings": embeddings,
        "layout": layout,
        "seed": seed,
        "algorithm": _ALGORITHM,
    }

    def build(temporaries: list[Path]) -> dict[str, Any]:
        members, points = _read_table(source), read_points(source)
        labels = members["cluster"].to_numpy()
        distinct, number = distinct_points(points)
        groups = distinct[number]
        middles = distinct[medoids(points[distinct], labels[distinct], seed=seed)]
        clusters, tests = summary_table(members, groups, middles, similarity_clusters)
        clusters.write_parquet(temporaries[0])
        rows = drawn_rows(len(members), middles, seed=seed)
        drawn = cluster_map(points, members, groups, rows, layout, seed=seed)
        drawn.write_parquet(temporaries[1], metadata=dict(zip(AXES, axes, strict=True)))
        return {
            **_describe(clusters, labels),
            "distinct": len(distinct),
            **tests,
            "drawn": len(drawn),
            "layout": layout,
            "embeddings": embeddings,
            "top_clusters": _top(clusters),
        }

    return produce_files(
        [output, map_path(output)],
        manifest=manifest_beside(output),
        kind="embedding_cluster_summary",
        determinants=determinants,
        build=build,
    )


def _recorded(table: Path, layout: str) -> tuple[list[str], str]:
    """Return the names of the map's axes and what the rows are, as the table's manifest says."""
    manifest = read_manifest(manifest_beside(table))
    summary = manifest.summary if manifest else {}
    embeddings = summary.get("embeddings", "embeddings of unknown provenance")
    if layout == "umap":
        return ["UMAP 1", "UMAP 2"], embeddings
    shares = [*summary.get("explained_by_component", []), None, None][:2]
    return [
        f"PC {number}" if share is None else f"PC {number} ({share:.0%} of the variance)"
        for number, share in enumerate(shares, 1)
    ], embeddings


def _require_table(path: Path) -> None:
    """Check that a file is a table of clusters by embedding, with its points beside it."""
    with storage.open_binary(path) as file:
        try:
            schema = pl.read_parquet_schema(file)
        except pl.exceptions.PolarsError:
            raise InputError(f"{path}: not a parquet table") from None
    if any(schema.get(name) != kind for name, kind in _TABLE.items()):
        raise InputError(
            f"{path}: not a table of clusters by embedding; name one that "
            "'python -m esm_sae.cluster --np_dir' wrote"
        )
    read_points(path)


def _read_table(path: Path) -> pl.DataFrame:
    table = pl.read_parquet(path)
    numbers = table["cluster"].unique().sort()
    named = numbers.filter(numbers >= 0)
    if numbers.null_count() or named.to_list() != list(range(len(named))):
        raise InputError(
            f"{path}: its clusters are not numbered 0, 1, 2, ...; cluster the embeddings again"
        )
    if "length" not in table.columns:
        table = table.with_columns(pl.lit(None, dtype=pl.Int32).alias("length"))
    return table


def _describe(clusters: pl.DataFrame, labels: np.ndarray) -> dict[str, Any]:
    noise = int((labels < 0).sum())
    joined = clusters["similarity_clusters"]
    return {
        "clusters": len(clusters),
        "rows": len(labels),
        "noise": noise,
        "noise_share": noise / len(labels),
        "labelled_clusters": len(clusters) - clusters["label"].null_count(),
        "clusters_of_known_similarity": len(clusters) - joined.null_count(),
        "clusters_joining_similarity_clusters": int((joined > 1).sum()),
    }


def _top(clusters: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the largest clusters in a few words each."""
    return [
        {
            "cluster": row["cluster"],
            "size": row["size"],
            "label": row["label"],
            "medoid": row["medoid_header"] or row["medoid_id"],
            "words": ", ".join(f"{word['word']} {word['share']:.0%}" for word in row["words"][:3]),
            "taxon": _described(row["taxa"]),
            "similarity_clusters": row["similarity_clusters"],
        }
        for row in clusters.head(_TOP).iter_rows(named=True)
    ]


def _described(taxa: list[dict[str, Any]]) -> str | None:
    return f"{taxa[0]['taxon']} {taxa[0]['share']:.0%}" if taxa else None
