"""The data that the page of clusters carries."""

from typing import Any

import numpy as np
import polars as pl

from esm_sae.formats.headers import parse_headers
from esm_sae.report.payload import accession_of, on_grid, short

_MEMBERS = 10


def cluster_payload(summary: pl.DataFrame, proteins: pl.DataFrame, drawn: pl.DataFrame) -> Any:
    """Collect what the page shows of the clusters, in plain lists.

    Args:
        summary: the table of ``describe_clusters``.
        proteins: the cluster table: sequence_id, header, cluster, probability.
        drawn: the map's row, cluster, x, y.

    Returns:
        ``clusters`` (columns, one entry per cluster, by number), ``words`` and ``taxa`` (per
        cluster its terms as [term, count, share, fold, q]), ``members`` (per cluster the 10 with
        the highest probability as [number in proteins, probability]), ``map`` (columns cluster,
        protein, x, y; y grows upwards) and ``proteins`` (columns id, name, taxon, accession).
    """
    members = _members(proteins)
    rows = np.unique(
        np.concatenate([members["row"], drawn["row"], summary["medoid_row"]]).astype(np.int64)
    )
    return {
        "clusters": _columns(summary, rows),
        "words": _terms(summary["words"], "word"),
        "taxa": _terms(summary["taxa"], "taxon"),
        "members": _by_cluster(members, rows, len(summary)),
        "map": _map(drawn, rows),
        "proteins": _proteins(proteins[rows]),
    }


def _members(proteins: pl.DataFrame) -> pl.DataFrame:
    """Return cluster, row and probability of each cluster's members to show, best first."""
    return (
        proteins.select("cluster", "probability")
        .with_row_index("row")
        .filter(pl.col("cluster") >= 0)
        .sort("cluster", "probability", "row", descending=[False, True, False])
        .group_by("cluster", maintain_order=True)
        .head(_MEMBERS)
    )


def _columns(summary: pl.DataFrame, rows: np.ndarray) -> dict[str, list[Any]]:
    plain = {
        "size": "size",
        "distinct": "distinct",
        "label": "label",
        "joined": "similarity_clusters",
    }
    numbers = {
        "probability": "mean_probability",
        "length": "mean_length",
        "joinedShare": "similarity_share",
    }
    columns: dict[str, list[Any]] = {key: summary[name].to_list() for key, name in plain.items()}
    columns |= {key: [short(value) for value in summary[name]] for key, name in numbers.items()}
    columns["medoid"] = np.searchsorted(rows, summary["medoid_row"]).tolist()
    return columns


def _terms(lists: pl.Series, name: str) -> list[list[list[Any]]]:
    return [
        [
            [term[name], term["count"], short(term["share"]), short(term["fold"]), short(term["q"])]
            for term in terms
        ]
        for terms in lists.to_list()
    ]


def _by_cluster(members: pl.DataFrame, rows: np.ndarray, clusters: int) -> list[list[Any]]:
    shown: list[list[Any]] = [[] for _ in range(clusters)]
    places = np.searchsorted(rows, members["row"]).tolist()
    for cluster, place, probability in zip(
        members["cluster"].to_list(), places, members["probability"].to_list(), strict=True
    ):
        shown[cluster].append([place, short(probability)])
    return shown


def _map(drawn: pl.DataFrame, rows: np.ndarray) -> dict[str, list[Any]]:
    x, y = on_grid(drawn.select("x", "y").to_numpy())
    return {
        "cluster": drawn["cluster"].to_list(),
        "protein": np.searchsorted(rows, drawn["row"]).tolist(),
        "x": x,
        "y": y,
    }


def _proteins(proteins: pl.DataFrame) -> dict[str, list[Any]]:
    parsed = parse_headers(proteins["header"].fill_null("")).select("name", "taxon").collect()
    ids = proteins["sequence_id"].to_list()
    return {
        "id": ids,
        "name": [name or None for name in parsed["name"]],
        "taxon": parsed["taxon"].to_list(),
        "accession": [accession_of(sequence_id) for sequence_id in ids],
    }
