"""What an encoder drives: a protein language model behind one protocol, checked as it is used."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from esm_sae.embedding.tokens import Vocabulary
from esm_sae.errors import InputError

if TYPE_CHECKING:
    import torch


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


Replace = Callable[["torch.Tensor"], Iterable["torch.Tensor"]]


def require_backbone(backbone: object, encoder: str) -> None:
    """Check what a builder gives: one that is registered or imported may be anybody's.

    Raises:
        InputError: it is no ``Backbone``.
    """
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


def require_states(states: object, expected: tuple[int, ...], encoder: str) -> None:
    """Check the states that a backbone gives: a registered one may be anybody's.

    Raises:
        InputError: they are anything but a dense floating-point tensor of the expected shape.
    """
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
