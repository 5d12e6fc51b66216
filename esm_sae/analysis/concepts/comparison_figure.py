"""The figure of how well an SAE's latents find concepts, beside what needs no trained SAE."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.figures import BLUE, GREY, ORANGE, new_figure, png_bytes
from esm_sae.formats.analysis_tables import BASELINE_SCHEMA, BASELINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OWN, _CEILING = "sae", "probe"
_NAMES = {
    _OWN: "SAE, k = {k}",
    "raw": "raw dimensions",
    "pca": "principal components",
    "kmeans": "k-means centroids",
    "random": "random dictionary, k = {k}",
    "untrained": "SAE of untrained encoder, k = {k}",
    "composition": "sequence composition",
    _CEILING: "dense probe of all dimensions",
}
_TITLES = {
    "protein": "Proteins, {concepts} concepts",
    "residue": "Residues, {concepts} concepts",
}


def comparison_figure(own: pl.DataFrame, baselines: storage.PathLike | None) -> bytes:
    """Draw the F1 pooled over concepts of an SAE and of the baselines, with 95% intervals.

    Of baselines with a k those of the SAE's k are drawn. A level without a concept to pool over
    says so.

    Args:
        own: rows of ``BASELINE_SCHEMA`` with method ``sae``, one for each level.
        baselines: folder by ``score_baselines``; None draws the SAE alone.

    Returns:
        The figure as PNG.

    Raises:
        InputError: the folder holds no table of baselines.
    """
    others = own.clear() if baselines is None else _read(Path(baselines) / BASELINES)
    drawn = pl.concat([own.select(*BASELINE_SCHEMA), others]).filter(
        pl.col("k").is_null() | pl.col("k").is_in(own["k"].to_list())
    )
    order = list(_NAMES)
    levels = [level for level in _TITLES if level in own["level"]]
    panels = [
        drawn.filter(pl.col("level") == level).sort(
            pl.col("method").replace_strict(order, range(len(order)))
        )
        for level in levels
    ]
    heights = [max(len(panel), 1) + 1.4 for panel in panels]
    figure, axes = new_figure(8, 0.32 * sum(heights) + 0.5)
    axes.remove()
    # Room on the right for the columns of figures.
    figure.set_layout_engine("constrained", rect=(0, 0, 0.78, 1))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for panel, level, place in zip(panels, levels, grid[:, 0], strict=True):
        _draw(place, panel, _TITLES[level])
    grid[-1, 0].set_xlabel("F1 on test, pooled over the concepts, with 95% interval")
    return png_bytes(figure)


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path).select(*BASELINE_SCHEMA).cast(pl.Schema(BASELINE_SCHEMA))
    except (pl.exceptions.PolarsError, OSError):
        raise InputError(
            f"{path}: not a table of baselines; name a folder by score_baselines"
        ) from None


def _draw(axes: "Axes", panel: pl.DataFrame, title: str) -> None:
    concepts = panel["concepts"].max() or 0
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(title.format(concepts=concepts), loc="left", fontsize="medium")
    axes.set(xlim=(0, 1), ylim=(len(panel) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    names = [_NAMES[row["method"]].format(k=row["k"]) for row in panel.iter_rows(named=True)]
    axes.set_yticks(range(len(panel)), names)
    _write(axes, -0.95, ("F1", "AUROC", "candidates"), GREY)
    own = panel.filter(pl.col("method") == _OWN)["pooled_f1"][0]
    if own is not None:
        axes.axvline(own, color=BLUE, linewidth=0.8, linestyle=":", zorder=0)
    for place, row in enumerate(panel.iter_rows(named=True)):
        _draw_bar(axes, place, row)


def _draw_bar(axes: "Axes", place: int, row: dict[str, Any]) -> None:
    value, low, high = (row[f"pooled_f1{suffix}"] for suffix in ("", "_low", "_high"))
    if value is None:
        axes.text(0.01, place, "no concept to pool", va="center", color=GREY)
        return
    colour = {_OWN: BLUE, _CEILING: ORANGE}.get(row["method"], GREY)
    fill = "none" if row["method"] == _CEILING else colour
    axes.barh(place, value, 0.62, color=fill, edgecolor=colour, linewidth=1.2)
    if low is not None:
        axes.hlines(place, low, high, color="black", linewidth=1.2)
        axes.vlines([low, high], place - 0.13, place + 0.13, color="black", linewidth=1.2)
    auroc = "" if row["mean_auroc"] is None else f"{row['mean_auroc']:.2f}"
    # A probe is no candidate among others: each concept has its own.
    candidates = "" if row["method"] == _CEILING else f"{row['candidates']:,}"
    _write(axes, place, (f"{value:.2f}", auroc, candidates), "black")


def _write(axes: "Axes", place: float, texts: tuple[str, str, str], colour: str) -> None:
    """Write figures in columns on the right."""
    for text, right in zip(texts, (28, 66, 120), strict=True):
        axes.annotate(
            text,
            (1, place),
            (right, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize="small",
            color=colour,
            in_layout=False,
            annotation_clip=False,
        )
