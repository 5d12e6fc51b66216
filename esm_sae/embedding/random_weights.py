"""Seeded random weights: an untrained twin of an encoder, to compare with."""

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch

UNTRAINED = "untrained: seeded random weights"

_QUERY_GAIN = 3.0


def random_weights(shapes: Mapping[str, torch.Size], *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Draw the weights of an ESM-C, the same ones on every machine.

    Linear weights are uniform with variance 1 / fan-in, token embeddings uniform with variance
    1, norms are the identity but for that of the queries: its gain sharpens attention, so that a
    residue's state depends on few others and not on the mean of all. Numbers come from NumPy's
    PCG64, one stream per tensor.
    """
    return {name: torch.from_numpy(_draw(name, tuple(shapes[name]), seed)) for name in shapes}


def _draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if len(shape) == 1:
        gain = _QUERY_GAIN if "q_ln" in name else 1.0
        return np.full(shape, 0.0 if name.endswith("bias") else gain, dtype=np.float32)
    fan_in = 1 if name == "embed.weight" else shape[1]
    uniform = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())])).random(shape)
    return ((2.0 * uniform - 1.0) * math.sqrt(3.0 / fan_in)).astype(np.float32)
