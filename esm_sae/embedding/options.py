"""What the rows of an embedding are to be."""

from dataclasses import dataclass
from typing import Any

from esm_sae.embedding.encoders import DEFAULT_BATCH_TOKENS, Encoder
from esm_sae.errors import InputError
from esm_sae.formats.shards import Provenance

ROWS = ("mean", "residue")
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class EmbeddingOptions:
    """What a row is and how it is stored.

    Attributes:
        rows: ``"mean"``, one row per protein, or ``"residue"``, one per residue.
        residues_per_protein: with residue rows, how many residues of each protein are drawn
            without replacement; None takes all.
        layer: layer number 0..B as in ``Encoder.layer_number``; -1 is B, after the final norm.
        dtype: ``"float32"`` or ``"float16"``.
        batch_tokens: most tokens of a batch, padding included. It changes the rows in their
            last bits only.
        max_length: longer sequences are cut off after this many residues; None cuts none.
        seed: of the drawn residues.
    """

    rows: str = "mean"
    residues_per_protein: int | None = None
    layer: int = -1
    dtype: str = "float32"
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    max_length: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows not in ROWS:
            raise InputError(f"rows '{self.rows}': expected one of {', '.join(ROWS)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype '{self.dtype}': expected one of {', '.join(DTYPES)}")
        if self.residues_per_protein is not None and self.rows != "residue":
            raise InputError("residues_per_protein needs residue rows, these are mean rows")
        for name in ("residues_per_protein", "batch_tokens", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} {value}: expected 1 or more")

    def determinants(self) -> dict[str, Any]:
        """Return what of the options decides the bytes of the rows.

        ``batch_tokens`` is among them: other shapes of batches round differently.
        """
        chosen: dict[str, Any] = {
            "rows": self.rows,
            "dtype": self.dtype,
            "batch_tokens": self.batch_tokens,
            "max_length": self.max_length,
        }
        if self.residues_per_protein is not None:
            chosen |= {"residues_per_protein": self.residues_per_protein, "seed": self.seed}
        return chosen

    def provenance(self, encoder: Encoder) -> Provenance:
        """Return what the rows are that ``encoder`` makes under these options."""
        return Provenance(
            encoder=encoder.name,
            encoder_note=encoder.note,
            weights_sha256=encoder.weights_sha256,
            layer=encoder.layer_number(self.layer),
            pooling=self.rows,
            precision=encoder.precision,
        )

    def used_length(self, length: int) -> int:
        """Return how many of a sequence's residues are embedded."""
        return length if self.max_length is None else min(length, self.max_length)
