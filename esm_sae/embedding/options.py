"""What the rows of an embedding are to be."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esm_sae.errors import InputError
from esm_sae.formats.shards import Provenance

if TYPE_CHECKING:
    from esm_sae.embedding.encoder import Encoder

POOLINGS = ("mean", "max", "last", "bos", "residue")
LONG_SEQUENCES = ("truncate", "window", "skip")
DTYPES = ("float32", "float16")

_MOST = 2**31 - 1


@dataclass(frozen=True)
class EmbeddingOptions:
    """What a row is and how it is stored.

    Attributes:
        pooling: ``"residue"``, one row per residue; else one row per protein: ``"mean"`` or
            ``"max"`` over its residues, ``"last"``, its last residue, or ``"bos"``, the BOS
            token's state. BOS, EOS and PAD enter no other row.
        residues_per_protein: with residue rows, how many residues of each protein are drawn
            without replacement; None takes all.
        layer: layer number 0..B as in ``Encoder.layer_number``; -1 is B, after the final norm.
        dtype: ``"float32"`` or ``"float16"``.
        batch_tokens: most tokens that are computed in a batch, with PAD where an encoder
            computes it; None takes what suits the device. It may change the rows in their last
            bits, no more.
        max_length: most residues of a sequence that go through the encoder at once; None: all.
        long_sequences: what becomes of longer ones: ``"truncate"`` cuts them off, ``"window"``
            embeds them in overlapping windows, as ``windows.window_pieces`` says, and ``"skip"``
            leaves them out.
        seed: of the drawn residues.
    """

    pooling: str = "mean"
    residues_per_protein: int | None = None
    layer: int = -1
    dtype: str = "float32"
    batch_tokens: int | None = None
    max_length: int | None = None
    long_sequences: str = "truncate"
    seed: int = 0

    def __post_init__(self) -> None:
        _require_one_of("pooling", self.pooling, POOLINGS)
        _require_one_of("dtype", self.dtype, DTYPES)
        _require_one_of("long_sequences", self.long_sequences, LONG_SEQUENCES)
        if self.residues_per_protein is not None and not self.per_residue:
            raise InputError(
                f"residues_per_protein needs residue rows, these are {self.pooling} rows"
            )
        for name in ("residues_per_protein", "batch_tokens", "max_length"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= _MOST:
                raise InputError(f"{name} {value}: expected 1 or more, at most {_MOST:,}")

    @property
    def per_residue(self) -> bool:
        """Whether a row is a residue."""
        return self.pooling == "residue"

    @property
    def protein_pooling(self) -> str:
        """Pooling of the rows per protein: with residue rows the mean stands beside these."""
        return "mean" if self.per_residue else self.pooling

    def determinants(self, encoder: "Encoder") -> dict[str, Any]:
        """Return what decides the bytes of the rows besides encoder, layer and precision.

        The token budget and the kind of device are among them: other shapes of batches and other
        kernels may round differently.
        """
        chosen: dict[str, Any] = {
            "pooling": self.pooling,
            "dtype": self.dtype,
            "batch_tokens": self.budget(encoder),
            "device": encoder.device.type,
            "max_length": self.max_length,
        }
        if self.max_length is not None:
            chosen["long_sequences"] = self.long_sequences
        if self.residues_per_protein is not None:
            chosen |= {"residues_per_protein": self.residues_per_protein, "seed": self.seed}
        return chosen

    def budget(self, encoder: "Encoder") -> int:
        """Return the token budget of a batch on the encoder's device."""
        return self.batch_tokens or encoder.default_batch_tokens

    def provenance(self, encoder: "Encoder") -> Provenance:
        """Return what the rows are that ``encoder`` makes under these options."""
        return Provenance(
            encoder=encoder.name,
            encoder_note=encoder.note,
            weights_sha256=encoder.weights_sha256,
            layer=encoder.layer_number(self.layer),
            pooling=self.pooling,
            precision=encoder.precision,
        )

    def embedded_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Return how many residues of sequences are embedded: 0 of those that are left out."""
        if self.max_length is None or self.long_sequences == "window":
            return lengths
        if self.long_sequences == "truncate":
            return np.minimum(lengths, self.max_length)
        return np.where(lengths > self.max_length, 0, lengths)

    def kept(self, lengths: np.ndarray, where: str) -> np.ndarray:
        """Return the numbers of the sequences that are not left out.

        Args:
            lengths: residues of each sequence, (N,).
            where: what holds the sequences, for errors.

        Raises:
            InputError: all are left out.
        """
        kept = np.flatnonzero(self.embedded_lengths(lengths))
        if not len(kept):
            raise InputError(
                f"{where}: all of its {len(lengths)} sequences have more than {self.max_length} "
                "residues and are skipped; set a greater max_length, or truncate or window them"
            )
        return kept


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} '{value}': expected one of {', '.join(known)}")
