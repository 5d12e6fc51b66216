"""Forward passes over pieces of sequences, batch by batch."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esm_sae.embedding.batching import batch_end, computed_tokens, longest_first
from esm_sae.embedding.tokens import SPECIAL_TOKENS
from esm_sae.embedding.windows import Pieces
from esm_sae.errors import InputError, ResumableError
from esm_sae.progress import LOGGER

if TYPE_CHECKING:
    from esm_sae.embedding.encoder import Encoder


class Batch(NamedTuple):
    """The rows of one batch of b pieces.

    Attributes:
        pieces: their numbers, (b,).
        pooled: one row per piece, over its own residues, (b, D) float32.
        residues: states of the wanted residues, piece by piece, (R, D) float32; None where none
            are wanted.
    """

    pieces: np.ndarray
    pooled: np.ndarray
    residues: np.ndarray | None


class State(NamedTuple):
    """How far passes have come.

    Attributes:
        pieces: number of pieces that are finished, in the order of the passes.
        batch_tokens: the token budget in force.
        tokens: number of tokens computed so far, PAD that was computed included.
    """

    pieces: int
    batch_tokens: int
    tokens: int


class Passes:
    """Iterates over the batches of pieces, longest first, and knows how far it has come.

    The batches are a function of the pieces' lengths and the state to start from. Where the
    device runs out of memory, the token budget is halved for what is left.

    Attributes:
        order: the pieces' numbers in the order in which they are computed, (P,).
        state: the state when the last batch was yielded, that batch included.
    """

    def __init__(
        self,
        encoder: "Encoder",
        sequences: Sequence[str],
        names: Sequence[str],
        pieces: Pieces,
        *,
        layer: int,
        pooling: str,
        state: State,
        residues: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Prepare the passes.

        Args:
            encoder: the encoder.
            sequences: N amino-acid sequences.
            names: their names, for errors.
            pieces: pieces of them.
            layer: as in ``Encoder.layer_number``.
            pooling: of the rows per piece, as in ``pooling.pool``.
            state: where to start; ``State(0, batch_tokens, 0)`` at the beginning.
            residues: for each piece the residues, counted from 0 in the whole sequence, whose
                own states are wanted beside the pooled ones.
        """
        self.order = longest_first(pieces.lengths)
        self.state = state
        self._encoder = encoder
        self._sequences = sequences
        self._names = names
        self._pieces = pieces
        self._layer = encoder.layer_number(layer)
        self._pooling = pooling
        self._residues = residues

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches that are left.

        Raises:
            InputError: a single sequence does not fit into the device's memory: a
                ``ResumableError`` where a batch did before, and others may hold the memory.
        """
        tokens = self._pieces.lengths[self.order] + SPECIAL_TOKENS
        packed = self._encoder.packs
        while self.state.pieces < len(self.order):
            first = self.state.pieces
            end = batch_end(tokens, first, self.state.batch_tokens, packed=packed)
            batch = self._computed(self.order[first:end])
            computed = computed_tokens(tokens[first:end], packed=packed)
            if batch is None:
                self._halve_budget(self.order[first:end], computed)
                continue
            self.state = self.state._replace(pieces=end, tokens=self.state.tokens + computed)
            yield batch

    def _computed(self, numbers: np.ndarray) -> Batch | None:
        """Return a batch, or None where it does not fit into memory."""
        from esm_sae.embedding.memory import is_out_of_memory

        try:
            return self._forward(numbers)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # Nothing of the failed pass may live on in the error when the next one starts.
            return None

    def _forward(self, numbers: np.ndarray) -> Batch:
        import torch

        from esm_sae.embedding.pooling import pool, states_of_residues

        pieces = Pieces(*(column[numbers] for column in self._pieces))
        vocabulary = self._encoder.backbone.vocabulary
        bounds = zip(
            pieces.sequence.tolist(), pieces.start.tolist(), pieces.end.tolist(), strict=True
        )
        ids = [
            vocabulary.encode(self._sequences[int(n)][start:end]).ids for n, start, end in bounds
        ]
        first, end = pieces.own_start - pieces.start, pieces.own_end - pieces.start
        owned = list(zip(first.tolist(), end.tolist(), strict=True))
        with torch.inference_mode():
            states = self._encoder.states(ids, layer=self._layer)
            pooled = pool(states, owned, self._pooling).cpu().numpy()
            residues = None
            if self._residues is not None:
                wanted = [
                    self._residues[number] - start
                    for number, start in zip(numbers.tolist(), pieces.start.tolist(), strict=True)
                ]
                residues = states_of_residues(states, wanted).cpu().numpy()
        return Batch(numbers, pooled, residues)

    def _halve_budget(self, numbers: np.ndarray, tokens: int) -> None:
        from esm_sae.embedding.memory import free_cached

        device = self._encoder.device
        if len(numbers) == 1:
            piece = int(numbers[0])
            kind = ResumableError if self.state.pieces else InputError
            raise kind(
                f"{self._names[int(self._pieces.sequence[piece])]}: its "
                f"{int(self._pieces.lengths[piece]):,} residues do not fit into the memory of "
                f"{device}; set max_length (--max_len N --long window), free memory or take "
                "another device"
            )
        budget = tokens // 2
        LOGGER.warning(
            "out of memory on %s with %s tokens; going on with batches of at most %s",
            device,
            f"{tokens:,}",
            f"{budget:,}",
        )
        self.state = self.state._replace(batch_tokens=budget)
        free_cached(device)
