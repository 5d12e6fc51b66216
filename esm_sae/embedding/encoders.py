"""Encoders by name, and the one interface behind which they stand."""

import functools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np

from esm_sae import storage
from esm_sae.embedding.batching import batches, default_batch_tokens, pad
from esm_sae.embedding.imported import import_builder, is_imported_name
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.passes import Passes, State
from esm_sae.embedding.residues import all_residues, spread
from esm_sae.embedding.tokens import SPECIAL_TOKENS, Vocabulary
from esm_sae.embedding.windows import whole_pieces
from esm_sae.errors import InputError
from esm_sae.progress import LOGGER

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16")


class Backbone(Protocol):
    """A protein language model as the encoder drives it.

    One that does not compute PAD says so with an attribute ``packs = True``; one with a sequence
    head is a ``HeadedBackbone``.

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


class HeadedBackbone(Backbone, Protocol):
    """A backbone that goes on to its masked-language-model head: one with ``logits`` is one.

    Its vocabulary has a MASK.
    """

    def logits(
        self,
        tokens: "torch.Tensor",
        *,
        layer: int,
        replace: "Replace",
        padded: bool,
    ) -> "list[torch.Tensor]":
        """Go on from replaced states of a layer to the head.

        Args:
            tokens: token ids (B, T), filled up with PAD.
            layer: as in ``states``; from B on only the head is left.
            replace: takes the layer's states of all tokens but PAD, one sequence after the
                other, (N, D), which it leaves as they are, and yields versions of them.
            padded: as in ``states``.

        Returns:
            For each version the logits of these tokens over the whole vocabulary, (N, V).
        """
        ...


Builder = Callable[[storage.PathLike | None, "torch.device"], Backbone]
Replace = Callable[["torch.Tensor"], Iterable["torch.Tensor"]]


class Size(NamedTuple):
    """The size of a transformer."""

    width: int
    heads: int
    blocks: int


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
        _require_states(states, (*tokens.shape, self.width), self.name)
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


def load_encoder(
    name: str,
    *,
    weights: storage.PathLike | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> Encoder:
    """Load an encoder by its name.

    Args:
        name: ``esmc_300m``, ``esmc_600m``, ``esmc_demo`` (bundled weights), one of these with
            ``_untrained`` (seeded random weights, to compare with), one that was registered, or
            ``package.module:function``, which is imported.
        weights: path of a ``.pth`` or ``.safetensors`` file; None takes those that belong to
            the name, from the model hub where they are not part of the package. An encoder of
            somebody's own code may read it as something else.
        device: such as ``"cpu"`` or ``"cuda:0"``; None takes a CUDA device where there is one.
        precision: ``"float32"``, ``"bfloat16"`` (autocast), or ``"auto"``: bfloat16 on a CUDA
            device and float32 elsewhere. bfloat16 on a CPU that does not compute in it is warned
            of: it is slower than float32.

    Raises:
        InputError: unknown name, precision or device; weights that are not to be had, or that
            do not fit the encoder tensor by tensor; code that cannot be imported, or does not
            build a ``Backbone``.
    """
    build = _builder_of(name)
    if precision not in PRECISIONS:
        raise InputError(f"precision '{precision}': expected one of {', '.join(PRECISIONS)}")
    chosen = _device(device)
    if precision == "auto":
        precision = "bfloat16" if chosen.type == "cuda" else "float32"
    elif precision == "bfloat16" and chosen.type == "cpu" and not _cpu_has_bfloat16():
        LOGGER.warning("this CPU has no instructions for bfloat16; float32 is faster on it")
    backbone = build(weights, chosen)
    _require_backbone(backbone, name)
    return Encoder(name, backbone, device=chosen, precision=precision)


def require_encoder(name: str) -> None:
    """Check that there is an encoder of a name, without loading it.

    Raises:
        InputError: there is none; or it is code that cannot be imported.
    """
    _builder_of(name)


def untrained_name(name: str) -> str:
    """Return the name of an encoder's untrained twin: its size, with seeded random weights."""
    return f"{name}_untrained"


def known_size(name: str) -> Size | None:
    """Return the size of an encoder of this package without loading it; None of any other."""
    return _SIZES.get(name)


def canonical_layer(layer: int, name: str, blocks: int) -> int:
    """Return the number 0..B of a layer of an encoder with B blocks; -1 is B.

    Raises:
        InputError: there is no such layer.
    """
    if not -1 <= layer <= blocks:
        raise InputError(f"layer {layer}: {name} has layers 0 to {blocks} (-1 is the last)")
    return blocks if layer == -1 else layer


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


