"""The table that ends the demo: what was made, how good it is, where to look."""

import json
from pathlib import Path
from typing import Any

from esm_sae.formats.manifest import manifest_beside, read_manifest
from esm_sae.formats.shards import provenance_of
from esm_sae_assets.resources import DataRoot, data_root
from esm_sae_assets.settings import LARGE_SAMPLE, SMALL_SAMPLE, Settings


def summarise(settings: Settings) -> str:
    """Describe a materialised graph: counts, one row of figures per k, and where to look."""
    data = data_root(settings)
    shards = read_manifest(data.shard_tables(settings.shard_count))
    assert shards is not None
    lines = [
        f"proteins      {_counted(data.sample(LARGE_SAMPLE), 'sampled'):,} in the large sample, "
        f"{_counted(data.sample(SMALL_SAMPLE), 'sampled'):,} in the small one",
        f"embeddings    {shards.summary['rows']:,} rows of width "
        f"{shards.summary['width']}; {provenance_of(shards.determinants).describe()}",
        f"taxa          {_counted(data.sampled_sequences, 'clusters'):,} sampled",
        f"clusters      {_counted(data.embedding_clusters, 'clusters'):,} density clusters",
        "",
        *_table(_HEADINGS, [_figures(data, k) for k in settings.sae.ks]),
        "",
        *(f"report        {data.analysis(k, 'report.html')}" for k in settings.sae.ks),
        f"clusters      {data.cluster_report}",
        f"comparison    {data.path('comparison') / 'comparison.png'}",
        "lineage       make dev, then http://127.0.0.1:3000",
    ]
    return "\n".join(lines)


_HEADINGS = [
    *("k", "L", "FVU held out", "of PCA", "of a random dictionary", "of an untrained encoder"),
    *("mean L0", "dead latents"),
]


def _figures(data: DataRoot, k: int) -> list[str]:
    metrics = _json(data.metrics(k) / "metrics.json")
    return [
        str(k),
        f"{data.latent_dim}",
        f"{metrics['fvu']:.4f}",
        f"{metrics['pca_fvu']:.4f}",
        f"{metrics['random_dictionary_fvu']:.4f}",
        "-" if metrics["untrained_fvu"] is None else f"{metrics['untrained_fvu']:.4f}",
        f"{metrics['l0_mean']:.1f}",
        "-" if metrics["dead_share"] is None else f"{metrics['dead_share']:.1%}",
    ]


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in [headings, *rows]
    ]


def _counted(file: Path, name: str) -> int:
    manifest = read_manifest(manifest_beside(file))
    return int(manifest.summary[name]) if manifest else 0


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())
