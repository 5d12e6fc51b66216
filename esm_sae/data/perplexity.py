"""Perplexity of hidden residues under an ESM-C."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from esm.models.esmc import ESMC
from esm.tokenization import EsmSequenceTokenizer
from torch.nn import functional as F

from esm_sae.data.masked_residues import (
    AMINO_ACIDS,
    Alphabet,
    Masked,
    Rows,
    mask_for_testing,
    pack,
)

_HIDDEN_SHARE = 0.15


def perplexity(
    model: ESMC,
    proteins: Sequence[np.ndarray],
    *,
    width: int,
    rows: int,
    batches: int | None = None,
) -> float:
    """Return the perplexity of masked residues: exp of their mean cross-entropy in nats.

    15% of the residues of the proteins, laid into rows, are hidden, the same ones at every call.

    Args:
        model: the encoder.
        proteins: token ids of each protein.
        width: T, tokens of a row.
        rows: rows of a batch.
        batches: how many batches are looked at; None takes all.
    """
    total, count = 0.0, 0
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in itertools.islice(hidden_batches(proteins, width=width, rows=rows), batches):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits = logits_of(model, batch)
            residues = torch.from_numpy(batch.residues).to(device)
            total += F.cross_entropy(logits.double(), residues, reduction="sum").item()
            count += len(residues)
    model.train(was_training)
    return math.exp(total / count)


def hidden_batches(proteins: Sequence[np.ndarray], *, width: int, rows: int) -> Iterator[Masked]:
    """Yield rows in a shuffled order with 15% of their residues hidden, always the same ones."""
    order = np.random.default_rng(0).permutation(len(proteins))
    packed = pack(proteins, order, width)
    alphabet = alphabet_of(tokenizer())
    for start in range(0, len(packed.tokens), rows):
        chosen = Rows(*(part[start : start + rows] for part in packed))
        yield mask_for_testing(chosen, _HIDDEN_SHARE, alphabet, np.random.default_rng([0, start]))


def logits_of(model: ESMC, batch: Masked) -> torch.Tensor:
    """Return the logits of the residues to predict, (M, 64) float32."""
    device = next(model.parameters()).device
    states = model.embed(torch.from_numpy(batch.tokens).to(device))
    # Equal numbers attend to one another: ESM-C takes the owners for its mask.
    owners = torch.from_numpy(batch.proteins).to(device)
    for block in model.transformer.blocks:
        states = block(states, owners, None, None, None)
    chosen = model.transformer.norm(states).flatten(0, 1)[torch.from_numpy(batch.where).to(device)]
    return model.sequence_head(chosen).float()


def tokenizer() -> EsmSequenceTokenizer:
    """Return esm's tokenizer."""
    return EsmSequenceTokenizer()


def alphabet_of(tokens: EsmSequenceTokenizer) -> Alphabet:
    """Return the token ids that masking needs."""
    ids = cast(dict[str, int], cast(Any, tokens).get_vocab())
    return Alphabet(np.array([ids[letter] for letter in AMINO_ACIDS]), ids["<mask>"])
