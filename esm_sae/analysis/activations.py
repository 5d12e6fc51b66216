"""The activations of an SAE over embedding rows, as tables."""

import itertools
import os
from pathlib import Path

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.analysis.encoder import (
    EmbeddingRows,
    SparseEncoder,
    identity_of_encoding,
)
from esm_sae.analysis.entries import (
    BATCH_ROWS,
    ProteinCounter,
    encode_entries,
    max_per_protein,
)
from esm_sae.analysis.residues import sequences_of
from esm_sae.formats.checkpoint import require_same_embeddings
from esm_sae.formats.manifest import Product, identity_of, produce_folder
from esm_sae.progress import progress

HISTOGRAM_BINS = 20
BY_ROW, PROTEINS, LATENTS, SEQUENCES = (
    "by_row",
    "proteins.parquet",
    "latents.parquet",
    "sequences.parquet",
)

_ALGORITHM = "activations-1"
_PART_ROWS = 65_536


def compute_activations(
    sae: SparseEncoder,
    shards: EmbeddingRows,
    output_folder: storage.PathLike,
    *,
    fasta: storage.PathLike | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Product:
    """Encode all rows and write the activations that are above 0.

    Files of the folder:

    - ``by_row/00000.parquet`` and so on, sorted by row (``scan_activations`` reads them as one):
      row, protein, sequence_id, position, latent, activation.
    - ``proteins.parquet``, sorted by latent, then activation from high to low: latent, protein,
      sequence_id, activation (the maximum over the protein's rows), position (of the maximum).
    - ``latents.parquet``, all L latents: latent, firing_rows, density (share of the rows),
      firing_proteins, protein_density (share of the proteins), mean_activation (where it fires),
      max_activation, histogram (20 counts, equal bins from 0 to the maximum).
    - ``sequences.parquet``, one row per protein: protein, sequence_id, header, taxon, taxid,
      length, rows, sequence (of residue rows where ``fasta`` is given, else null).

    Memory: one part of 65,536 rows at a time (about 40 bytes x k each), all pairs of a protein
    and a latent that fires on it (about 40 bytes each) and the sequence table.

    Args:
        sae: the SAE.
        shards: the embedding rows.
        output_folder: replaced as a whole.
        fasta: the sequences that were embedded; used for residue rows.
        batch_rows: rows encoded at once.

    Raises:
        InputError: the rows are not of the kind the SAE was trained on, or ``fasta`` lacks one
            of the proteins or has it with another length.
    """
    where = os.fspath(getattr(shards, "directory", "embeddings"))
    require_same_embeddings(sae.config, shards.provenance, shards.width, where)
    wanted = fasta if shards.provenance.pooling == "residue" else None
    determinants = identity_of_encoding(sae, shards) | {
        "batch_rows": batch_rows,
        "fasta": None if wanted is None else identity_of(wanted),
        "algorithm": _ALGORITHM,
    }
    return produce_folder(
        output_folder,
        kind="feature_activations",
        determinants=determinants,
        build=lambda folder: _Writer(sae, shards, folder, batch_rows, wanted).write(),
    )


def scan_activations(folder: storage.PathLike) -> pl.LazyFrame:
    """Return all activations of a folder by ``compute_activations``, sorted by row."""
    return pl.scan_parquet(activation_parts(folder))


def activation_parts(folder: storage.PathLike) -> list[Path]:
    """Return the files of all activations of a folder, in the order of rows."""
    return storage.list_files(Path(folder) / BY_ROW, "*.parquet")


class _Writer:
    def __init__(
        self,
        sae: SparseEncoder,
        rows: EmbeddingRows,
        folder: Path,
        batch_rows: int,
        fasta: storage.PathLike | None,
    ) -> None:
        self.sae, self.rows, self.folder = sae, rows, folder
        self.batch_rows, self.fasta = batch_rows, fasta
        self.residues = rows.provenance.pooling == "residue"
        self.proteins = ProteinCounter(residues=self.residues)
        self.maxima: list[pl.DataFrame] = []
        self.sequences: list[pl.DataFrame] = []
        self.rows_of_protein: list[pl.DataFrame] = []
        latents = sae.config.latent_dim
        self.firing_rows = np.zeros(latents, dtype=np.int64)
        self.sums = np.zeros(latents, dtype=np.float64)

    def write(self) -> dict[str, int | float]:
        parts = self._write_parts()
        sequences = self._sequence_table()
        pairs = self._protein_table(sequences)
        latents = self._latent_table(pairs, parts)
        sequences.write_parquet(self.folder / SEQUENCES)
        pairs.write_parquet(self.folder / PROTEINS)
        latents.write_parquet(self.folder / LATENTS)
        firing = int((self.firing_rows > 0).sum())
        activations = int(self.firing_rows.sum())
        return {
            "rows": self.rows.rows,
            "proteins": self.proteins.count,
            "latents": len(self.firing_rows),
            "firing_latents": firing,
            "silent_latents": len(self.firing_rows) - firing,
            "activations": activations,
            "mean_l0": activations / self.rows.rows,
        }

    def _write_parts(self) -> list[Path]:
        by_row = self.folder / BY_ROW
        by_row.mkdir(exist_ok=True)
        paths: list[Path] = []
        pending: list[pl.DataFrame] = []
        start = done = 0
        with progress(self.rows.rows, unit="rows", description="activations") as shown:
            for first, x in self.rows.batches(self.batch_rows):
                pending.append(encode_entries(self.sae, x, first))
                done = first + len(x)
                if done - start >= _PART_ROWS or done == self.rows.rows:
                    paths.append(by_row / f"{len(paths):05d}.parquet")
                    self._write_part(pl.concat(pending), start, done - start, paths[-1])
                    pending, start = [], done
                shown.update(len(x))
        return paths

    def _write_part(self, entries: pl.DataFrame, start: int, count: int, path: Path) -> None:
        index = self.rows.index.slice(start, count).collect()
        protein, first = self.proteins.number(index)
        local = entries["row"].to_numpy() - start
        entries = entries.select(
            "row",
            pl.Series("protein", protein[local], dtype=pl.UInt32),
            index["sequence_id"].gather(local),
            index["position"].gather(local),
            "latent",
            "activation",
        )
        entries.write_parquet(path)
        latents = entries["latent"].to_numpy()
        self.firing_rows += np.bincount(latents, minlength=len(self.sums))
        self.sums += np.bincount(latents, entries["activation"].to_numpy(), len(self.sums))
        compact = entries.select("protein", "latent", "activation", "position")
        self.maxima.append(max_per_protein(compact) if self.residues else compact)
        self.sequences.append(index.filter(first).drop("position"))
        numbers, counts = np.unique(protein, return_counts=True)
        self.rows_of_protein.append(pl.DataFrame({"protein": numbers, "rows": counts}))

    def _sequence_table(self) -> pl.DataFrame:
        rows = pl.concat(self.rows_of_protein).group_by("protein").sum().sort("protein")
        table = pl.concat(self.sequences).select(
            rows["protein"].cast(pl.UInt32), pl.all(), rows["rows"].cast(pl.UInt32)
        )
        if self.fasta is not None:
            return table.with_columns(sequences_of(table, self.fasta))
        own = getattr(self.rows, "sequences", None)
        known = own if self.residues and own is not None else [None] * len(table)
        return table.with_columns(pl.Series("sequence", known, dtype=pl.String))

    def _protein_table(self, sequences: pl.DataFrame) -> pl.DataFrame:
        pairs = _join_parts(self.maxima)
        self.maxima.clear()
        pairs = pairs[_by_latent_then_strength(pairs)]
        ids = sequences["sequence_id"].gather(pairs["protein"])
        return pairs.select("latent", "protein", ids, "activation", "position")

    def _latent_table(self, pairs: pl.DataFrame, parts: list[Path]) -> pl.DataFrame:
        latents = np.arange(len(self.sums), dtype=np.uint32)
        per_latent = pairs.group_by("latent").agg(
            firing_proteins=pl.len(), max_activation=pl.col("activation").max()
        )
        table = pl.DataFrame(
            {
                "latent": latents,
                "firing_rows": self.firing_rows.astype(np.uint32),
                "mean_activation": self.sums / np.maximum(self.firing_rows, 1),
            }
        ).join(per_latent, on="latent", how="left", maintain_order="left")
        table = table.with_columns(pl.col("firing_proteins", "max_activation").fill_null(0))
        histogram = _histograms(parts, table["max_activation"].to_numpy())
        return table.select(
            "latent",
            "firing_rows",
            density=pl.col("firing_rows") / self.rows.rows,
            firing_proteins="firing_proteins",
            protein_density=pl.col("firing_proteins") / self.proteins.count,
            mean_activation=pl.col("mean_activation").cast(pl.Float32),
            max_activation="max_activation",
            histogram=pl.Series(histogram.tolist(), dtype=pl.List(pl.UInt32)),
        )


def _join_parts(maxima: list[pl.DataFrame]) -> pl.DataFrame:
    pairs = pl.concat(maxima)
    ends = [(part["protein"].min(), part["protein"].max()) for part in maxima if len(part)]
    cut = [last for (_, last), (first, _) in itertools.pairwise(ends) if last == first]
    if not cut:
        return pairs
    in_two_parts = pl.col("protein").is_in(cut)
    joined = max_per_protein(pairs.filter(in_two_parts))
    return pl.concat([pairs.filter(~in_two_parts), joined]).sort("protein", maintain_order=True)


def _by_latent_then_strength(pairs: pl.DataFrame) -> np.ndarray:
    # The bits of positive floats order as the floats do.
    weakness = np.uint64(0xFFFFFFFF) - pairs["activation"].to_numpy().view(np.uint32)
    keys = (pairs["latent"].to_numpy().astype(np.uint64) << np.uint64(32)) | weakness
    # Pairs are in the order of proteins: a stable sort keeps it among equal activations.
    return np.argsort(keys, kind="stable")


def _histograms(parts: list[Path], maxima: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(maxima) * HISTOGRAM_BINS, dtype=np.int64)
    for path in parts:
        entries = pl.read_parquet(path, columns=["latent", "activation"])
        latents = entries["latent"].to_numpy().astype(np.int64)
        share = entries["activation"].to_numpy() / maxima[latents]
        bins = np.minimum((share * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
        counts += np.bincount(latents * HISTOGRAM_BINS + bins, minlength=len(counts))
    return counts.reshape(len(maxima), HISTOGRAM_BINS)
