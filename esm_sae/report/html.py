"""Writing the feature report."""

import base64
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.manifest import (
    MANIFEST_NAME,
    Product,
    fingerprint_of,
    identity_of,
    manifest_beside,
    produce_files,
    read_manifest,
)
from esm_sae.report.facts import headline, provenance
from esm_sae.report.page import page_assets, render_page
from esm_sae.report.payload import payload

_ALGORITHM = "report-1"
_TEMPLATE, _SCRIPT = "report.html.j2", "report.js"


def write_report(
    output_html: storage.PathLike,
    *,
    summary: storage.PathLike,
    activations: storage.PathLike,
    taxonomy: storage.PathLike,
    metrics: storage.PathLike | None = None,
    title: str | None = None,
) -> Product:
    """Write one HTML file with everything in it: it needs no network and no server.

    Args:
        output_html: the page; its manifest comes beside it.
        summary: table of ``summarise_latents``.
        activations: folder of ``compute_activations``.
        taxonomy: folder of ``feature_taxonomy``.
        metrics: folder of ``evaluate_sae``: its ``metrics.json`` and PNG figures are shown.
        title: heading of the page; by default L and k, which the activations record.

    Raises:
        InputError: an input is missing or incomplete.
    """
    output = Path(output_html)
    folders = {"activations": Path(activations), "taxonomy": Path(taxonomy)}
    if metrics is not None:
        folders["metrics"] = Path(metrics)
    config = _config_of(folders["activations"])
    heading = title or f"{config.latent_dim:,} latents, k = {config.k}"
    assets = page_assets(_TEMPLATE, _SCRIPT)
    determinants = {
        "summary": identity_of(summary),
        **{name: identity_of(folder) for name, folder in folders.items()},
        "title": heading,
        "page": fingerprint_of("page", assets),
        "algorithm": _ALGORITHM,
    }

    def build(temporaries: list[Path]) -> dict[str, Any]:
        table = pl.read_parquet(Path(summary))
        page = _render(assets, table, folders, config, heading)
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
    config: SAEConfig,
    title: str,
) -> str:
    counts = _summary_of(folders["activations"])
    metrics = _metrics(folders.get("metrics"))
    return render_page(
        assets,
        _TEMPLATE,
        payload(summary, folders["activations"], folders["taxonomy"]),
        title=title,
        config=config,
        counts=counts,
        taxonomy=_summary_of(folders["taxonomy"]),
        headline=headline(config, counts, metrics),
        provenance=provenance(config),
        metrics=metrics,
        figures=_figures(folders.get("metrics")),
        heatmap=_data_uri(folders["taxonomy"] / "heatmap.png"),
        residues=summary["top_residue"].null_count() < len(summary),
    )


def _config_of(activations: Path) -> SAEConfig:
    manifest = read_manifest(activations)
    if manifest is None:
        raise InputError(f"{activations}: incomplete, it has no {MANIFEST_NAME}; make it again")
    return SAEConfig(**manifest.determinants["config"])


def _summary_of(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return manifest.summary if manifest else {}


def _metrics(folder: Path | None) -> dict[str, Any]:
    return storage.read_json(folder / "metrics.json") if folder else {}


def _figures(folder: Path | None) -> list[tuple[str, str]]:
    if folder is None:
        return []
    return [
        (path.stem.replace("_", " "), _data_uri(path))
        for path in storage.list_files(folder, "*.png")
    ]


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(storage.read_bytes(path)).decode()
