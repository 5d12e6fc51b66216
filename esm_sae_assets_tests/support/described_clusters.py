"""Tables of density clusters as ``cluster_embeddings`` writes them, of made-up proteins."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae.formats.manifest import manifest_beside, produce_files


def write_table(
    folder: Path,
    headers: Sequence[str | None],
    clusters: Sequence[int],
    points: Any,
    *,
    lengths: Iterable[int] | None = None,
    embeddings: str = "esmc_test, layer 3, mean rows",
) -> Path:
    """Write a cluster table with its points and manifest; return its path."""
    ids = [header.split()[0] if header else f"file:{row}" for row, header in enumerate(headers)]
    table = pl.DataFrame(
        {
            "sequence_id": ids,
            "header": pl.Series(headers, dtype=pl.String),
            "cluster": pl.Series(clusters, dtype=pl.Int32),
            "probability": [0.0 if cluster < 0 else 0.5 for cluster in clusters],
            "outlier_score": 0.5,
        }
    )
    if lengths is not None:
        table = table.with_columns(pl.Series("length", lengths, dtype=pl.Int32))

    def build(temporaries: list[Path]) -> dict[str, Any]:
        table.write_parquet(temporaries[0])
        with temporaries[1].open("wb") as file:
            np.save(file, np.asarray(points, dtype=np.float32))
        return {"embeddings": embeddings, "explained_by_component": [0.5, 0.2]}

    path = folder / "clusters.parquet"
    produce_files(
        [path, path.with_suffix(".points.npy")],
        manifest=manifest_beside(path),
        kind="embedding_clusters",
        determinants={"test": [*ids, *clusters], "seed": 0},
        build=build,
    )
    return path
