"""The activations of an SAE over embedding rows, as tables."""

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
    encode_entries,
    max_per_protein,
    protein_starts,
)
from esm_sae.analysis.pairs import ROW_GROUP, PairSorter
from esm_sae.analysis.residues import sequences_of
from esm_sae.formats.analysis_tables import BY_ROW, LATENTS, PROTEINS, SEQUENCES
from esm_sae.formats.manifest import Product, identity_of, produce_folder
from esm_sae.formats.parent_check import require_parent
from esm_sae.progress import progress

HISTOGRAM_BINS = 20

_ALGORITHM = "activations-2"
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

    - ``by_row/00000.parquet`` and so on, sorted by row (``scan_activations`` reads them as one,
      ``latents_of`` one protein): row, protein, sequence_id, position, latent, activation. A
      protein's rows are all in one file.
    - ``proteins.parquet``, sorted by latent, then activation from high to low
      (``top_proteins`` reads one latent): latent, protein, sequence_id, activation (the maximum
      over the protein's rows), position (of the maximum).
    - ``latents.parquet``, all L latents: latent, firing_rows, density (share of the rows),
      firing_proteins, protein_density (share of the proteins), mean_activation (where it fires),
      max_activation, histogram (20 counts, equal bins from 0 to the maximum).
    - ``sequences.parquet``, one row per protein: protein, sequence_id, header, taxon, taxid,
      length, rows, sequence (of residue rows where ``fasta`` is given, else null).

    Memory: one part of 65,536 rows, or of the longest protein, at a time (about 150 bytes x k a
    row), what ``PairSorter`` holds, and the sequence table. Disk: pairs of a protein and a latent
    that fires on it stand in a folder beside the tables until they are sorted, twice.

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
    require_parent(sae, shards, where)
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
        self.proteins = 0
        self.sequences: list[pl.DataFrame] = []
        latents = sae.config.latent_dim
        self.firing_rows = np.zeros(latents, dtype=np.int64)
        self.sums = np.zeros(latents, dtype=np.float64)
        self.maxima = np.zeros(latents, dtype=np.float32)
        self.pairs = PairSorter(folder / "pairs.work", latents)

    def write(self) -> dict[str, int | float]:
        with self.pairs:
            parts = self._write_parts()
            sequences = self._sequence_table()
            self.pairs.write(self.folder / PROTEINS, sequences["sequence_id"])
        sequences.write_parquet(self.folder / SEQUENCES)
        self._latent_table(parts).write_parquet(self.folder / LATENTS)
        firing = int((self.firing_rows > 0).sum())
        activations = int(self.firing_rows.sum())
        return {
            "rows": self.rows.rows,
            "proteins": self.proteins,
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
                    index = self._whole_proteins(start, done)
                    entries, end = pl.concat(pending), start + len(index)
                    if end > start:
                        paths.append(by_row / f"{len(paths):05d}.parquet")
                        whole = entries.filter(pl.col("row") < end)
                        self._write_part(whole, index, start, paths[-1])
                    pending, start = [entries.filter(pl.col("row") >= end)], end
                shown.update(len(x))
        return paths

    def _whole_proteins(self, start: int, done: int) -> pl.DataFrame:
        """Return the index from a protein's first row on, without the last if it may go on."""
        index = self.rows.index.slice(start, done - start).collect()
        if not self.residues or done == self.rows.rows:
            return index
        return index[: int(np.flatnonzero(protein_starts(index))[-1])]

    def _write_part(
        self, entries: pl.DataFrame, index: pl.DataFrame, start: int, path: Path
    ) -> None:
        first = protein_starts(index) if self.residues else np.ones(len(index), dtype=bool)
        protein = self.proteins - 1 + np.cumsum(first)
        local = entries["row"].to_numpy() - start
        entries = entries.select(
            "row",
            pl.Series("protein", protein[local], dtype=pl.UInt32),
            index["sequence_id"].gather(local),
            index["position"].gather(local),
            "latent",
            "activation",
        )
        entries.write_parquet(
            path, row_group_size=ROW_GROUP, compression="zstd", compression_level=1
        )
        latents, activations = entries["latent"].to_numpy(), entries["activation"].to_numpy()
        self.firing_rows += np.bincount(latents, minlength=len(self.sums))
        self.sums += np.bincount(latents, activations, len(self.sums))
        np.maximum.at(self.maxima, latents, activations)
        pairs = entries.select("protein", "latent", "activation", "position")
        self.pairs.add(max_per_protein(pairs) if self.residues else pairs)
        self.sequences.append(
            index.filter(first).select(
                pl.Series("protein", self.proteins + np.arange(first.sum()), dtype=pl.UInt32),
                pl.exclude("position"),
                pl.Series("rows", np.bincount(protein - self.proteins), dtype=pl.UInt32),
            )
        )
        self.proteins += int(first.sum())

    def _sequence_table(self) -> pl.DataFrame:
        table = pl.concat(self.sequences)
        self.sequences.clear()
        if self.fasta is not None:
            return table.with_columns(sequences_of(table, self.fasta))
        own = getattr(self.rows, "sequences", None)
        known = own if self.residues and own is not None else [None] * len(table)
        return table.with_columns(pl.Series("sequence", known, dtype=pl.String))

    def _latent_table(self, parts: list[Path]) -> pl.DataFrame:
        firing_proteins = self.pairs.firing_proteins
        histogram = _histograms(parts, self.maxima)
        return pl.DataFrame(
            {
                "latent": np.arange(len(self.sums), dtype=np.uint32),
                "firing_rows": self.firing_rows.astype(np.uint32),
                "density": self.firing_rows / self.rows.rows,
                "firing_proteins": firing_proteins.astype(np.uint32),
                "protein_density": firing_proteins / self.proteins,
                "mean_activation": (self.sums / np.maximum(self.firing_rows, 1)).astype(np.float32),
                "max_activation": self.maxima,
                "histogram": pl.Series(histogram.tolist(), dtype=pl.List(pl.UInt32)),
            }
        )


def _histograms(parts: list[Path], maxima: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(maxima) * HISTOGRAM_BINS, dtype=np.int64)
    for path in parts:
        entries = pl.read_parquet(path, columns=["latent", "activation"])
        latents = entries["latent"].to_numpy().astype(np.int64)
        share = entries["activation"].to_numpy() / maxima[latents]
        bins = np.minimum((share * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
        counts += np.bincount(latents * HISTOGRAM_BINS + bins, minlength=len(counts))
    return counts.reshape(len(maxima), HISTOGRAM_BINS)
