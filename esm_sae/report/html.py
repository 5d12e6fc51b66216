"""Writing the feature report."""

import base64
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.activation_names import activation_of
from esm_sae.formats.analysis_tables import (
    CONCEPT_COMPARISON,
    HEATMAP,
    MATCH_FIGURE,
    MODEL_FIDELITY,
    SAE_METRICS,
)
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.manifest import (
    Manifest,
    Product,
    fingerprint_of,
    identity_of,
    manifest_beside,
    produce_files,
)
from esm_sae.report.facts import findings, headline, provenance
from esm_sae.report.inputs import read_manifests
from esm_sae.report.page import page_assets, render_page
from esm_sae.report.payload import SUMMARY_COLUMNS, payload
from esm_sae.report.tables import comparison_of, eligible_concepts

_ALGORITHM = "report-5"
_TEMPLATE = "report.html.j2"
_FILES = (
    _TEMPLATE,
    "map.css",
    "report.css",
    "browse.js",
    "map.js",
    "drawing.js",
    "latent_map.js",
    "report.js",
)
_CONCEPTS_SHOWN = 60


def write_report(
    output_html: storage.PathLike,
    *,
    summary: storage.PathLike,
    activations: storage.PathLike,
    taxonomy: storage.PathLike,
    concepts: storage.PathLike | None = None,
    clusters: storage.PathLike | None = None,
    metrics: storage.PathLike | None = None,
    fidelity: storage.PathLike | None = None,
    matches: storage.PathLike | None = None,
    cluster_page: storage.PathLike | None = None,
    title: str | None = None,
) -> Product:
    """Write one HTML file with everything in it: it needs no network and no server.

    What is not given is left out of the page. Memory is bounded by what the page shows, about 5 kB
    a latent: the tables of activations are streamed.

    Args:
        output_html: the page; its manifest comes beside it.
        summary: table of ``summarise_latents``.
        activations: folder of ``compute_activations``.
        taxonomy: folder of ``feature_taxonomy``.
        concepts: folder of ``score_concepts``.
        clusters: folder of ``cluster_latents``.
        metrics: folder of ``evaluate_sae``: its ``metrics.json`` and PNG figures are shown.
        fidelity: folder of ``measure_model_fidelity``.
        matches: folder of ``match_latents``.
        cluster_page: the page of ``write_cluster_report``, to be linked relative to this one.
        title: heading of the page; by default L and k, which the activations record.

    Raises:
        InputError: an input is missing, incomplete or not what it should be.
    """
    output = Path(output_html)
    given = {
        "activations": activations,
        "taxonomy": taxonomy,
        "concepts": concepts,
        "clusters": clusters,
        "metrics": metrics,
        "fidelity": fidelity,
        "matches": matches,
    }
    folders = {name: Path(folder) for name, folder in given.items() if folder is not None}
    manifests = read_manifests(given)
    config = SAEConfig(**manifests["activations"].determinants["config"])
    heading = title or f"{config.latent_dim:,} latents, k = {config.k}"
    link = None if cluster_page is None else _relative(Path(cluster_page), output)
    assets = page_assets(*_FILES)
    determinants = {
        "summary": identity_of(summary),
        **{name: identity_of(folder) for name, folder in folders.items()},
        "cluster_page": link,
        "title": heading,
        "page": fingerprint_of("page", assets),
        "algorithm": _ALGORITHM,
    }

    def build(temporaries: list[Path]) -> dict[str, Any]:
        table = _read_summary(Path(summary))
        page = _render(assets, table, folders, manifests, heading, link)
        temporaries[0].write_text(page, encoding="utf-8")
        return {"latents": len(table), "firing_latents": int((table["firing_rows"] > 0).sum())}

    return produce_files(
        [output],
        manifest=manifest_beside(output),
        kind="feature_report",
        determinants=determinants,
        build=build,
    )


def _render(
    assets: dict[str, str],
    summary: pl.DataFrame,
    folders: dict[str, Path],
    manifests: dict[str, Manifest],
    title: str,
    cluster_page: str | None,
) -> str:
    config = SAEConfig(**manifests["activations"].determinants["config"])
    counts = manifests["activations"].summary
    metrics = _read_figures(folders.get("metrics"), SAE_METRICS)
    fidelity = _read_figures(folders.get("fidelity"), MODEL_FIDELITY)
    measured = ("metrics", "fidelity")
    tables = {name: folder for name, folder in folders.items() if name not in measured}
    concepts, matches = folders.get("concepts"), folders.get("matches")
    families = {
        name: manifest.determinants.get("similarity_clusters") is not None
        for name, manifest in manifests.items()
    }
    shown = payload(summary, **tables, k=config.k)
    eligible = None if concepts is None else eligible_concepts(concepts)
    return render_page(
        assets,
        _TEMPLATE,
        shown | {"clusterPage": cluster_page, "families": families["taxonomy"]},
        encoder_note=config.encoder_note,
        title=title,
        config=config,
        activation=activation_of(config),
        counts=counts,
        taxonomy=manifests["taxonomy"].summary,
        families=families,
        headline=headline(config, counts, metrics, fidelity)
        + findings(summary, families=families["taxonomy"]),
        provenance=provenance(config),
        metrics=metrics,
        figures=[figure for name in measured for figure in _plots(folders.get(name))],
        heatmap=_data_uri(folders["taxonomy"] / HEATMAP),
        concepts=None if eligible is None else eligible[:_CONCEPTS_SHOWN].to_dicts(),
        eligible=0 if eligible is None else len(eligible),
        scored=manifests["concepts"].summary if concepts else {},
        compared=concepts is not None
        and manifests["concepts"].determinants.get("baselines") is not None,
        comparison=_data_uri(concepts / CONCEPT_COMPARISON) if concepts else None,
        matched=None if matches is None else comparison_of(matches, config.k).to_dicts(),
        match_figure=_data_uri(matches / MATCH_FIGURE) if matches else None,
        cluster_page=cluster_page,
        known={name: summary[name].null_count() < len(summary) for name in summary.columns},
    )


def _read_summary(path: Path) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a parquet table ({reason}); make it again") from None
    missing = [name for name in SUMMARY_COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"{path}: not a table of latents, it has no column {missing[0]}; make it again"
        )
    return table


def _relative(page: Path, output: Path) -> str:
    """Return the address of a page as seen from another in the same tree of folders."""
    return quote(Path(os.path.relpath(page, output.parent)).as_posix())


def _read_figures(folder: Path | None, name: str) -> dict[str, Any]:
    return storage.read_json(folder / name) if folder else {}


def _plots(folder: Path | None) -> list[tuple[str, str]]:
    if folder is None:
        return []
    return [
        (path.stem.replace("_", " "), _data_uri(path))
        for path in storage.list_files(folder, "*.png")
    ]


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(storage.read_bytes(path)).decode()
