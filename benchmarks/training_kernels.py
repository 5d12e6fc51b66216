"""What bounds a step of TopK training: the encoder's product, and top-k of what it gives.

    python benchmarks/training_kernels.py jax --rows 4096 --width 960 --latent-dim 3840 --k 16 32

Prints a JSON object with seconds per call, medians, for ``jax`` or ``torch``.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Time what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=["jax", "torch"])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--width", type=int, default=960)
    parser.add_argument("--latent-dim", type=int, default=3840)
    parser.add_argument("--k", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    calls = (_jax_calls if arguments.library == "jax" else _torch_calls)(arguments)
    print(json.dumps({name: _seconds(call, arguments.repeats) for name, call in calls.items()}))


def _jax_calls(arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    os.environ["JAX_PLATFORMS"] = arguments.device
    import jax
    import jax.numpy as jnp
    from jax import lax

    rows, kernel, pre = (jnp.asarray(array) for array in _arrays(arguments))

    @jax.jit
    def product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
        # Both sides contract their last dimension, and float32 comes out, as in training.
        return lax.dot_general(rows, kernel, (((1,), (1,)), ((), ())), None, jnp.float32)

    calls: dict[str, Callable[[], Any]] = {}
    for precision in PRECISIONS:
        left, right = rows.astype(precision), kernel.astype(precision)
        calls[f"matmul {precision}"] = _waiting(jax, product, left, right)
    for k in arguments.k:
        calls[f"top_k {k}"] = _waiting(jax, jax.jit(lambda x, k=k: lax.top_k(x, k)), pre)
    return calls


def _waiting(jax: Any, function: Callable[..., Any], *arrays: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(function(*arrays))


def _torch_calls(arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    import torch

    rows, kernel, pre = (
        torch.from_numpy(array).to(arguments.device) for array in _arrays(arguments)
    )

    def waiting(function: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> None:
            function()
            if arguments.device == "cuda":
                torch.cuda.synchronize()

        return call

    calls: dict[str, Callable[[], Any]] = {}
    for precision in PRECISIONS:
        dtype = getattr(torch, precision)
        left, right = rows.to(dtype), kernel.to(dtype)
        calls[f"matmul {precision}"] = waiting(
            lambda left=left, right=right: torch.nn.functional.linear(left, right)
        )
    for k in arguments.k:
        calls[f"top_k {k}"] = waiting(lambda k=k: torch.topk(pre, k, dim=-1, sorted=False))
    return calls


def _arrays(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows (B, D), kernel (L, D) and pre-activations (B, L)."""
    random = np.random.default_rng(0)
    shapes = (
        (arguments.rows, arguments.width),
        (arguments.latent_dim, arguments.width),
        (arguments.rows, arguments.latent_dim),
    )
    rows, kernel, pre = (random.standard_normal(shape, dtype=np.float32) for shape in shapes)
    return rows, kernel, pre


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
