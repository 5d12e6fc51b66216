"""One's own proteins: which latents fire on them, by what names, and what that may say of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.analysis.candidates import candidates_of, concepts_to_look_for
from esm_sae.analysis.concepts.labels import universe_path
from esm_sae.analysis.pairs import ROW_GROUP
from esm_sae.analysis.queries import activation_parts
from esm_sae.analysis.reference import (
    require_activations_of,
    require_made_from,
    require_rows_like,
    rows_of,
    sae_of,
)
from esm_sae.analysis.residues import LETTERS, ProteinLetters
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    CANDIDATES,
    LATENTS,
    PROTEIN_LATENT_SCHEMA,
    PROTEIN_LATENTS,
    RESIDUE_LATENT_SCHEMA,
    RESIDUE_LATENTS,
    SEQUENCES,
)
from esm_sae.formats.manifest import Product, identity_of, produce_folder
from esm_sae.progress import progress

MIN_TEST_F1 = 0.5

_ALGORITHM = "own-sequences-2"
_LABELS = ("label", "label_kind", "label_score")


def describe_proteins(
    activations: storage.PathLike,
    output_folder: storage.PathLike,
    *,
    reference: storage.PathLike | None = None,
    summary: storage.PathLike | None = None,
    concepts: storage.PathLike | None = None,
    annotations: storage.PathLike | None = None,
    min_test_f1: float = MIN_TEST_F1,
) -> Product:
    """Say which latents fire on proteins, by their names in an analysis of other proteins.

    Files of the folder:

    - ``protein_latents.parquet``, one row per protein and latent that fires on it: protein,
      sequence_id, latent, activation (its maximum over the protein's rows), share_of_max (of the
      latent's highest activation in the reference; it may be above 1, and is null where the
      latent was silent there), position (of the maximum), firing_rows, density (share of the
      reference's rows on which the latent fires), share_as_strong (share of those rows on which
      it fires about as strongly as here or more: from its histogram of 20 bins), prominence, and
      from the summary label, label_kind and label_score. By protein, then prominence from high
      to low: activation times -log2(1 - (1 - share_as_strong) ** rows of the protein), with the
      share of half a row where none was as strong. The logarithm is the surprise that any of so
      many rows, drawn from the reference, is as strong. Decoder rows have unit norm, so an
      activation is the latent's part in the embedding. A strong latent that nearly every protein
      has, as of an amino acid, says little of a protein, and so does a rare one that is weak.
    - ``residue_latents.parquet``, where rows are residues, one row per residue and latent that
      fires on it, by row: protein, sequence_id, position (from 1), residue, latent, activation,
      label.
    - ``candidates.parquet``, where ``concepts`` and ``annotations`` are given: proteins on which
      the latent chosen for a concept fires above its threshold, while they are not annotated
      with it, as ``candidates.candidates_of`` says. The summary counts as not looked up those
      left out because no UniProt export has the protein.

    Memory: one file of the activations at a time, and the proteins' sequences.

    Args:
        activations: folder of ``compute_activations`` on these proteins.
        output_folder: replaced as a whole.
        reference: folder of ``compute_activations`` on the proteins that were analysed; without
            it shares and densities are those of these proteins.
        summary: table of ``summarise_latents``; without it labels are null.
        concepts: folder of ``score_concepts`` of that analysis.
        annotations: table of ``annotate_concepts`` on these proteins, with its universe beside
            it.
        min_test_f1: concepts whose test F1 is lower propose no candidate.

    Raises:
        InputError: an input is missing, or is of another SAE, or of rows of another kind, than
            the activations.
    """
    if reference is not None:
        require_activations_of(sae_of(activations), reference)
        require_rows_like(rows_of(activations), reference)
        for path in (summary, concepts):
            if path is not None:
                require_made_from(path, reference)
    given = {
        "reference": reference,
        "summary": summary,
        "concepts": concepts,
        "annotations": annotations,
        "universe": None if annotations is None else universe_path(annotations),
    }
    determinants = {
        "activations": identity_of(activations),
        **{name: None if path is None else identity_of(path) for name, path in given.items()},
        "min_test_f1": min_test_f1,
        "algorithm": _ALGORITHM,
    }

    def build(folder: Path) -> dict[str, Any]:
        source = Path(activations)
        known = _latents(Path(reference or source), summary)
        sequences = pl.read_parquet(source / SEQUENCES)
        counts = _write_latents(source, folder, known, sequences)
        if concepts is None or annotations is None:
            return counts
        sought = concepts_to_look_for(Path(concepts), min_test_f1)
        table, unknown = candidates_of(
            source, sequences, sought, Path(annotations), drawn=_rows_drawn(reference)
        )
        table.write_parquet(folder / CANDIDATES)
        return counts | {
            "concepts_sought": len(sought),
            "candidates": len(table),
            "candidate_proteins": table["protein"].n_unique(),
            "not_looked_up": len(unknown),
            "proteins_not_looked_up": unknown["protein"].n_unique(),
        }

    return produce_folder(
        output_folder, kind="own_sequences", determinants=determinants, build=build
    )


def _latents(reference: Path, summary: storage.PathLike | None) -> pl.DataFrame:
    """Return what is known of each latent, with the share of rows from each bin upwards."""
    columns = ["latent", "density", "max_activation", "histogram"]
    tail = pl.col("histogram").list.reverse().list.eval(pl.element().cum_sum()).list.reverse()
    rows = pl.scan_parquet(reference / SEQUENCES).select(pl.col("rows").sum()).collect().item()
    latents = pl.read_parquet(reference / LATENTS, columns=columns).with_columns(
        histogram=tail.list.eval(pl.element() / rows), least_share=pl.lit(0.5 / rows)
    )
    if summary is None:
        schema = {name: PROTEIN_LATENT_SCHEMA[name] for name in _LABELS}
        return latents.with_columns(pl.lit(None, kind).alias(name) for name, kind in schema.items())
    table = pl.read_parquet(Path(summary))
    missing = {"latent", *_LABELS} - set(table.columns)
    if missing or len(table) != len(latents):
        raise InputError(
            f"{summary}: no summary of these {len(latents):,} latents with labels; run the "
            "analysis again"
        )
    return latents.join(table.select("latent", *_LABELS), on="latent", maintain_order="left")


def _write_latents(
    source: Path, folder: Path, latents: pl.DataFrame, sequences: pl.DataFrame
) -> dict[str, Any]:
    parts = activation_parts(source)
    per_residue = sequences["sequence"].null_count() == 0
    letters = ProteinLetters(sequences["sequence"]) if per_residue else None
    rows = sequences.select("protein", "rows")
    tables: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
        PROTEIN_LATENTS: lambda entries: _per_protein(entries, latents, rows)
    }
    if letters is not None:
        tables[RESIDUE_LATENTS] = lambda entries: _per_residue(entries, latents, letters)
    counts = _write_by_parts(parts, folder, tables)
    of_proteins = pl.scan_parquet(folder / PROTEIN_LATENTS)
    firing = of_proteins.group_by("latent").agg(pl.col("label_score").first()).collect()
    return {
        "proteins": len(sequences),
        "firing_latents": len(firing),
        "firing_latents_with_label_score": len(firing) - firing["label_score"].null_count(),
        "protein_latents": counts[PROTEIN_LATENTS],
        "residue_latents": counts.get(RESIDUE_LATENTS, 0),
    }


def _write_by_parts(
    parts: list[Path], folder: Path, tables: dict[str, Callable[[pl.DataFrame], pl.DataFrame]]
) -> dict[str, int]:
    """Write tables made of one file of activations after the other; return their rows."""
    work = folder / "parts.work"
    # A killed build may have left it.
    shutil.rmtree(work, ignore_errors=True)
    written: dict[str, list[Path]] = {name: [] for name in tables}
    counts = dict.fromkeys(tables, 0)
    with progress(len(parts), unit="parts", description="latents of proteins") as shown:
        for part in parts:
            entries = pl.read_parquet(part)
            for name, make in tables.items():
                path = work / name / part.name
                path.parent.mkdir(parents=True, exist_ok=True)
                table = make(entries)
                table.write_parquet(path, compression="lz4")
                counts[name] += len(table)
                written[name].append(path)
            shown.update(1)
    for name, paths in written.items():
        pl.scan_parquet(paths).sink_parquet(
            folder / name, row_group_size=ROW_GROUP, compression="zstd", compression_level=1
        )
    shutil.rmtree(work)
    return counts


def _per_protein(entries: pl.DataFrame, latents: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    strongest = pl.col("activation") == pl.col("activation").max()
    largest = pl.col("max_activation")
    bins = pl.col("histogram").list.len().cast(pl.Int64)
    share = pl.max_horizontal("share_as_strong", "least_share")
    in_a_protein = 1 - ((-share).log1p() * pl.col("rows")).exp()
    place = (pl.col("share_of_max") * bins).floor().cast(pl.Int64).clip(upper_bound=bins - 1)
    return (
        entries.group_by("protein", "latent")
        .agg(
            pl.col("sequence_id", "position").filter(strongest).first(),
            pl.col("activation").max(),
            firing_rows=pl.len(),
        )
        .join(latents, on="latent", how="left")
        .join(rows, on="protein", how="left")
        .with_columns(share_of_max=pl.when(largest > 0).then(pl.col("activation") / largest))
        .with_columns(
            share_as_strong=pl.when(pl.col("share_of_max") <= 1)
            .then(pl.col("histogram").list.get(place))
            .otherwise(0.0)
        )
        .with_columns(prominence=pl.col("activation") * -in_a_protein.log(2))
        .sort("protein", "prominence", "latent", descending=[False, True, False])
        .select(pl.col(name).cast(kind) for name, kind in PROTEIN_LATENT_SCHEMA.items())
    )


def _per_residue(
    entries: pl.DataFrame, latents: pl.DataFrame, letters: ProteinLetters
) -> pl.DataFrame:
    at = letters.at(entries["protein"].to_numpy(), entries["position"].to_numpy())
    residue = pl.Series("residue", list(LETTERS)).gather(at)
    return (
        entries.with_columns(residue)
        .join(latents.select("latent", "label"), on="latent", how="left", maintain_order="left")
        .select(pl.col(name).cast(kind) for name, kind in RESIDUE_LATENT_SCHEMA.items())
    )


def _rows_drawn(reference: storage.PathLike | None) -> int | None:
    """Return how many residues of each protein the reference encoded; None: all."""
    if reference is None:
        return None
    sequences = pl.scan_parquet(Path(reference) / SEQUENCES)
    partly = (pl.col("rows") < pl.col("length")).any()
    drawn, most = sequences.select(drawn=partly, most=pl.col("rows").max()).collect().row(0)
    return most if drawn else None
