"""The data that the page of one's own proteins carries."""

from pathlib import Path
from typing import Any

import polars as pl

from esm_sae.formats.analysis_tables import (
    CANDIDATES,
    PROTEIN_LATENTS,
    RESIDUE_LATENTS,
    SEQUENCES,
)
from esm_sae.formats.headers import parse_headers
from esm_sae.report.payload import accession_of, short

PROTEINS_SHOWN, LATENTS_SHOWN = 500, 25

# Colours of residues have this many levels.
_LEVELS = 20


def read_candidates(described: Path) -> pl.DataFrame | None:
    """Return the candidates of ``describe_proteins``; None where none were looked for."""
    path = described / CANDIDATES
    return pl.read_parquet(path) if path.is_file() else None


def protein_payload(described: Path, activations: Path) -> dict[str, Any]:
    """Collect what the page shows of proteins, in plain lists.

    At most 500 proteins are on the page, those that are candidates for a concept before the
    others, in the order of the file; of each the 25 latents that come first in its table, and
    those that make it a candidate.

    Args:
        described: folder of ``describe_proteins``.
        activations: folder of ``compute_activations``.

    Returns:
        ``proteins`` (columns, one entry per protein: id, name, taxon, accession, length, encoded
        (its first residues that were), sequence, firing (number of latents)), ``latents``
        (columns: latent, label, kind, score, density), ``shown`` (per protein its latents as
        [place in latents, activation, share of the maximum, share as strong, position, firing
        rows, marks]; marks are pairs of the distance from the residue before and a level from 1
        to 20) and ``candidates`` ([place in proteins or null, id, concept, name, latent,
        position, chance, precision, F1, its bounds]).
    """
    candidates = read_candidates(described)
    chosen = _chosen(activations, candidates)
    latents = _latents_of(described, chosen, candidates)
    marks = _marks(described, latents)
    numbers = latents["latent"].unique().sort()
    place = {latent: at for at, latent in enumerate(numbers)}
    shown: dict[int, list[Any]] = {protein: [] for protein in chosen["protein"]}
    for row in latents.iter_rows(named=True):
        shown[row["protein"]].append(
            [
                place[row["latent"]],
                short(row["activation"]),
                short(row["share_of_max"]),
                short(row["share_as_strong"]),
                row["position"],
                row["firing_rows"],
                marks.get((row["protein"], row["latent"]), []),
            ]
        )
    firing = latents.group_by("protein").agg(pl.col("firing").first())
    chosen = chosen.join(firing, on="protein", how="left", maintain_order="left")
    return {
        "proteins": _proteins(chosen),
        "latents": _named(latents, numbers),
        "shown": list(shown.values()),
        "candidates": _candidates(candidates, chosen["protein"].to_list()),
    }


def _chosen(activations: Path, candidates: pl.DataFrame | None) -> pl.DataFrame:
    proteins = pl.scan_parquet(activations / SEQUENCES)
    first = [] if candidates is None else candidates["protein"].unique().to_list()
    return (
        proteins.sort(~pl.col("protein").is_in(first), "protein")
        .head(PROTEINS_SHOWN)
        .sort("protein")
        .collect()
    )


def _latents_of(
    described: Path, chosen: pl.DataFrame, candidates: pl.DataFrame | None
) -> pl.DataFrame:
    wanted = pl.DataFrame(schema={"protein": pl.UInt32, "latent": pl.UInt32, "wanted": pl.Boolean})
    if candidates is not None:
        pairs = candidates.select("protein", "latent").unique()
        wanted = pairs.with_columns(wanted=pl.lit(True))
    return (
        pl.scan_parquet(described / PROTEIN_LATENTS)
        .filter(pl.col("protein").is_in(chosen["protein"].to_list()))
        .collect()
        .with_columns(rank=pl.int_range(pl.len()).over("protein"), firing=pl.len().over("protein"))
        .join(wanted, on=["protein", "latent"], how="left", maintain_order="left")
        .filter((pl.col("rank") < LATENTS_SHOWN) | pl.col("wanted"))
    )


def _marks(described: Path, latents: pl.DataFrame) -> dict[tuple[int, int], list[int]]:
    """Return for each protein and latent the residues it fires on: distances and levels."""
    path = described / RESIDUE_LATENTS
    if not path.is_file():
        return {}
    strongest = pl.max_horizontal(
        pl.col("strongest") / pl.col("share_of_max").fill_null(1.0), "strongest"
    )
    level = (pl.col("activation") / strongest * _LEVELS).ceil().cast(pl.Int64).clip(1, _LEVELS)
    wanted = latents.lazy().select(
        "protein", "latent", "share_of_max", strongest=pl.col("activation")
    )
    found = (
        pl.scan_parquet(path)
        .filter(pl.col("protein").is_in(latents["protein"].unique().to_list()))
        .select("protein", "latent", "position", "activation")
        .join(wanted, on=["protein", "latent"])
        .sort("protein", "latent", "position")
        .with_columns(
            level=level,
            gap=pl.col("position")
            - pl.col("position").shift(1, fill_value=0).over("protein", "latent"),
        )
        .select("protein", "latent", mark=pl.concat_list("gap", "level"))
        .group_by("protein", "latent", maintain_order=True)
        .agg(pl.col("mark").explode())
        .collect()
    )
    return {(protein, latent): mark for protein, latent, mark in found.iter_rows()}


def _named(latents: pl.DataFrame, numbers: pl.Series) -> dict[str, list[Any]]:
    table = latents.unique("latent", keep="first").sort("latent")
    return {
        "latent": numbers.to_list(),
        "label": table["label"].to_list(),
        "kind": table["label_kind"].to_list(),
        "score": [short(score) for score in table["label_score"]],
        "density": [short(density) for density in table["density"]],
    }


def _proteins(chosen: pl.DataFrame) -> dict[str, list[Any]]:
    names = parse_headers(chosen["header"].fill_null("")).select("name").collect()["name"]
    ids = chosen["sequence_id"].to_list()
    return {
        "id": ids,
        "name": [name or None for name in names],
        "taxon": chosen["taxon"].to_list(),
        "accession": [accession_of(sequence_id) for sequence_id in ids],
        "length": chosen["length"].to_list(),
        "encoded": chosen["rows"].to_list(),
        "sequence": chosen["sequence"].to_list(),
        "firing": chosen["firing"].fill_null(0).to_list(),
    }


def _candidates(candidates: pl.DataFrame | None, shown: list[int]) -> list[list[Any]]:
    if candidates is None:
        return []
    place = {protein: at for at, protein in enumerate(shown)}
    return [
        [
            place.get(row["protein"]),
            row["sequence_id"],
            row["concept"],
            row["name"],
            row["latent"],
            row["position"],
            *(
                short(row[name])
                for name in ("firing_chance", "test_precision", "test_f1", "f1_low", "f1_high")
            ),
        ]
        for row in candidates.iter_rows(named=True)
    ]
