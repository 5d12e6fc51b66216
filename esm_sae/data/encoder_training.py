"""Training a small ESM-C by masked-residue prediction."""

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from esm.models.esmc import ESMC
from torch.nn import functional as F

from esm_sae import storage
from esm_sae.data.masked_residues import Masked, training_batches
from esm_sae.data.perplexity import alphabet_of, logits_of, perplexity, tokenizer
from esm_sae.embedding.torch_files import read_torch_file
from esm_sae.errors import InputError
from esm_sae.progress import LOGGER, progress

_STEPS_BETWEEN_LOOKS, _BATCHES_OF_A_LOOK = 250, 16


@dataclass(frozen=True)
class TrainingOptions:
    """How the encoder is trained.

    Attributes:
        width: D, the width of a state.
        heads: attention heads.
        blocks: B, transformer blocks.
        steps: optimizer steps.
        row_tokens: T, tokens of a row.
        rows: rows of a step.
        masked_share: of the residues, how many are to be predicted.
        matrix_rate: peak learning rate of the blocks' matrices (Muon, Jordan et al. 2024,
            https://kellerjordan.github.io/posts/muon).
        other_rate: peak learning rate of embeddings, head and norms (AdamW).
        weight_decay: of the blocks' matrices.
        warmup: steps in which the rates rise from 0.
        decay: share of the steps, at the end, in which the rates fall to 0.
        seed: of initial weights, order and masks.
    """

    width: int = 256
    heads: int = 4
    blocks: int = 3
    steps: int = 2_800
    row_tokens: int = 256
    rows: int = 32
    masked_share: float = 0.2
    matrix_rate: float = 0.02
    other_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 100
    decay: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps {self.steps}: expected 1 or more")


def train_encoder(
    proteins: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    options: TrainingOptions,
    *,
    device: str,
    state: Path,
) -> tuple[ESMC, list[dict[str, Any]]]:
    """Train an ESM-C by masked-residue prediction; go on where a killed run stopped.

    The forward pass runs in bfloat16 (autocast), weights and optimizers in float32. On one
    machine the same proteins and options give the same weights.

    Args:
        proteins: token ids of each protein to train on.
        held_out: token ids of the proteins that watch it, never trained on.
        options: size, length and rates.
        device: such as ``"cpu"`` or ``"cuda"``.
        state: file in which the state of training is kept every now and then.

    Returns:
        The model and its curve: ``step``, ``train_perplexity`` since the last entry,
        ``held_out_perplexity``.

    Raises:
        InputError: the state is of another run, or the loss is no longer finite.
    """
    model = new_model(options).to(device).train()
    optimizers = _optimizers(model, options)
    curve, first = _resume(state, model, optimizers, options)
    batches = training_batches(
        proteins,
        width=options.row_tokens,
        rows=options.rows,
        share=options.masked_share,
        alphabet=alphabet_of(tokenizer()),
        seed=options.seed,
        first=first,
    )
    watched = functools.partial(
        perplexity,
        proteins=held_out,
        width=options.row_tokens,
        rows=options.rows,
        batches=_BATCHES_OF_A_LOOK,
    )
    losses = []
    with progress(options.steps, unit="steps", description="training", start=first) as shown:
        for step in range(first, options.steps):
            _set_rates(optimizers, options, step)
            losses.append(_take_step(model, optimizers, next(batches), step))
            shown.update(1)
            if (step + 1) % _STEPS_BETWEEN_LOOKS and step + 1 < options.steps:
                continue
            seen = {
                "step": step + 1,
                "train_perplexity": round(math.exp(np.mean(losses)), 3),
                "held_out_perplexity": round(watched(model), 3),
            }
            LOGGER.info("%s", seen)
            curve.append(seen)
            losses.clear()
            _keep(state, model, optimizers, options, curve)
    return model.eval(), curve


def new_model(options: TrainingOptions) -> ESMC:
    """Return an ESM-C with seeded initial weights.

    Matrices of the blocks are normal with variance 1 / (2 fan-in), the others with deviation
    0.02; norms are the identity, other biases 0.
    """
    model = ESMC(
        options.width, options.heads, options.blocks, tokenizer(), use_flash_attn=False
    ).requires_grad_(True)
    generator = torch.Generator().manual_seed(options.seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            of_block = _is_matrix_of_block(name, parameter)
            deviation = math.sqrt(0.5 / parameter.shape[1]) if of_block else 0.02
            torch.nn.init.normal_(parameter, std=deviation, generator=generator)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return model


def _is_matrix_of_block(name: str, parameter: torch.Tensor) -> bool:
    return name.startswith("transformer.blocks") and parameter.ndim == 2


def _optimizers(model: ESMC, options: TrainingOptions) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if _is_matrix_of_block(name, parameter) else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=options.matrix_rate, weight_decay=options.weight_decay),
        torch.optim.AdamW(others, lr=options.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _set_rates(
    optimizers: list[torch.optim.Optimizer], options: TrainingOptions, step: int
) -> None:
    rise = (step + 1) / options.warmup
    fall = (options.steps - step) / (options.steps * options.decay)
    peaks = (options.matrix_rate, options.other_rate)
    for optimizer, peak in zip(optimizers, peaks, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(rise, 1.0, fall)


def _take_step(
    model: ESMC, optimizers: list[torch.optim.Optimizer], batch: Masked, step: int
) -> float:
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits = logits_of(model, batch)
    loss = F.cross_entropy(logits, torch.from_numpy(batch.residues).to(device))
    value = loss.item()
    if not math.isfinite(value):
        raise InputError(f"step {step + 1}: the loss is {value}; lower the learning rates")
    model.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return value


def _keep(
    state: Path,
    model: ESMC,
    optimizers: list[torch.optim.Optimizer],
    options: TrainingOptions,
    curve: list[dict[str, Any]],
) -> None:
    content = {
        "options": asdict(options),
        "curve": curve,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    with storage.publish(state) as temporary:
        torch.save(content, temporary)


def _resume(
    state: Path,
    model: ESMC,
    optimizers: list[torch.optim.Optimizer],
    options: TrainingOptions,
) -> tuple[list[dict[str, Any]], int]:
    if not state.exists():
        return [], 0
    content = read_torch_file(state)
    if content["options"] != asdict(options):
        raise InputError(f"{state}: the state of another training; remove it to start anew")
    model.load_state_dict(content["model"])
    for optimizer, saved in zip(optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return content["curve"], content["curve"][-1]["step"]
