"""The one judge of all contenders of bench_training.py: raw rows, NumPy, nobody's own code."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class Weights:
    """A trained TopK autoencoder.

    With ``x' = x * input_scale``, the pre-activations are ``(x' - pre_bias) @ encoder.T +
    encoder_bias``; the k largest are kept, those above 0; the reconstruction is
    ``(z @ decoder + pre_bias) / input_scale``.

    Attributes:
        encoder: (L, D).
        encoder_bias: (L,).
        pre_bias: (D,).
        decoder: (L, D).
        input_scale: what the contender multiplied rows by.
    """

    encoder: np.ndarray
    encoder_bias: np.ndarray
    pre_bias: np.ndarray
    decoder: np.ndarray
    input_scale: float = 1.0


@dataclass(frozen=True)
class Fidelity:
    """How well rows come back.

    Attributes:
        fvu: ``sum |x - x_hat|^2 / sum |x - mu|^2`` in raw units, mu of the training rows.
        l0: mean number of latents that fire on a row.
        fired: of each row, the latents that fired.
    """

    fvu: float
    l0: float
    fired: list[np.ndarray]


def load(path: Path) -> Weights:
    """Read what a contender has saved."""
    with np.load(path) as arrays:
        content = {name: arrays[name].astype(np.float32) for name in arrays.files}
    scale = float(content.pop("input_scale", np.float32(1)))
    return Weights(**content, input_scale=scale)


def measure(weights: Weights, rows: np.ndarray, mean: np.ndarray, k: int) -> Fidelity:
    """Encode and decode held-out rows, (N, D), with ``mean`` that of the training rows."""
    missed = total = 0.0
    fired: list[np.ndarray] = []
    for block, values, latents in _encoded(weights, rows, k):
        codes = np.zeros((len(block), len(weights.encoder)), dtype=np.float32)
        np.put_along_axis(codes, latents, values, axis=1)
        decoded = (codes @ weights.decoder + weights.pre_bias) / weights.input_scale
        missed += float(np.sum((block - decoded) ** 2, dtype=np.float64))
        total += float(np.sum((block - mean) ** 2, dtype=np.float64))
        fired += [chosen[on] for chosen, on in zip(latents, values > 0, strict=True)]
    return Fidelity(missed / total, float(np.mean([len(row) for row in fired])), fired)


def dead_share(weights: Weights, rows: np.ndarray, k: int) -> float:
    """Return the share of latents that fire on none of the rows."""
    alive = np.zeros(len(weights.encoder), dtype=bool)
    for _, values, latents in _encoded(weights, rows, k):
        alive[latents[values > 0]] = True
    return float(1 - alive.mean())


def _encoded(
    weights: Weights, rows: np.ndarray, k: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield blocks of rows with the k values of each after ReLU, and their latents."""
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        block = rows[start : start + _ROWS_PER_BLOCK]
        pre = (block * np.float32(weights.input_scale) - weights.pre_bias) @ weights.encoder.T
        pre += weights.encoder_bias
        latents = np.argpartition(pre, -k, axis=1)[:, -k:]
        yield block, np.maximum(np.take_along_axis(pre, latents, axis=1), 0), latents
