"""ESM-C: the esm package's own class and weights, run only as far as the wanted layer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from esm.layers.rotary import RotaryEmbedding
from esm.models.esmc import ESMC
from esm.tokenization import EsmSequenceTokenizer
from torch.nn import functional

from esm_sae import storage
from esm_sae.embedding.esmc_forward import (
    Block,
    Packing,
    pack,
    run_blocks,
    take_blocks,
    take_norm,
    unpack,
)
from esm_sae.embedding.random_weights import UNTRAINED, random_weights
from esm_sae.embedding.tokens import Vocabulary
from esm_sae.embedding.weights import fetch_weights, hash_of, load_strictly, read_weights


class ESMCBackbone:
    """An ``ESMC`` model behind the interface of ``encoders.Backbone``.

    The first batch settles the precision: under autocast to bfloat16 the weights of the blocks'
    linear layers are converted to it, once, and so take half the memory.
    """

    packs = True

    def __init__(self, model: ESMC, *, weights_sha256: str, note: str) -> None:
        self.width = model.embed.embedding_dim
        self.blocks = len(model.transformer.blocks)
        self.note = note
        self.weights_sha256 = weights_sha256
        self.vocabulary = vocabulary_of(model.tokenizer)
        self.model = model
        self._rotary = cast(Any, model.transformer.blocks[0]).attn.rotary
        self._held: tuple[torch.dtype, list[Block]] | None = None

    def states(self, tokens: torch.Tensor, *, layer: int, padded: bool) -> torch.Tensor:
        """Return the states of a layer, (B, T, D) float32, for token ids (B, T).

        ``ESMC.forward`` computes PAD too, stacks the states of all layers and runs the sequence
        head. States of PAD are zero here.
        """
        device = tokens.device.type
        blocks = self._blocks_in(_precision(device))
        packing = self._packed(tokens, padded=padded)
        # The forward pass says itself what is computed in which precision.
        with torch.autocast(device, enabled=False):
            states = self._embedded(tokens, packing)
            self._run(states, blocks, packing, 0, layer)
        return unpack(states, packing, (tokens.shape[0], tokens.shape[1]))

    def logits(
        self,
        tokens: torch.Tensor,
        *,
        layer: int,
        replace: Callable[[torch.Tensor], Iterable[torch.Tensor]],
        padded: bool,
    ) -> list[torch.Tensor]:
        """Go on from replaced states of a layer; return logits (N, 64) float32 of each version.

        The sequence head computes in float32 under autocast too.
        """
        device = tokens.device.type
        blocks = self._blocks_in(_precision(device))
        packing = self._packed(tokens, padded=padded)
        count, found = len(packing.places), []
        with torch.autocast(device, enabled=False):
            states = self._embedded(tokens, packing)
            self._run(states, blocks, packing, 0, layer)
            for version in replace(states[:count]):
                # A copy, since blocks overwrite their states.
                going_on = torch.cat([version, states[count:]])
                self._run(going_on, blocks, packing, layer, self.blocks)
                found.append(self.model.sequence_head(going_on)[:count])
        return found

    def _packed(self, tokens: torch.Tensor, *, padded: bool) -> Packing:
        count, width = tokens.shape
        lengths = [width] * count
        if padded:
            lengths = (tokens != self.vocabulary.pad).sum(dim=1).tolist()
        return pack(lengths, width, self._rotary.inv_freq)

    def _embedded(self, tokens: torch.Tensor, packing: Packing) -> torch.Tensor:
        ids = tokens.new_full((len(packing.cos),), self.vocabulary.pad)
        ids[: len(packing.places)] = tokens.flatten()[packing.places]
        return functional.embedding(ids, self.model.embed.weight)

    def _run(
        self, states: torch.Tensor, blocks: list[Block], packing: Packing, first: int, last: int
    ) -> None:
        """Turn packed states of one layer into those of a later one, in place."""
        run_blocks(states, blocks[first:last], packing)
        if first < last == self.blocks:
            states.copy_(take_norm(self.model.transformer.norm)(states))

    def _blocks_in(self, dtype: torch.dtype) -> list[Block]:
        if self._held is None:
            self._held = dtype, take_blocks(self.model.transformer.blocks, dtype)
        held, blocks = self._held
        if held != dtype:
            raise RuntimeError(f"the weights are held in {held} by now; load them anew")
        return blocks


def load_esmc(
    width: int,
    heads: int,
    blocks: int,
    *,
    weights: storage.PathLike | None,
    hub: tuple[Sequence[str], str] | None,
    device: torch.device,
) -> ESMCBackbone:
    """Build an ESM-C and load its weights, every tensor of them and no other.

    Args:
        width: D.
        heads: attention heads.
        blocks: B, transformer blocks.
        weights: path of a ``.pth`` or ``.safetensors`` file; None takes the hub's.
        hub: repositories, tried in turn, and file on the model hub; None means seeded random
            weights.
        device: where the model goes.

    Raises:
        InputError: the weights are not to be had or do not fit.
    """
    # Without memory: the weights that are read take their places.
    with torch.device("meta"):
        model = ESMC(width, heads, blocks, EsmSequenceTokenizer(), use_flash_attn=False)
    note, source = "", weights
    if source is None and hub is not None:
        source = fetch_weights(*hub)
    if source is None:
        note = UNTRAINED
        tensors = random_weights({name: t.shape for name, t in model.state_dict().items()})
    else:
        tensors = read_weights(source)
    load_strictly(model, tensors, source or "random weights")
    for module in model.modules():
        if isinstance(module, RotaryEmbedding):
            module.reset_parameters()
    return ESMCBackbone(model.to(device).eval(), weights_sha256=hash_of(tensors), note=note)


def vocabulary_of(tokenizer: EsmSequenceTokenizer) -> Vocabulary:
    """Return the token ids of esm's tokenizer."""
    return Vocabulary.from_tokenizer(tokenizer)


def _precision(device: str) -> torch.dtype:
    """Return the type that autocast is on for, float32 where it is off."""
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.float32
