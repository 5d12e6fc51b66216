"""Pictures of an embedding shard: the lengths of its proteins, and a map of their rows."""

from pathlib import Path

import numpy as np
import polars as pl

from esm_sae.figures import BLUE, GREY, ORANGE, add_legend, new_figure, png_bytes, shortened
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import map_matrix, means_path

_BARS = 40
_POINTS = 3_000
# Of the map tab10, without its grey, which is for the other taxa.
_COLOURS = (0, 1, 2, 3, 4, 5, 6, 8, 9)


def lengths_figure(shard: Product) -> bytes:
    """Draw how many residues the proteins of a shard have.

    Args:
        shard: as ``embed_shard`` made it.

    Returns:
        The figure as PNG.
    """
    table = pl.read_parquet(_proteins_of(shard).with_suffix(".parquet"), columns=["length"])
    lengths = table["length"].to_numpy()
    step = max(1, -(-int(np.ptp(lengths) + 1) // _BARS))
    figure, axes = new_figure()
    axes.hist(lengths, bins=np.arange(lengths.min(), lengths.max() + step + 1, step), color=BLUE)
    median = float(np.median(lengths))
    axes.axvline(median, color=GREY, linestyle="--", label=f"median {median:,.0f}")
    longest = shard.manifest.determinants["options"].get("max_length")
    if longest is not None and longest < lengths.max():
        axes.axvline(longest, color=ORANGE, linestyle="--", label=f"max_length {longest:,}")
    axes.set_xlabel("residues")
    axes.set_ylabel("proteins")
    add_legend(axes, title=f"{len(lengths):,} proteins")
    return png_bytes(figure)


def map_figure(shard: Product) -> bytes:
    """Draw the proteins of a shard on their first two principal components.

    A point is the row of a protein; of more than 3,000 proteins as many are drawn, evenly
    spaced over the shard. The components are those of the drawn rows. The commonest taxa among
    them are in colour.

    Args:
        shard: as ``embed_shard`` made it.

    Returns:
        The figure as PNG.
    """
    path = _proteins_of(shard)
    matrix = map_matrix(path)
    drawn = np.linspace(0, len(matrix) - 1, min(_POINTS, len(matrix))).round().astype(np.int64)
    table = pl.read_parquet(path.with_suffix(".parquet"), columns=["taxon", "taxid"])
    points, explained = _principal_components(matrix[drawn])
    return _scatter(points, explained, *_commonest_taxa(table[drawn]))


def _proteins_of(shard: Product) -> Path:
    """Return the matrix with one row per protein: the shard's own, or that beside residues."""
    means = means_path(shard.path)
    return means if means.name in shard.manifest.files else shard.path


def _principal_components(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two coordinates of each row, (N, 2), and their shares of the variance."""
    centred = rows.astype(np.float64)
    centred -= centred.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, ::-1][:, :2]
    # An axis has no direction of its own: its largest entry is made positive.
    first *= np.sign(first[np.abs(first).argmax(axis=0), range(first.shape[1])])
    points = np.zeros((len(rows), 2))
    points[:, : first.shape[1]] = centred @ first
    total = max(variances.sum(), np.finfo(np.float64).tiny)
    return points, variances[::-1][:2].clip(min=0) / total


def _commonest_taxa(table: pl.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Return each row's place among the commonest taxa, -1 for others, and their labels."""
    taxa = (
        table.drop_nulls("taxon")
        .group_by("taxon", "taxid")
        .len("proteins")
        .filter(pl.col("proteins") > 1)
        .sort("proteins", "taxon", "taxid", descending=[True, False, False])
        .head(len(_COLOURS))
        .with_row_index("place")
        .with_columns(shared=pl.col("taxon").is_duplicated())
    )
    labels = [
        f"{row['proteins']:,}  "
        + shortened(f"{row['taxon']} ({row['taxid']})" if row["shared"] else row["taxon"])
        for row in taxa.iter_rows(named=True)
    ]
    places = table.join(
        taxa, on=["taxon", "taxid"], how="left", nulls_equal=True, maintain_order="left"
    )["place"]
    return places.cast(pl.Int64).fill_null(-1).to_numpy(), labels


def _scatter(
    points: np.ndarray, explained: np.ndarray, places: np.ndarray, labels: list[str]
) -> bytes:
    from matplotlib import colormaps

    figure, axes = new_figure(7.6, 4.4)
    others = points[places < 0]
    if len(others):
        name = f"{len(others):,}  {'other taxa' if labels else 'proteins'}"
        axes.scatter(*others.T, s=3, color=GREY, alpha=0.4, linewidths=0, label=name)
    for place, label in enumerate(labels):
        colour = colormaps["tab10"](_COLOURS[place])
        axes.scatter(*points[places == place].T, s=9, color=colour, linewidths=0, label=label)
    for axis, share, name in zip(
        (axes.xaxis, axes.yaxis), explained, ("PC 1", "PC 2"), strict=False
    ):
        axis.set_label_text(f"{name} ({share:.0%} of the variance)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)
    return png_bytes(figure)
