"""The proteins and residues of a run's activations, as units that bear concepts."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.analysis.concepts.labels import (
    PROTEIN,
    RESIDUE,
    LabelledConcepts,
    protein_labels,
    residue_labels,
)
from esm_sae.analysis.concepts.scores import Ranked, rank_pairs
from esm_sae.analysis.held_out import require_held_out_activations
from esm_sae.analysis.queries import activation_parts, scan_activations
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import BY_ROW, LATENTS, PROTEINS, SEQUENCES
from esm_sae.split import cluster_numbers_of, read_similarity_clusters, splits_of

_ENTRIES_AT_ONCE = 16_000_000
_SCORES_AT_ONCE = 4_000_000


class RunProteins(NamedTuple):
    """The proteins of a folder by ``compute_activations``.

    Attributes:
        folder: of the activations.
        sequence_ids: id of each protein.
        splits: train, validation or test, of each protein.
        clusters: number of each protein's similarity cluster.
        residues: whether a row is a residue.
    """

    folder: Path
    sequence_ids: pl.Series
    splits: np.ndarray
    clusters: np.ndarray
    residues: bool


class Units(NamedTuple):
    """The units of a level: proteins, or the held-out residues that were encoded.

    Attributes:
        level: ``"protein"`` or ``"residue"``.
        protein: number of each unit's protein, (U).
        row: of residues the number of each unit's row, ascending; of proteins None.
        splits: of each unit.
        clusters: number of each unit's similarity cluster.
        concepts: which units bear which concepts.
    """

    level: str
    protein: np.ndarray
    row: np.ndarray | None
    splits: np.ndarray
    clusters: np.ndarray
    concepts: LabelledConcepts


def open_run(
    folder: storage.PathLike, similarity_clusters: storage.PathLike | None, *, split_seed: int
) -> RunProteins:
    """Read which proteins a run has, and how they are split.

    Raises:
        InputError: the folder holds no activations, its SAE was trained with another split, or
            the similarity clusters cannot be read.
    """
    path = Path(folder)
    if not (path / BY_ROW).is_dir() or not (path / SEQUENCES).is_file():
        raise InputError(f"{path}: holds no activations; name a folder by compute_activations")
    require_held_out_activations(path, similarity_clusters, split_seed)
    known = {} if similarity_clusters is None else read_similarity_clusters(similarity_clusters)
    ids = pl.read_parquet(path / SEQUENCES, columns=["sequence_id"])["sequence_id"]
    some = scan_activations(path).select("position").head(1).collect()["position"]
    return RunProteins(
        path,
        ids,
        splits_of(ids.to_list(), known, seed=split_seed),
        cluster_numbers_of(ids.to_list(), known),
        residues=len(some) > 0 and some[0] is not None,
    )


def proteins_of(run: RunProteins, annotations: storage.PathLike) -> Units:
    """Return all proteins of a run as units."""
    return Units(
        PROTEIN,
        np.arange(len(run.sequence_ids)),
        None,
        run.splits,
        run.clusters,
        protein_labels(annotations, run.sequence_ids),
    )


def held_out_residues(run: RunProteins, annotations: storage.PathLike) -> Units:
    """Return the residues of validation and test on which any latent fires, as units."""
    held_out = run.splits != "train"
    parts = []
    for path in activation_parts(run.folder):
        rows = pl.read_parquet(path, columns=["row", "protein", "position"])
        rows = rows.filter(pl.Series(held_out).gather(rows["protein"]))
        parts.append(rows.unique("row", keep="first", maintain_order=True))
    rows = pl.concat(parts)
    protein = rows["protein"].to_numpy().astype(np.int64)
    return Units(
        RESIDUE,
        protein,
        rows["row"].to_numpy(),
        run.splits[protein],
        run.clusters[protein],
        residue_labels(annotations, run.sequence_ids, protein, rows["position"].to_numpy()),
    )


def ranked_latents(run: RunProteins, units: Units) -> Iterator[tuple[int, Ranked]]:
    """Rank the held-out units by the activation of each latent, latents by the block.

    A protein's activation is the maximum over its encoded rows.

    Yields:
        Number of the block's first latent, and the block.
    """
    column = "firing_proteins" if units.row is None else "firing_rows"
    sizes = pl.read_parquet(run.folder / LATENTS, columns=[column])[column].to_numpy()
    for first, end in _blocks(sizes.astype(np.int64), units.concepts.labels.concept_count):
        entries = _entries(run, units, first, end)
        latent = entries["latent"].to_numpy().astype(np.int64) - first
        activation = entries["activation"].to_numpy()
        yield first, rank_pairs(latent, entries["unit"].to_numpy(), activation, end - first)


def _entries(run: RunProteins, units: Units, first: int, end: int) -> pl.DataFrame:
    of_block = pl.col("latent").is_between(first, end - 1)
    if units.row is None:
        held_out = pl.Series(run.splits != "train")
        entries = pl.scan_parquet(run.folder / PROTEINS).filter(of_block)
        entries = entries.select("latent", "activation", unit="protein").collect()
        return entries.filter(held_out.gather(entries["unit"]))
    rows = pl.LazyFrame({"row": units.row, "unit": np.arange(len(units.row), dtype=np.uint32)})
    entries = scan_activations(run.folder).filter(of_block).select("latent", "activation", "row")
    return entries.join(rows, on="row").select("latent", "activation", "unit").collect()


def _blocks(sizes: np.ndarray, concepts: int) -> Iterator[tuple[int, int]]:
    widest = max(_SCORES_AT_ONCE // max(concepts, 1), 1)
    upto = np.concatenate([[0], np.cumsum(sizes)])
    first = 0
    while first < len(sizes):
        end = int(np.searchsorted(upto, upto[first] + _ENTRIES_AT_ONCE, side="right")) - 1
        end = min(max(end, first + 1), first + widest, len(sizes))
        yield first, end
        first = end
