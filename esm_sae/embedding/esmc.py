"""ESM-C through the esm package's own class, driven only as far as the wanted layer."""

from typing import Any, cast

import torch
from esm.models.esmc import ESMC
from esm.tokenization import EsmSequenceTokenizer

from esm_sae import storage
from esm_sae.embedding.random_weights import UNTRAINED, random_weights
from esm_sae.embedding.tokens import Vocabulary
from esm_sae.embedding.weights import fetch_weights, hash_of, load_strictly, read_weights


class ESMCBackbone:
    """An ``ESMC`` model behind the interface of ``encoders.Backbone``."""

    def __init__(self, model: ESMC, *, weights_sha256: str, note: str) -> None:
        self.width = model.embed.embedding_dim
        self.blocks = len(model.transformer.blocks)
        self.note = note
        self.weights_sha256 = weights_sha256
        self.vocabulary = vocabulary_of(model.tokenizer)
        self.model = model

    def states(self, tokens: torch.Tensor, *, layer: int, padded: bool) -> torch.Tensor:
        """Return the states of a layer, (B, T, D), for token ids (B, T).

        ``ESMC.forward`` stacks the states of all layers and runs the sequence head; this runs
        the same modules and stops at the layer.
        """
        # PAD attends to PAD only, as in ESMC.forward. Without PAD no mask is needed, and
        # attention without a mask is faster.
        mask = tokens != self.vocabulary.pad if padded else None
        states = self.model.embed(tokens)
        for block in self.model.transformer.blocks[:layer]:
            # Frames and chains belong to the geometric attention, which ESM-C has not.
            states = block(states, mask, None, None, None)
        return self.model.transformer.norm(states) if layer == self.blocks else states


def load_esmc(
    width: int,
    heads: int,
    blocks: int,
    *,
    weights: storage.PathLike | None,
    hub: tuple[str, str] | None,
    device: torch.device,
) -> ESMCBackbone:
    """Build an ESM-C and load its weights, every tensor of them and no other.

    Args:
        width: D.
        heads: attention heads.
        blocks: B, transformer blocks.
        weights: path of a ``.pth`` or ``.safetensors`` file; None takes the hub's.
        hub: repository and file on the model hub; None means seeded random weights.
        device: where the model goes.

    Raises:
        InputError: the weights are not to be had or do not fit.
    """
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
    return ESMCBackbone(model.to(device).eval(), weights_sha256=hash_of(tensors), note=note)


def vocabulary_of(tokenizer: EsmSequenceTokenizer) -> Vocabulary:
    """Return the token ids of esm's tokenizer as a table: far faster than the tokenizer."""
    ids = cast(dict[str, int], cast(Any, tokenizer).get_vocab())
    letters = {token: number for token, number in ids.items() if len(token) == 1}
    return Vocabulary(letters, bos=ids["<cls>"], eos=ids["<eos>"], pad=ids["<pad>"])
