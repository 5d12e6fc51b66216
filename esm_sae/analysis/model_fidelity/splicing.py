"""Forward passes of a language model with the states of one layer replaced."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from esm_sae.formats.parent_check import Reconstructing

if TYPE_CHECKING:
    import torch

RUNS = ("clean", "spliced", "mean", "zero")
# Whose states are replaced, by the runs but the clean one: of all residues, of those shown.
PLACES = ("all", "unmasked")
PASSES = ("clean", *(f"{run}:{place}" for place in PLACES for run in RUNS[1:]))


class SplicedSAE(Reconstructing, Protocol):
    """An SAE as far as it is spliced into a model."""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and of what else decides an encoding."""
        ...


class LanguageModel(Protocol):
    """A masked protein language model that can go on from a layer's states; ``Encoder`` is one."""

    name: str
    precision: str
    device: "torch.device"

    @property
    def width(self) -> int:
        """D, the width of a state."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights."""
        ...

    @property
    def note(self) -> str:
        """What a reader of any result must know of the model; else empty."""
        ...

    @property
    def default_batch_tokens(self) -> int:
        """Most tokens of a batch where nothing else is asked for."""
        ...

    @property
    def mask(self) -> int:
        """The token id that hides a residue."""
        ...

    def layer_number(self, layer: int) -> int:
        """Return the canonical number of a layer, 0..B; -1 is B."""
        ...

    def token_ids(self, sequence: str) -> np.ndarray:
        """Return BOS, one token per residue and EOS, (L + 2,) int64."""
        ...

    def batches(
        self, lengths: np.ndarray, *, batch_tokens: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the numbers of the sequences that go through the model together."""
        ...

    def embed(
        self,
        sequences: Sequence[str],
        *,
        pooling: str = "mean",
        layer: int = -1,
        batch_tokens: int | None = None,
    ) -> np.ndarray:
        """Return one row per sequence, (N, D) float32."""
        ...

    def logits(
        self,
        ids: Sequence[np.ndarray],
        *,
        layer: int,
        replace: "Callable[[torch.Tensor], Iterable[torch.Tensor]]",
    ) -> "list[torch.Tensor]":
        """Return logits (N, V) of all tokens for each version of the layer's states."""
        ...


class Outcome(NamedTuple):
    """What each of the ``PASSES`` makes of M masked residues.

    Attributes:
        cross_entropy: in nats, over the whole vocabulary, (M, 7) float64.
        hit: whether the residue has the largest logit, (M, 7) bool.
        divergence: KL(clean || pass) in nats, (M, 7) float64.
    """

    cross_entropy: np.ndarray
    hit: np.ndarray
    divergence: np.ndarray


def predict_hidden(
    model: LanguageModel,
    sae: Reconstructing,
    ids: Sequence[np.ndarray],
    hidden: Sequence[np.ndarray],
    *,
    layer: int,
    mean: np.ndarray,
) -> Outcome:
    """Hide residues of one batch and predict them in each of the ``PASSES``.

    The states of BOS and EOS are left as they are in all of them.

    Args:
        model: the language model.
        sae: the SAE.
        ids: token ids of each protein, with BOS and EOS.
        hidden: positions to hide in each protein, from 0.
        layer: canonical layer number.
        mean: the state that the mean ablation puts in, (D,).

    Returns:
        The masked residues come in the order of the proteins and their positions.

    Raises:
        InputError: as ``Encoder.logits``.
    """
    import torch

    shown = [_masked(tokens, at, model.mask) for tokens, at in zip(ids, hidden, strict=True)]
    is_residue = np.concatenate([_residues(tokens) for tokens in ids])
    ends = np.cumsum([len(tokens) for tokens in ids])
    starts = ends - [len(tokens) for tokens in ids]
    where = np.concatenate([start + 1 + at for start, at in zip(starts, hidden, strict=True)])
    truth = np.concatenate([tokens[at + 1] for tokens, at in zip(ids, hidden, strict=True)])
    is_shown = is_residue.copy()
    is_shown[where] = False

    def versions(states: torch.Tensor) -> Iterator[torch.Tensor]:
        device = states.device
        residue, unmasked = (torch.from_numpy(part).to(device) for part in (is_residue, is_shown))
        yield states
        again = states.clone()
        rows = sae.reconstruct(states[residue].cpu().numpy())
        again[residue] = torch.from_numpy(np.asarray(rows, dtype=np.float32)).to(device)
        contents = (
            again,
            torch.from_numpy(mean.astype(np.float32)).to(device)[None],
            states.new_zeros(1, 1),
        )
        for replaced in (residue, unmasked):
            for content in contents:
                yield torch.where(replaced[:, None], content, states)

    passes = model.logits(shown, layer=layer, replace=versions)
    at = torch.from_numpy(where).to(passes[0].device)
    # Of the masked residues alone, so that double precision costs nothing.
    return _compare([each[at].cpu().double() for each in passes], torch.from_numpy(truth))


def _compare(passes: "list[torch.Tensor]", truth: "torch.Tensor") -> Outcome:
    import torch

    logs = torch.stack(passes, dim=1).log_softmax(dim=-1)
    clean = logs[:, :1]
    count, runs, _ = logs.shape
    entropy = -logs.gather(2, truth[:, None, None].expand(count, runs, 1))[..., 0]
    divergence = (clean.exp() * (clean - logs)).sum(dim=-1)
    hit = logs.argmax(dim=-1) == truth[:, None]
    return Outcome(entropy.numpy(), hit.numpy(), divergence.numpy())


def _masked(tokens: np.ndarray, at: np.ndarray, mask: int) -> np.ndarray:
    shown = tokens.copy()
    shown[at + 1] = mask
    return shown


def _residues(tokens: np.ndarray) -> np.ndarray:
    inside = np.ones(len(tokens), dtype=bool)
    inside[[0, -1]] = False
    return inside
