"""An encoder: a backbone with its device and precision, from sequences to embeddings."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from esm_sae.embedding.backbone import Backbone, HeadedBackbone, Replace, require_states
from esm_sae.embedding.batching import batches, default_batch_tokens, pad
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.passes import Passes, State
from esm_sae.embedding.residues import all_residues, spread
from esm_sae.embedding.tokens import SPECIAL_TOKENS
from esm_sae.embedding.windows import whole_pieces
from esm_sae.errors import InputError

if TYPE_CHECKING:
    import torch


class Encoder:
    """A protein language model ready to embed sequences.

    Attributes:
        name: the name it was loaded by.
        precision: arithmetic of the forward pass, ``float32`` or ``bfloat16`` (autocast).
        device: where it runs.
    """

    def __init__(
        self, name: str, backbone: Backbone, *, device: "torch.device", precision: str
    ) -> None:
        self.name = name
        self.device = device
        self.precision = precision
        self.backbone = backbone

    @property
    def note(self) -> str:
        """What a reader of any result must know of the encoder; else empty."""
        return self.backbone.note

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        return self.backbone.width

    @property
    def blocks(self) -> int:
        """B, the number of transformer blocks."""
        return self.backbone.blocks

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights, the same for the same tensors in any file format."""
        return self.backbone.weights_sha256

    @property
    def packs(self) -> bool:
        """Whether PAD is not computed."""
        return getattr(self.backbone, "packs", False)

    @property
    def default_batch_tokens(self) -> int:
        """Most tokens of a batch where nothing else is asked for."""
        return default_batch_tokens(self.device.type)

    def layer_number(self, layer: int) -> int:
        """Return the canonical number of a layer, 0..B; -1 is B.

        Layers are numbered as Biohub's SAEs are: 0 the token embeddings, N < B the output of
        block N-1 before the norm, B the output after the final norm.

        Raises:
            InputError: there is no such layer.
        """
        return canonical_layer(layer, self.name, self.blocks)

    def embed(
        self,
        sequences: Sequence[str],
        *,
        pooling: str = "mean",
        layer: int = -1,
        batch_tokens: int | None = None,
    ) -> np.ndarray:
        """Embed sequences; rows come in the order of the sequences.

        Args:
            sequences: N amino-acid sequences, in either case; letters that the encoder does not
                know are read as X.
            pooling: ``"mean"``, ``"max"``, ``"last"`` or ``"bos"``, one row per sequence, or
                ``"residue"``, the rows of all residues, one sequence after the other.
            layer: as in ``layer_number``.
            batch_tokens: most tokens of a batch, as in ``EmbeddingOptions``.

        Returns:
            (N, D) float32, or (R, D) with R the number of residues of all sequences.

        Raises:
            InputError: no such layer, pooling or number of tokens; an empty sequence; not
                residue letters; a sequence that does not fit into the device's memory, or whose
                rows are not finite.
        """
        options = EmbeddingOptions(pooling=pooling, layer=layer, batch_tokens=batch_tokens)
        names = [
            f"sequence {number} of {len(sequences)}" for number in range(1, len(sequences) + 1)
        ]
        for name, sequence in zip(names, sequences, strict=True):
            self.backbone.vocabulary.require_residues(sequence, name)
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        ends = np.cumsum(lengths)
        residues = None
        if options.per_residue:
            residues = np.split(all_residues(lengths).positions, ends[:-1])
        passes = Passes(
            self,
            sequences,
            names,
            whole_pieces(lengths),
            layer=options.layer,
            pooling=options.protein_pooling,
            state=State(0, options.budget(self), 0),
            residues=residues,
        )
        count = int(lengths.sum()) if options.per_residue else len(lengths)
        rows = np.empty((count, self.width), np.float32)
        for batch in passes:
            if batch.residues is None:
                rows[batch.pieces] = batch.pooled
            else:
                spread(batch.residues, rows, (ends - lengths)[batch.pieces], ends[batch.pieces])
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            number = int(np.searchsorted(ends, row, side="right")) if options.per_residue else row
            raise InputError(
                f"{names[number]}: {self.name} gives values that are not finite; use precision "
                "float32 or other weights, or leave it out"
            )
        return rows

    def states(self, ids: Sequence[np.ndarray], *, layer: int) -> "torch.Tensor":
        """Return the states of a layer for one batch, (B, T, D), T the most tokens of one.

        Args:
            ids: token ids of each sequence, as ``Vocabulary.encode`` gives them.
            layer: canonical layer number.

        Raises:
            InputError: the backbone gives anything else.
        """
        import torch

        tokens = torch.from_numpy(pad(ids, self.backbone.vocabulary.pad)).to(self.device)
        with torch.inference_mode(), self._autocast():
            padded = len({len(sequence) for sequence in ids}) > 1
            states = self.backbone.states(tokens, layer=layer, padded=padded)
        require_states(states, (*tokens.shape, self.width), self.name)
        return states

    def logits(
        self, ids: Sequence[np.ndarray], *, layer: int, replace: Replace
    ) -> "list[torch.Tensor]":
        """Return logits of one batch for each version of a layer's states, (N, V) float32.

        N tokens, BOS and EOS included, one sequence after the other.

        Args:
            ids: as in ``states``.
            layer: canonical layer number.
            replace: as in ``HeadedBackbone.logits``.

        Raises:
            InputError: the encoder has no head, or the batch does not fit into memory.
        """
        import torch

        from esm_sae.embedding.memory import is_out_of_memory

        backbone = self._headed()
        tokens = torch.from_numpy(pad(ids, backbone.vocabulary.pad)).to(self.device)
        padded = len({len(sequence) for sequence in ids}) > 1
        try:
            with torch.inference_mode(), self._autocast():
                return backbone.logits(tokens, layer=layer, replace=replace, padded=padded)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"a batch of {sum(map(len, ids)):,} tokens does not fit into the memory of "
                f"{self.device}; set a smaller batch_tokens, or max_length for long proteins"
            ) from None

    @property
    def mask(self) -> int:
        """The token id that hides a residue.

        Raises:
            InputError: the encoder has no head that tells what is hidden.
        """
        mask = self._headed().vocabulary.mask
        if mask is None:
            raise InputError(f"encoder '{self.name}': its vocabulary has no mask token; name it")
        return mask

    def token_ids(self, sequence: str) -> np.ndarray:
        """Return BOS, one token per residue and EOS, (L + 2,) int64.

        Raises:
            InputError: as ``Vocabulary.encode``.
        """
        return self.backbone.vocabulary.encode(sequence).ids

    def batches(
        self, lengths: np.ndarray, *, batch_tokens: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the numbers of the sequences that go through the encoder together.

        Args:
            lengths: number of residues of each sequence, (N,).
            batch_tokens: most tokens of a batch; None takes what suits the device.
        """
        budget = batch_tokens or self.default_batch_tokens
        return batches(lengths + SPECIAL_TOKENS, budget, packed=self.packs)

    def _headed(self) -> HeadedBackbone:
        if not hasattr(self.backbone, "logits"):
            raise InputError(
                f"encoder '{self.name}': has no sequence head to go on to from a layer's states; "
                "take an ESM-C, or give its backbone a method logits()"
            )
        return cast(HeadedBackbone, self.backbone)

    def _autocast(self) -> "torch.autocast":
        import torch

        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"
        )


def canonical_layer(layer: int, name: str, blocks: int) -> int:
    """Return the number 0..B of a layer of an encoder with B blocks; -1 is B.

    Raises:
        InputError: there is no such layer.
    """
    if not -1 <= layer <= blocks:
        raise InputError(f"layer {layer}: {name} has layers 0 to {blocks} (-1 is the last)")
    return blocks if layer == -1 else layer
