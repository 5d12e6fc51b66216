"""Encoders by name, and the one interface behind which they stand."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from esm_sae import storage
from esm_sae.embedding.batching import pad, token_batches
from esm_sae.embedding.tokens import SPECIAL_TOKENS, Vocabulary
from esm_sae.errors import InputError

if TYPE_CHECKING:
    import torch

DEFAULT_BATCH_TOKENS = 4096
PRECISIONS = ("auto", "float32", "bfloat16")


class Backbone(Protocol):
    """A protein language model as the encoder drives it.

    Attributes:
        width: D, the width of a state.
        blocks: B, the number of transformer blocks.
        note: what a reader of any result must know of it; else empty.
        weights_sha256: hash of the weights.
        vocabulary: its token ids.
    """

    width: int
    blocks: int
    note: str
    weights_sha256: str
    vocabulary: Vocabulary

    def states(self, tokens: "torch.Tensor", *, layer: int, padded: bool) -> "torch.Tensor":
        """Return the states of a layer, (B, T, D), for token ids (B, T).

        Args:
            tokens: token ids, filled up with PAD.
            layer: 0 the token embeddings, N < B the output of block N-1, B the output after the
                final norm. Nothing beyond the layer is computed.
            padded: whether ``tokens`` holds PAD.
        """
        ...


Builder = Callable[[storage.PathLike | None, "torch.device"], Backbone]


class Batch(NamedTuple):
    """The rows of one batch of b sequences.

    Attributes:
        numbers: which sequences these are, (b,).
        means: mean over all residues of each, (b, D) float32.
        residues: states of the wanted residues, sequence by sequence, (R, D) float32; None
            where none are wanted.
        tokens: number of tokens computed, padding included.
    """

    numbers: np.ndarray
    means: np.ndarray
    residues: np.ndarray | None
    tokens: int


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

    def layer_number(self, layer: int) -> int:
        """Return the canonical number of a layer, 0..B; -1 is B.

        Layers are numbered as Biohub's SAEs are: 0 the token embeddings, N < B the output of
        block N-1 before the norm, B the output after the final norm.

        Raises:
            InputError: there is no such layer.
        """
        if not -1 <= layer <= self.blocks:
            raise InputError(
                f"layer {layer}: {self.name} has layers 0 to {self.blocks} (-1 is the last)"
            )
        return self.blocks if layer == -1 else layer

    def embed(
        self,
        sequences: Sequence[str],
        *,
        pooling: str = "mean",
        layer: int = -1,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> np.ndarray:
        """Embed sequences; rows come in the order of the sequences.

        Args:
            sequences: N amino-acid sequences.
            pooling: ``"mean"``, one row per sequence, or ``"residue"``, the rows of all
                residues, one sequence after the other.
            layer: as in ``layer_number``.
            batch_tokens: most tokens of a batch, padding included.

        Returns:
            (N, D) float32, or (R, D) with R the number of residues of all sequences.

        Raises:
            InputError: no such layer or pooling; an empty sequence; not residue letters.
        """
        if pooling not in ("mean", "residue"):
            raise InputError(f"pooling '{pooling}': expected mean or residue")
        per_residue = pooling == "residue"
        sizes = [len(sequence) if per_residue else 1 for sequence in sequences]
        first_row = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        rows = np.empty((int(first_row[-1]), self.width), dtype=np.float32)
        wanted = [np.arange(size) for size in sizes] if per_residue else None
        for batch in self.batches(
            sequences, layer=layer, batch_tokens=batch_tokens, positions=wanted
        ):
            found = batch.means if batch.residues is None else batch.residues
            rows[rows_of(batch.numbers, first_row)] = found
        return rows

    def batches(
        self,
        sequences: Sequence[str],
        *,
        layer: int,
        batch_tokens: int,
        positions: Sequence[np.ndarray] | None = None,
    ) -> Iterator[Batch]:
        """Embed sequences batch by batch, in the order that wastes least on padding.

        Args:
            sequences: N amino-acid sequences.
            layer: as in ``layer_number``.
            batch_tokens: most tokens of a batch, padding included.
            positions: for each sequence the residues, counted from 0, whose own states are
                wanted beside the mean.
        """
        number_of_layer = self.layer_number(layer)
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        for numbers in token_batches(lengths + SPECIAL_TOKENS, batch_tokens):
            wanted = None if positions is None else [positions[number] for number in numbers]
            chosen = [sequences[int(number)] for number in numbers]
            yield self._batch(chosen, numbers, wanted, number_of_layer)

    def _batch(
        self,
        sequences: Sequence[str],
        numbers: np.ndarray,
        positions: list[np.ndarray] | None,
        layer: int,
    ) -> Batch:
        import torch

        from esm_sae.embedding.pooling import mean_of_residues, rows_of_residues

        vocabulary = self.backbone.vocabulary
        ids = [vocabulary.encode(sequence).ids for sequence in sequences]
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=self.device)
        tokens = torch.from_numpy(pad(ids, vocabulary.pad)).to(self.device)
        padded = len({len(sequence) for sequence in sequences}) > 1
        autocast = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"
        )
        with torch.inference_mode():
            with autocast:
                states = self.backbone.states(tokens, layer=layer, padded=padded)
            means = mean_of_residues(states, lengths).cpu().numpy()
            residues = None
            if positions is not None:
                residues = rows_of_residues(states, positions).cpu().numpy()
        return Batch(numbers, means, residues, tokens.numel())


def rows_of(numbers: np.ndarray, first_row: np.ndarray) -> np.ndarray:
    """Return the row numbers of sequences, one sequence after the other.

    Args:
        numbers: numbers of the sequences.
        first_row: first row of each of N sequences and the number of rows at the end, (N + 1,).
    """
    bounds = zip(first_row[numbers].tolist(), first_row[numbers + 1].tolist(), strict=True)
    return np.concatenate([np.arange(first, end) for first, end in bounds])


def load_encoder(
    name: str,
    *,
    weights: storage.PathLike | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> Encoder:
    """Load an encoder by its name.

    Args:
        name: ``esmc_300m``, ``esmc_600m``, ``esmc_demo`` or one that was registered.
        weights: path of a ``.pth`` or ``.safetensors`` file; None takes those that belong to
            the name, from the model hub where they are not part of the package.
        device: such as ``"cpu"`` or ``"cuda:0"``; None takes a CUDA device where there is one.
        precision: ``"float32"``, ``"bfloat16"`` (autocast), or ``"auto"``: bfloat16 on a CUDA
            device and float32 elsewhere.

    Raises:
        InputError: unknown name, precision or device; weights that are not to be had, or that
            do not fit the encoder tensor by tensor.
    """
    if name not in _BUILDERS:
        raise InputError(f"encoder '{name}': expected one of {', '.join(encoder_names())}")
    if precision not in PRECISIONS:
        raise InputError(f"precision '{precision}': expected one of {', '.join(PRECISIONS)}")
    chosen = _device(device)
    if precision == "auto":
        precision = "bfloat16" if chosen.type == "cuda" else "float32"
    return Encoder(name, _BUILDERS[name](weights, chosen), device=chosen, precision=precision)


def register_encoder(name: str, build: Builder) -> None:
    """Make an encoder known by a name.

    Args:
        name: the name; an encoder of that name is replaced.
        build: makes the backbone from the path of its weights (or None) and a device.
    """
    _BUILDERS[name] = build


def encoder_names() -> list[str]:
    """Return the names that ``load_encoder`` knows."""
    return list(_BUILDERS)


def _device(name: str | None) -> "torch.device":
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device '{name}': not to be had here ({reason})") from None
    return device


def _esmc(
    weights: storage.PathLike | None,
    device: "torch.device",
    *,
    size: tuple[int, int, int],
    hub: tuple[str, str] | None,
) -> Backbone:
    from esm_sae.embedding.esmc import load_esmc

    return load_esmc(*size, weights=weights, hub=hub, device=device)


def _from_hub(model: str) -> tuple[str, str]:
    file = f"data/weights/{model.replace('-', '_')}_2024_12_v0.pth"
    return f"EvolutionaryScale/{model}-2024-12", file


_BUILDERS: dict[str, Builder] = {
    "esmc_300m": functools.partial(_esmc, size=(960, 15, 30), hub=_from_hub("esmc-300m")),
    "esmc_600m": functools.partial(_esmc, size=(1152, 18, 36), hub=_from_hub("esmc-600m")),
    "esmc_demo": functools.partial(_esmc, size=(256, 4, 3), hub=None),
}
