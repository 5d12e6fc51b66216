"""Writing the report of density clusters."""

from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.cluster_summary import map_path, read_map, read_summary
from esm_sae.formats.manifest import (
    Manifest,
    Product,
    fingerprint_of,
    identity_of,
    manifest_beside,
    produce_files,
    read_manifest,
)
from esm_sae.report.cluster_payload import cluster_payload
from esm_sae.report.facts import Fact
from esm_sae.report.page import page_assets, render_page

_ALGORITHM = "cluster-report-2"
_TEMPLATE = "cluster_report.html.j2"
_FILES = (
    _TEMPLATE,
    "map.css",
    "cluster_report.css",
    "browse.js",
    "map.js",
    "cluster_report.js",
)


def write_cluster_report(
    output_html: storage.PathLike,
    *,
    summary: storage.PathLike,
    table: storage.PathLike,
    title: str | None = None,
) -> Product:
    """Write the density clusters as one HTML file: it needs no network and no server.

    Args:
        output_html: the page; its manifest comes beside it.
        summary: the table of ``describe_clusters``, with its map beside it.
        table: the table of ``cluster_embeddings`` that was described.
        title: heading of the page; by default the numbers of clusters and proteins.

    Raises:
        InputError: an input is missing or incomplete, or the summary is of another table.
    """
    output, table = Path(output_html), Path(table)
    described = _manifest_of(Path(summary))
    if described.determinants.get("table") != identity_of(table):
        raise InputError(f"{summary}: describes another table than {table}; describe it again")
    facts = described.summary
    heading = title or f"{facts['clusters']:,} density clusters of {facts['rows']:,} proteins"
    assets = page_assets(*_FILES)
    clustered = read_manifest(manifest_beside(table))
    determinants = {
        "summary": identity_of(summary),
        "map": identity_of(map_path(summary)),
        "table": identity_of(table),
        "described": described.fingerprint,
        "clustered": clustered.fingerprint if clustered else None,
        "title": heading,
        "page": fingerprint_of("page", assets),
        "algorithm": _ALGORITHM,
    }

    def build(temporaries: list[Path]) -> dict[str, Any]:
        clusters = read_summary(summary)
        drawn, axes = read_map(summary)
        proteins = pl.read_parquet(
            table, columns=["sequence_id", "header", "cluster", "probability"]
        )
        page = render_page(
            assets,
            _TEMPLATE,
            cluster_payload(clusters, proteins, drawn),
            encoder_note=facts["embeddings"],
            title=heading,
            facts=facts,
            headline=_headline(facts),
            axes=axes,
            drawn=len(drawn),
            lengths=clusters["mean_length"].null_count() < len(clusters),
            similarity=facts["clusters_of_known_similarity"] > 0,
            provenance=_provenance(described, clustered),
        )
        temporaries[0].write_text(page, encoding="utf-8")
        return {"clusters": len(clusters), "proteins": len(proteins), "drawn": len(drawn)}

    return produce_files(
        [output],
        manifest=manifest_beside(output),
        kind="embedding_cluster_report",
        determinants=determinants,
        build=build,
    )


def _manifest_of(summary: Path) -> Manifest:
    manifest = read_manifest(manifest_beside(summary))
    if manifest is None:
        raise InputError(f"{summary}: incomplete, it has no manifest; describe the clusters again")
    return manifest


def _headline(facts: dict[str, Any]) -> list[Fact]:
    clustered = facts["rows"] - facts["noise"]
    copies = facts["rows"] - facts["distinct"]
    shown = [
        Fact("clusters", f"{facts['clusters']:,}", "found by density, none asked for"),
        Fact("proteins in clusters", f"{clustered:,}", f"of {facts['rows']:,}"),
        Fact("noise", f"{facts['noise_share']:.0%}", "proteins in no cluster"),
        Fact("copies", f"{copies:,}", "proteins with the vector of another, counted once below"),
        Fact(
            "clusters with a label",
            f"{facts['labelled_clusters']:,}",
            "half their proteins share a word that is rarer elsewhere",
        ),
    ]
    if facts["clusters_of_known_similarity"]:
        shown.append(
            Fact(
                "joining similarity clusters",
                f"{facts['clusters_joining_similarity_clusters']:,}",
                f"of {facts['clusters_of_known_similarity']:,} clusters hold proteins of several",
            )
        )
    return shown


def _provenance(described: Manifest, clustered: Manifest | None) -> list[tuple[str, str]]:
    """Return how the clusters were made, as names and values."""
    known: dict[str, Any] = {"embeddings": described.summary["embeddings"]}
    if clustered is not None:
        made, options = clustered.summary, clustered.determinants.get("options", {})
        known |= {name.replace("_", " "): value for name, value in options.items()}
        known |= {
            "clusters selected by": made.get("selection"),
            "rows fitted": made.get("fitted_rows"),
            "rows predicted": made.get("predicted_rows"),
            "variance in the components": _share(made.get("explained_variance")),
            "seed": clustered.determinants.get("seed"),
            "embeddings (fingerprint)": clustered.determinants.get("embeddings"),
        }
    known |= {
        "layout of the map": described.determinants.get("layout"),
        "cluster table (sha256)": described.determinants.get("table"),
        "pairs of cluster and word tested": described.summary.get("tested_words"),
        "pairs of cluster and taxon tested": described.summary.get("tested_taxa"),
    }
    return [(name, _text(value)) for name, value in known.items() if value not in (None, "")]


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
