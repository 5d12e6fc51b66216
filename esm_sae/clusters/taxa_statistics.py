"""Statistics of taxon clusters: their sizes and lengths, and what was left out of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import polars as pl

from esm_sae import storage

_SIZE_QUANTILES = {"q25": 0.25, "q75": 0.75, "q90": 0.90, "q99": 0.99}
_LENGTH_QUANTILES = {
    "q05_length": 0.05,
    "q25_length": 0.25,
    "median_length": 0.5,
    "q75_length": 0.75,
    "q95_length": 0.95,
}
# Fewest members of each class of UniRef clusters.
_MEMBER_BOUNDS = (1, 2, 5, 10, 100, 1_000)
_NO_UNIREF = "no UniRef header"
_ROWS_AT_ONCE = 10_000


def cluster_statistics(table: Path) -> pl.DataFrame:
    """Return size and lengths of the clusters of a table, largest first, ties by name.

    Memory is bounded by 4 bytes per row of the table, its lengths, and some 200 per cluster.

    Returns:
        cluster, taxid, size, mean_length, and the 5th, 25th, 50th, 75th and 95th percentile of
        the lengths, linearly interpolated, to one decimal.
    """
    length = pl.col("length")
    return (
        pl.scan_parquet(table)
        .group_by("cluster")
        .agg(
            pl.col("taxid").first(),
            pl.len().alias("size"),
            (length.cast(pl.Int64).sum() / pl.len()).alias("mean_length"),
            *(
                length.quantile(q, interpolation="linear").round(1).alias(name)
                for name, q in _LENGTH_QUANTILES.items()
            ),
        )
        .sort(["size", "cluster"], descending=[True, False])
        .collect()
    )


def size_statistics(sizes: pl.Series) -> dict[str, Any]:
    """Return mean, quantiles and largest of the clusters' sizes, and the number of singletons."""

    def quantile(q: float) -> float:
        return float(cast(float, sizes.quantile(q, interpolation="linear")))

    return {
        "mean": int(sizes.sum()) / len(sizes),
        "median": quantile(0.5),
        **{name: quantile(q) for name, q in _SIZE_QUANTILES.items()},
        "max": int(cast(int, sizes.max())),
        "singletons": int((sizes == 1).sum()),
    }


def member_class(count: pl.Expr) -> pl.Expr:
    """Return the class of a UniRef cluster's member count, null where that is null."""
    return pl.sum_horizontal(count >= bound for bound in _MEMBER_BOUNDS[1:]).cast(
        pl.Int8
    ) + pl.when(count.is_not_null()).then(0)


def left_out_by_members(counted: pl.DataFrame, reasons: list[str]) -> list[dict[str, Any]]:
    """Return, by UniRef member count, how many records were left out, and why.

    Args:
        counted: member_class, left_out (None or why) and records.
        reasons: all that ``left_out`` can say.

    Returns:
        One row per class that has records: members (such as ``2-4``), records, the number left
        out for each reason, and left_out_share.
    """
    classes = (
        counted.group_by("member_class")
        .agg(
            pl.col("records").sum(),
            *(
                pl.col("records").filter(pl.col("left_out") == reason).sum().alias(reason)
                for reason in reasons
            ),
        )
        .sort("member_class", nulls_last=True)
        .with_columns(left_out_share=pl.sum_horizontal(reasons) / pl.col("records"))
    )
    names = [_class_name(place) for place in classes["member_class"]]
    return classes.select(pl.Series("members", names), pl.exclude("member_class")).to_dicts()


def write_statistics(target: Path, facts: dict[str, Any], clusters: pl.DataFrame) -> None:
    """Write ``cluster_statistics.json``: facts, and behind them ``clusters``, one on each line.

    Memory is bounded by 10,000 clusters.

    Args:
        target: the file.
        facts: what comes before the clusters.
        clusters: as ``cluster_statistics`` gives them; they are written in the order of names.
    """
    head = storage.encode_json(facts).decode().removesuffix("\n}\n")
    with target.open("w", encoding="utf-8") as file:
        file.write(f'{head},\n  "clusters": {{\n')
        file.writelines(_lines(clusters.sort("cluster")))
        file.write("  }\n}\n")


def _lines(clusters: pl.DataFrame) -> Iterator[str]:
    # Of its own: json.dumps makes a new one at every call with options.
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
    written = 0
    for rows in clusters.iter_slices(_ROWS_AT_ONCE):
        for row in rows.iter_rows(named=True):
            name = encoder.encode(row.pop("cluster"))
            written += 1
            yield f"    {name}: {encoder.encode(row)}{',' if written < len(clusters) else ''}\n"


def _class_name(place: int | None) -> str:
    if place is None:
        return _NO_UNIREF
    first = _MEMBER_BOUNDS[place]
    if place + 1 == len(_MEMBER_BOUNDS):
        return f"{first}+"
    last = _MEMBER_BOUNDS[place + 1] - 1
    return str(first) if first == last else f"{first}-{last}"
