"""The data that the page carries: columns of the latents, and what is shown when one is opened."""

import math
import re
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.formats.headers import parse_header
from esm_sae.report.windows import windows_of

_TAXA_SHOWN = 10
_RESIDUES_SHOWN = 6
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# https://www.uniprot.org/help/accession_numbers
_ACCESSION = re.compile(
    r"(?:^|[|_])([OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2})(?=$|[|.-])"
)


def payload(summary: pl.DataFrame, activations: Path, taxonomy: Path) -> dict[str, Any]:
    """Collect what the page shows of the latents, in plain lists.

    Args:
        summary: the table of ``summarise_latents``.
        activations: folder of ``compute_activations``.
        taxonomy: folder of ``feature_taxonomy``.

    Returns:
        ``latents`` (columns, one entry per latent), ``top`` (per latent its top proteins as
        [number in proteins, activation, position, window]), ``bars`` (per latent its taxa as
        [taxon, firing proteins, proteins, frequency elsewhere, log2 ratio]), ``proteins`` ([id,
        name, taxon, length, accession]).
    """
    sequences = pl.read_parquet(activations / "sequences.parquet")
    top = _top(summary)
    numbers = top["protein"].unique().sort()
    place = {number: place for place, number in enumerate(numbers)}
    parts = storage.list_files(activations / "by_row", "*.parquet")
    windows = windows_of(top, sequences, parts) if len(top) else []
    shown: list[list[Any]] = [[] for _ in range(len(summary))]
    for row, window in zip(top.iter_rows(named=True), windows, strict=True):
        entry = [place[row["protein"]], short(row["activation"]), row["position"], window]
        shown[row["latent"]].append(entry)
    return {
        "latents": _columns(summary),
        "top": shown,
        "bars": _bars(taxonomy, len(summary)),
        "proteins": _proteins(sequences[numbers.to_numpy()]),
    }


def accession_of(sequence_id: str) -> str | None:
    """Return the UniProtKB accession in a sequence id, None where there is none.

    >>> accession_of("sp|P00760|TRY1_BOVIN"), accession_of("UniRef50_UPI0000000001")
    ('P00760', None)
    """
    found = _ACCESSION.search(sequence_id)
    return found[1] if found else None


def short(value: float | None) -> float | None:
    """Round to four significant digits; NaN and infinity, which JSON has not, become None."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _top(summary: pl.DataFrame) -> pl.DataFrame:
    return (
        summary.select("latent", "top_proteins")
        .filter(pl.col("top_proteins").list.len() > 0)
        .explode("top_proteins")
        .unnest("top_proteins")
        .select("latent", "protein", "activation", "position")
    )


def _columns(summary: pl.DataFrame) -> dict[str, list[Any]]:
    numbers = {
        "density": "density",
        "proteinDensity": "protein_density",
        "mean": "mean_activation",
        "max": "max_activation",
        "taxonFrequency": "top_taxon_firing_frequency",
        "ratio": "top_taxon_log2_ratio",
        "residueShare": "top_residue_share",
        "residueBackground": "top_residue_background",
    }
    plain = {
        "firingProteins": "firing_proteins",
        "firingRows": "firing_rows",
        "taxon": "top_taxon",
        "name": "common_name",
        "nameCount": "common_name_count",
        "residue": "top_residue",
        "histogram": "histogram",
    }
    columns: dict[str, list[Any]] = {}
    columns |= {key: [short(value) for value in summary[name]] for key, name in numbers.items()}
    columns |= {key: summary[name].to_list() for key, name in plain.items()}
    columns["residues"] = [_largest_shares(shares) for shares in summary["residues"].to_list()]
    return columns


def _largest_shares(shares: list[float] | None) -> list[list[Any]] | None:
    if shares is None:
        return None
    ranked = sorted(zip(_LETTERS, shares, strict=True), key=lambda pair: -pair[1])
    return [[letter, short(share)] for letter, share in ranked[:_RESIDUES_SHOWN] if share > 0]


def _bars(taxonomy: Path, latents: int) -> list[list[Any]]:
    table = (
        pl.read_parquet(taxonomy / "feature_taxonomy.parquet")
        .sort("latent", "firing_frequency", "taxon", descending=[False, True, False])
        .group_by("latent", maintain_order=True)
        .head(_TAXA_SHOWN)
    )
    bars: list[list[Any]] = [[] for _ in range(latents)]
    for row in table.iter_rows(named=True):
        bars[row["latent"]].append(
            [
                row["taxon"],
                row["firing_proteins"],
                row["proteins"],
                short(row["other_frequency"]),
                short(row["log2_ratio"]),
            ]
        )
    return bars


def _proteins(sequences: pl.DataFrame) -> list[list[Any]]:
    return [
        [
            row["sequence_id"],
            parse_header(row["header"] or "").name or None,
            row["taxon"],
            row["length"],
            accession_of(row["sequence_id"]),
        ]
        for row in sequences.iter_rows(named=True)
    ]