def _builder_of(name: str) -> Builder:
    if name in _BUILDERS:
        return _BUILDERS[name]
    if is_imported_name(name):
        return import_builder(name)
    raise InputError(
        f"encoder '{name}': expected one of {', '.join(encoder_names())}, or one of your own as "
        "package.module:function"
    )


def _require_backbone(backbone: object, encoder: str) -> None:
    """Check what a builder gives: one that is registered or imported may be anybody's."""
    expected = {
        "width": (int, "a whole number"),
        "blocks": (int, "a whole number"),
        "note": (str, "a text"),
        "weights_sha256": (str, "a text"),
        "vocabulary": (Vocabulary, "a Vocabulary"),
    }
    for name, (kind, described) in expected.items():
        if not isinstance(getattr(backbone, name, None), kind):
            raise InputError(
                f"encoder '{encoder}': what was built for it, a {type(backbone).__name__}, has no "
                f"{name} that is {described}; correct it (docs/encoders.md)"
            )
    if not callable(getattr(backbone, "states", None)):
        raise InputError(
            f"encoder '{encoder}': what was built for it, a {type(backbone).__name__}, has no "
            "method states(); correct it (docs/encoders.md)"
        )


def _require_states(states: object, expected: tuple[int, ...], encoder: str) -> None:
    """Check what a backbone gives: a registered one may be anybody's."""
    import torch

    from esm_sae.embedding.torch_files import is_dense

    if not isinstance(states, torch.Tensor):
        found = f"a {type(states).__name__}"
    elif not is_dense(states):
        found = f"{states.dtype}, {states.layout}, on {states.device}"
    elif states.shape != expected:
        found = f"shape {tuple(states.shape)}"
    else:
        return
    raise InputError(
        f"encoder '{encoder}': its states() gives {found}, expected a dense floating-point tensor "
        f"of shape {expected} (sequences, tokens with BOS and EOS, width); correct it"
    )


def _device(name: str | None) -> "torch.device":
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings(action="ignore"):
            device = torch.device(name)
            # Read back: the meta device has room for all values and keeps none.
            torch.ones(2, device=device).sum().item()
    # Kinds that are not there raise whatever they come upon.
    except Exception as error:
        # Of other kinds torch says at length how it is made of parts.
        is_cuda = re.fullmatch(r"cuda(:\d+)?", name) is not None
        reason = f" ({str(error).splitlines()[0]})" if is_cuda and str(error) else ""
        found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            found.append("mps")
        raise InputError(
            f"device '{name}': not to be had here{reason}; name one of {', '.join(found)}"
        ) from None
    return device


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16; True where torch cannot tell."""
    import torch

    # Not in torch 2.9.
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _esmc(
    weights: storage.PathLike | None,
    device: "torch.device",
    *,
    size: Size,
    hub: tuple[Sequence[str], str] | None,
) -> Backbone:
    from esm_sae.embedding.esmc import load_esmc

    return load_esmc(*size, weights=weights, hub=hub, device=device)


def _demo(weights: storage.PathLike | None, device: "torch.device") -> Backbone:
    from esm_sae.data import bundled_encoder

    backbone = _esmc(weights or bundled_encoder(), device, size=_DEMO_SIZE, hub=None)
    backbone.note = "a small demonstration model"
    return backbone


def _from_hub(model: str) -> tuple[list[str], str]:
    publishers = ("EvolutionaryScale", "biohub")
    file = f"data/weights/{model.replace('-', '_')}_2024_12_v0.pth"
    return [f"{publisher}/{model}-2024-12" for publisher in publishers], file


_DEMO_SIZE = Size(width=256, heads=4, blocks=3)
_TRAINED_SIZES = {
    "esmc_300m": Size(width=960, heads=15, blocks=30),
    "esmc_600m": Size(width=1152, heads=18, blocks=36),
    "esmc_demo": _DEMO_SIZE,
}
_UNTRAINED_SIZES = {untrained_name(name): size for name, size in _TRAINED_SIZES.items()}
_SIZES = _TRAINED_SIZES | _UNTRAINED_SIZES

_BUILDERS: dict[str, Builder] = {
    "esmc_300m": functools.partial(_esmc, size=_SIZES["esmc_300m"], hub=_from_hub("esmc-300m")),
    "esmc_600m": functools.partial(_esmc, size=_SIZES["esmc_600m"], hub=_from_hub("esmc-600m")),
    "esmc_demo": _demo,
    **{
        name: functools.partial(_esmc, size=size, hub=None)
        for name, size in _UNTRAINED_SIZES.items()
    },
}
