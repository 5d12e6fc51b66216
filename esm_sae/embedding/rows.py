"""Filling matrices on disk with the rows of many sequences, batch by batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from esm_sae.embedding.encoder import Encoder
from esm_sae.embedding.journal import Journal, read_journal, remove_journal
from esm_sae.embedding.matrices import MatrixFile
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.passes import Batch, Passes, State
from esm_sae.embedding.residues import ResidueRows, spread
from esm_sae.embedding.tokens import SPECIAL_TOKENS
from esm_sae.embedding.windows import Pieces, whole_pieces, window_pieces
from esm_sae.errors import InputError
from esm_sae.progress import progress

_NAMED = 3
_PARTS = "parts.npy"


class Counts(NamedTuple):
    """What was embedded: a function of the sequences and options.

    Attributes:
        residues: residues that were embedded, each counted once.
        truncated: sequences that were cut off at the greatest length.
        windowed: sequences that were embedded in windows.
        unknown_letters: residues whose letter the encoder does not know, read as X.
    """

    residues: int
    truncated: int
    windowed: int
    unknown_letters: int


class Computed(NamedTuple):
    """What one call computed, which depends on where it was killed or memory ran out.

    Attributes:
        residues: residues that went through the encoder, those in two windows twice.
        batches: number of forward passes.
        resumed: share of the residues that an earlier, killed call had computed.
        padding_share: share of the computed tokens that were PAD.
        batch_tokens: the token budget of a batch in the end: less than was asked for where
            memory ran out.
    """

    residues: int = 0
    batches: int = 0
    resumed: float = 0.0
    padding_share: float = 0.0
    batch_tokens: int = 0


def fill_rows(
    sequences: Sequence[str],
    ids: Sequence[str],
    encoder: Encoder,
    options: EmbeddingOptions,
    *,
    folder: Path,
    per_protein: MatrixFile,
    per_residue: MatrixFile | None = None,
    residues: ResidueRows | None = None,
    description: str,
) -> tuple[Counts, Computed]:
    """Embed sequences into new matrices, whose rows are in the order of the sequences.

    What a killed call left in the folder is gone on with. Memory beyond the encoder's is bounded
    by the sequences, their residues' positions and one batch; the matrices are mapped files.

    Args:
        sequences: N amino-acid sequences, all of which are to be embedded.
        ids: their ids, for errors.
        encoder: the encoder.
        options: pooling, layer, greatest length and token budget.
        folder: a work folder that outlives a kill, of this content only.
        per_protein: gets one row per sequence, of the options' pooling, or the mean with
            residue rows.
        per_residue: gets the rows of residues.
        residues: which residues these are.
        description: of the progress.

    Raises:
        InputError: an embedding is not finite (the sequences are named), the disk has no room
            for the matrices, or a sequence does not fit into the device's memory (a
            ``ResumableError`` where others did).
    """
    pieces = pieces_of(sequences, options)
    target = _Target(pieces, ids, options, folder, per_protein, per_residue, residues)
    start = target.state or State(0, options.budget(encoder), 0)
    passes = Passes(
        encoder,
        sequences,
        ids,
        pieces,
        layer=options.layer,
        pooling=options.protein_pooling,
        state=start,
        residues=target.residues_of_pieces(),
    )
    lengths = pieces.lengths
    total, before = int(lengths.sum()), int(lengths[passes.order[: start.pieces]].sum())
    batches = 0
    with progress(total, unit="residues", description=description, start=before) as shown:
        for batch in passes:
            target.store(batch)
            target.journal.note(passes.state)
            batches += 1
            shown.update(int(lengths[batch.pieces].sum()))
    target.finish()
    target.journal.write(passes.state)
    computed = Computed(
        total - before,
        batches,
        round(before / total, 4),
        _padding_share(total - before, start, passes.state),
        passes.state.batch_tokens,
    )
    return _counts(sequences, pieces, encoder, options), computed


def pieces_of(sequences: Sequence[str], options: EmbeddingOptions) -> Pieces:
    """Return which pieces of sequences go through the encoder under the options."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if options.max_length is not None and options.long_sequences == "window":
        return window_pieces(lengths, options.max_length)
    return whole_pieces(lengths, options.max_length)


