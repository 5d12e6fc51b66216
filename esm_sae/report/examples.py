"""Proteins to show of each latent: its strongest, and some from all over its range."""

from pathlib import Path

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import BY_ROW, PROTEINS, SEQUENCES
from esm_sae.report.windows import Window, windows_of

FIFTHS = 5
PER_FIFTH = 2

_SEED = 0


def strongest(summary: pl.DataFrame) -> pl.DataFrame:
    """Return the top proteins of the summary: latent, protein, activation, position."""
    return (
        summary.select("latent", "top_proteins")
        .filter(pl.col("top_proteins").list.len() > 0)
        .explode("top_proteins")
        .unnest("top_proteins")
        .select("latent", "protein", "activation", "position")
    )


def over_the_range(summary: pl.DataFrame, activations: Path) -> pl.DataFrame:
    """Draw two proteins from each fifth of those a latent fires on, by activation.

    The strongest alone show a latent at its clearest; the rest of its range is where it turns
    out to be about something else. Proteins among the summary's top ones are not drawn again.
    The draw is seeded per latent, so that it does not depend on the other latents.

    Memory: the rows drawn; the table of proteins is streamed.

    Args:
        summary: table of ``summarise_latents``.
        activations: folder of ``compute_activations``.

    Returns:
        latent, fifth (0 the strongest), protein, activation, position; sorted by latent, then
        from strong to weak.

    Raises:
        InputError: the table of proteins is not sorted by latent.
    """
    wanted = _drawn(
        summary["firing_proteins"].to_numpy().astype(np.int64),
        summary["top_proteins"].list.len().to_numpy().astype(np.int64),
    )
    table = activations / PROTEINS
    found = (
        pl.scan_parquet(table)
        .select("latent", "protein", "activation", "position")
        .with_row_index("row")
        .with_columns(pl.col("row").cast(pl.Int64))
        .join(wanted.lazy().rename({"latent": "expected"}), on="row")
        .collect(engine="streaming")
        .sort("row")
    )
    if len(found) != len(wanted) or (found["latent"] != found["expected"]).any():
        raise InputError(
            f"{table}: not sorted by latent as the summary counts them; make the activations and "
            "the summary again"
        )
    return found.select("latent", "fifth", "protein", "activation", "position")


def read_proteins(activations: Path, proteins: pl.Series) -> pl.DataFrame:
    """Return the rows of ``sequences.parquet`` of the given proteins, by number."""
    return (
        pl.scan_parquet(activations / SEQUENCES)
        .join(proteins.to_frame().lazy(), on="protein", how="semi")
        .collect(engine="streaming")
        .sort("protein")
    )


def windows_around(
    chosen: pl.DataFrame, summary: pl.DataFrame, sequences: pl.DataFrame, activations: Path
) -> list[Window | None]:
    """Return the window of each chosen protein around its position, as ``windows_of``."""
    highest = summary.select("latent", highest="max_activation")
    parts = storage.list_files(activations / BY_ROW, "*.parquet")
    rows = chosen.join(highest, on="latent", how="left", maintain_order="left")
    return windows_of(rows, sequences, parts)


def _drawn(firing: np.ndarray, top: np.ndarray) -> pl.DataFrame:
    """Draw rows of the table of proteins: row, latent, fifth."""
    starts = np.cumsum(firing) - firing
    drawn: list[tuple[int, int, int]] = []
    for latent in np.flatnonzero(firing > top):
        generator = np.random.default_rng([_SEED, int(latent)])
        edges = np.arange(FIFTHS + 1) * firing[latent] // FIFTHS
        for fifth in range(FIFTHS):
            first, last = max(edges[fifth], top[latent]), edges[fifth + 1]
            size = min(PER_FIFTH, max(last - first, 0))
            ranks = first + generator.choice(max(last - first, 1), size, replace=False)
            drawn += [(int(starts[latent] + rank), int(latent), fifth) for rank in sorted(ranks)]
    return pl.DataFrame(
        drawn,
        schema={"row": pl.Int64, "latent": pl.UInt32, "fifth": pl.UInt8},
        orient="row",
    )
