"""What the summary of density clusters says, and where the map beside it is."""

from pathlib import Path

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError

_TERM = {"count": pl.UInt32, "share": pl.Float64, "fold": pl.Float64, "q": pl.Float64}

TAXON_SCHEMA = {"taxon": pl.String, "taxid": pl.Int64, **_TERM}
WORD_SCHEMA = {"word": pl.String, **_TERM}
SUMMARY_SCHEMA = {
    "cluster": pl.Int32,
    "size": pl.UInt32,
    "distinct": pl.UInt32,
    "share": pl.Float64,
    "mean_probability": pl.Float64,
    "mean_length": pl.Float64,
    "medoid_id": pl.String,
    "medoid_header": pl.String,
    "medoid_row": pl.UInt32,
    "label": pl.String,
    "words": pl.List(pl.Struct(WORD_SCHEMA)),
    "taxa": pl.List(pl.Struct(TAXON_SCHEMA)),
    "similarity_clusters": pl.UInt32,
    "similarity_share": pl.Float64,
}
MAP_SCHEMA = {
    "sequence_id": pl.String,
    "row": pl.UInt32,
    "cluster": pl.Int32,
    "x": pl.Float32,
    "y": pl.Float32,
}
# The names of the map's two axes, in the metadata of its file.
AXES = ("x_axis", "y_axis")


def map_path(summary: storage.PathLike) -> Path:
    """Return the path of the map of a summary: ``x.parquet`` -> ``x.map.parquet``."""
    return Path(summary).with_suffix(".map.parquet")


def read_summary(summary: storage.PathLike) -> pl.DataFrame:
    """Read a summary of density clusters, one row per cluster.

    Raises:
        InputError: the file is no such table.
    """
    return _read(Path(summary), SUMMARY_SCHEMA)


def read_map(summary: storage.PathLike) -> tuple[pl.DataFrame, tuple[str, str]]:
    """Read the map beside a summary: a row per protein drawn, and the names of its axes.

    Raises:
        InputError: the map is missing or no such table.
    """
    path = map_path(summary)
    table = _read(path, MAP_SCHEMA)
    described = pl.read_parquet_metadata(path)
    return table, (described.get(AXES[0], "x"), described.get(AXES[1], "y"))


def _read(path: Path, schema: dict[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    with storage.open_binary(path) as file:
        try:
            table = pl.read_parquet(file)
        except pl.exceptions.PolarsError:
            raise InputError(f"{path}: not a parquet table; describe the clusters again") from None
    if table.schema != pl.Schema(schema):
        raise InputError(f"{path}: not what describe_clusters writes; describe the clusters again")
    return table