class _Target:
    """The matrices that batches go into, and the record of how far they are filled."""

    def __init__(
        self,
        pieces: Pieces,
        ids: Sequence[str],
        options: EmbeddingOptions,
        folder: Path,
        per_protein: MatrixFile,
        per_residue: MatrixFile | None,
        residues: ResidueRows | None,
    ) -> None:
        self._pieces = pieces
        self._ids = ids
        self._pooling = options.protein_pooling
        self._residues = residues
        if residues is not None:
            self._first, self._end = residues.of_pieces(pieces)
        in_windows = np.bincount(pieces.sequence)[pieces.sequence] > 1
        self._part = np.where(in_windows, np.cumsum(in_windows) - 1, -1)
        parts = MatrixFile(
            folder / _PARTS, folder / _PARTS, int(in_windows.sum()), per_protein.width
        )
        files = [per_protein, *([per_residue] if per_residue else [])]
        self.state, matrices = _open(folder, [*files, *([parts] if parts.rows else [])])
        self._proteins = matrices[0]
        self._rows = matrices[1] if per_residue else None
        self._parts = matrices[-1] if parts.rows else None
        self.journal = Journal(folder, matrices)

    def residues_of_pieces(self) -> list[np.ndarray] | None:
        if self._residues is None:
            return None
        bounds = zip(self._first.tolist(), self._end.tolist(), strict=True)
        return [self._residues.positions[first:end] for first, end in bounds]

    def store(self, batch: Batch) -> None:
        """Write the rows of a batch; a second time they would be the same."""
        owners = self._pieces.sequence[batch.pieces]
        parts = self._part[batch.pieces]
        pooled = self._finite(batch.pooled, self._proteins.dtype, owners)
        whole = parts < 0
        self._proteins[owners[whole]] = pooled[whole]
        if self._parts is not None:
            self._parts[parts[~whole]] = batch.pooled[~whole]
        if self._rows is not None and batch.residues is not None:
            first, end = self._first[batch.pieces], self._end[batch.pieces]
            rows = self._finite(batch.residues, self._rows.dtype, np.repeat(owners, end - first))
            spread(rows, self._rows, first, end)

    def finish(self) -> None:
        """Make the rows of the sequences in windows from their parts."""
        from esm_sae.embedding.pooling import combine

        if self._parts is None:
            return
        in_windows = np.flatnonzero(self._part >= 0)
        owners = self._pieces.sequence[in_windows]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        for own in np.split(in_windows, starts[1:]):
            parts, weights = self._parts[self._part[own]], self._pieces.owned[own]
            self._proteins[self._pieces.sequence[own[0]]] = combine(parts, weights, self._pooling)

    def _finite(self, rows: np.ndarray, dtype: np.dtype, owners: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = rows.astype(dtype, copy=False)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            names = [self._ids[int(number)] for number in np.unique(owners[~finite])]
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise InputError(
                f"embeddings of {', '.join(names[:_NAMED])}{more} are not finite in {dtype}; "
                "try float32 for precision and dtype, else the weights are at fault"
            )
        return values


def _open(folder: Path, files: Sequence[MatrixFile]) -> tuple[State | None, list[np.memmap]]:
    """Open the matrices that a killed call left, or create them."""
    state = read_journal(folder)
    if state is not None:
        matrices = [matrix for file in files if (matrix := file.reopen()) is not None]
        if len(matrices) == len(files):
            return state, matrices
    remove_journal(folder)
    return None, [file.create() for file in files]


def _padding_share(residues: int, start: State, end: State) -> float:
    """Return the share of PAD in the tokens computed between two states."""
    tokens = end.tokens - start.tokens
    own = residues + SPECIAL_TOKENS * (end.pieces - start.pieces)
    return round(1 - own / tokens, 4) if tokens else 0.0


def _counts(
    sequences: Sequence[str], pieces: Pieces, encoder: Encoder, options: EmbeddingOptions
) -> Counts:
    vocabulary = encoder.backbone.vocabulary
    used = options.embedded_lengths(np.array([len(sequence) for sequence in sequences]))
    truncated = sum(end < len(sequence) for sequence, end in zip(sequences, used, strict=True))
    return Counts(
        residues=int(used.sum()),
        truncated=int(truncated),
        windowed=int((np.bincount(pieces.sequence) > 1).sum()),
        unknown_letters=sum(
            vocabulary.encode(sequence[:end]).unknown
            for sequence, end in zip(sequences, used.tolist(), strict=True)
        ),
    )
