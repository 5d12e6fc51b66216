"""The data that the page carries: columns of the latents, and what is shown when one is opened."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae.formats.headers import parse_headers
from esm_sae.report.examples import over_the_range, read_proteins, strongest, windows_around
from esm_sae.report.tables import (
    concepts_of,
    eligible_concepts,
    marked_clusters_of,
    matches_of,
    near_duplicates_of,
    rounded,
    taxa_of,
)

_RESIDUES_SHOWN = 6
# A latent is found again above this cosine or correlation: that of ``match_latents``.
_FOUND = 0.7
# A map's coordinates are whole numbers up to this.
_GRID = 10_000
_OF_CONCEPT = ("source", "concept", "level")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# https://www.uniprot.org/help/accession_numbers
_ACCESSION = re.compile(
    r"(?:^|[|_])([OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2})(?=$|[|.-])"
)


def payload(
    summary: pl.DataFrame,
    *,
    activations: Path,
    taxonomy: Path,
    concepts: Path | None = None,
    clusters: Path | None = None,
    matches: Path | None = None,
    k: int,
) -> dict[str, Any]:
    """Collect what the page shows of the latents, in plain lists.

    Memory: what is shown, about 5 kB a latent; the tables of activations are streamed.

    Args:
        summary: the table of ``summarise_latents``.
        activations: folder of ``compute_activations``.
        taxonomy: folder of ``feature_taxonomy``.
        concepts: folder of ``score_concepts``.
        clusters: folder of ``cluster_latents``.
        matches: folder of ``match_latents``.
        k: of the SAE, to find it among the matches.

    Returns:
        ``latents`` (columns, one entry per latent); per latent, ``top`` (its top proteins as
        [number in proteins, activation, position, window]), ``examples`` (the same of others,
        each behind its fifth of the range), ``bars``, ``concepts``, ``near``, ``marked`` and
        ``matches`` (as the functions of ``tables`` return them; empty where there is no such
        table); ``conceptNames`` ([source, concept, level,
        F1 of calling every unit] by their numbers), ``taxa`` (their
        names) and ``proteins`` (columns id, name, taxon, length, accession; names and taxa by
        their numbers in ``names`` and ``taxa``).
    """
    count = len(summary)
    nothing: list[list[Any]] = [[] for _ in range(count)]
    top, drawn = strongest(summary), over_the_range(summary, activations)
    chosen = pl.concat(
        [top.with_columns(fifth=pl.lit(None, dtype=pl.UInt8)), drawn], how="diagonal"
    )
    sequences = read_proteins(activations, chosen["protein"].unique().sort())
    windows = windows_around(chosen, summary, sequences, activations)
    shown = _entries(chosen, sequences["protein"], windows, count)
    taxa: dict[str, int] = {}
    eligible = None if concepts is None else eligible_concepts(concepts)
    scored = nothing
    if concepts is not None and eligible is not None:
        scored = concepts_of(concepts, eligible, count)
    named = [] if eligible is None else eligible.select(*_OF_CONCEPT, rounded("trivial_f1")).rows()
    return {
        "latents": _columns(summary),
        "top": [[entry[1:] for entry in entries if entry[0] is None] for entries in shown],
        "examples": [[entry for entry in entries if entry[0] is not None] for entries in shown],
        "bars": taxa_of(taxonomy, count, taxa),
        "concepts": scored,
        "conceptNames": named,
        "near": nothing if clusters is None else near_duplicates_of(clusters, count),
        "marked": nothing if clusters is None else marked_clusters_of(clusters, count),
        "matches": nothing if matches is None else matches_of(matches, k, count),
        **_proteins(sequences, taxa),
        "taxa": list(taxa),
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


def on_grid(plane: np.ndarray) -> tuple[list[int | None], list[int | None]]:
    """Return coordinates (N, 2) as whole numbers for a map; None where they are NaN."""
    known = ~np.isnan(plane).any(axis=1)
    placed = plane[known].astype(np.float64)
    low = placed.min(axis=0, initial=np.inf)
    # One scale for both axes, or distances on the map would mean nothing.
    scale = _GRID / max(float((placed - low).max(initial=0)), 1e-12)
    columns = []
    for axis in range(2):
        column = np.full(len(plane), None, dtype=object)
        column[known] = np.round((placed[:, axis] - low[axis]) * scale).astype(int)
        columns.append(column.tolist())
    return columns[0], columns[1]


def _entries(
    chosen: pl.DataFrame, proteins: pl.Series, windows: list[Any], latents: int
) -> list[list[Any]]:
    places = proteins.search_sorted(chosen["protein"])
    table = chosen.select(
        "latent", "fifth", pl.Series("place", places), rounded("activation"), "position"
    )
    shown: list[list[Any]] = [[] for _ in range(latents)]
    for (latent, *entry), window in zip(table.iter_rows(), windows, strict=True):
        shown[latent].append([*entry, window])
    return shown


_NUMBERS = {
    "density": "density",
    "proteinDensity": "protein_density",
    "mean": "mean_activation",
    "max": "max_activation",
    "residueShare": "top_residue_share",
    "residueBackground": "top_residue_background",
    "taxonQ": "best_taxon_q",
    "stabilityCosine": "stability_cosine",
    "stabilityCorrelation": "stability_correlation",
    "entropy": "similarity_entropy",
    "score": "label_score",
    "baseline": "label_baseline",
    "precision": "label_precision",
    "recall": "label_recall",
}
_PLAIN = {
    "firingProteins": "firing_proteins",
    "firingRows": "firing_rows",
    "name": "common_name",
    "nameCount": "common_name_count",
    "residue": "top_residue",
    "histogram": "histogram",
    "taxon": "best_taxon",
    "taxonomic": "taxonomic",
    "decoderCluster": "decoder_cluster",
    "families": "similarity_clusters",
    "memory": "memory",
    "label": "label",
    "level": "label_level",
    "heldOut": "label_held_out",
}
SUMMARY_COLUMNS = (
    "latent",
    "top_proteins",
    "residues",
    "label_kind",
    "stable",
    "map_x",
    "map_y",
    "label_threshold",
    *_NUMBERS.values(),
    *_PLAIN.values(),
)


def _columns(summary: pl.DataFrame) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = summary.select(
        *(rounded(name).alias(key) for key, name in _NUMBERS.items()),
        *(pl.col(name).alias(key) for key, name in _PLAIN.items()),
        # In full: the label names it to three digits, which rounding twice would miss.
        pl.col("label_threshold").cast(pl.Float64).round_sig_figs(7).alias("threshold"),
        _again().alias("again"),
    ).to_dict(as_series=False)
    columns["kind"] = [None if kind == "none" else kind for kind in summary["label_kind"]]
    places = on_grid(summary.select("map_x", "map_y").to_numpy())
    columns |= dict(zip("xy", places, strict=True))
    columns["residues"] = [_largest_shares(shares) for shares in summary["residues"].to_list()]
    return columns


def _again() -> pl.Expr:
    """Return whether another seed finds a latent: one to one, not one to one, or not."""
    nearest = pl.max_horizontal("stability_cosine", "stability_correlation")
    return (
        pl.when("stable")
        .then(pl.lit("stable"))
        .when(nearest > _FOUND)
        .then(pl.lit("found, not one to one"))
        .when(pl.col("stable").is_not_null())
        .then(pl.lit("not found"))
    )


def _largest_shares(shares: list[float] | None) -> list[list[Any]] | None:
    if shares is None:
        return None
    ranked = sorted(zip(_LETTERS, shares, strict=True), key=lambda pair: -pair[1])
    return [[letter, short(share)] for letter, share in ranked[:_RESIDUES_SHOWN] if share > 0]


def _proteins(sequences: pl.DataFrame, taxa: dict[str, int]) -> dict[str, Any]:
    parsed = parse_headers(sequences["header"].fill_null("")).select("name").collect()
    names: dict[str, int] = {}
    ids = sequences["sequence_id"].to_list()
    proteins = {
        "id": ids,
        "name": _numbered((name or None for name in parsed["name"]), names),
        "taxon": _numbered(sequences["taxon"], taxa),
        "length": sequences["length"].to_list(),
        "accession": [accession_of(sequence_id) for sequence_id in ids],
    }
    return {"proteins": proteins, "names": list(names)}


def _numbered(texts: Iterable[str | None], numbers: dict[str, int]) -> list[int | None]:
    return [None if text is None else numbers.setdefault(text, len(numbers)) for text in texts]
