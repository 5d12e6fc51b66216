"""What bench_embedding.py runs in processes of their own: the contenders and what they need.

    python benchmarks/embedding_contenders.py NAME --model-size 300m --weights PATH ...

Each prints a JSON object.
"""

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

SIZES = ("demo", "300m", "600m")
MATMUL, ESM, ONE_BY_ONE, ENGINE = "matmul", "esm, batches of 32", "esm, one by one", "esm_sae"
_ESM_BATCH = 32
_MATMUL_TOKENS = {"cpu": 2048, "cuda": 32_768}
_MATMUL_REPEATS = 4
_GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm_", "aten::addmm"),
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention"),
    "norms": ("layer_norm",),
    "rotary embedding": ("aten::mul", "aten::addcmul_"),
    "SwiGLU": ("aten::silu_", "aten::mul_"),
    "copies and conversions": ("aten::copy_", "aten::index", "aten::add_"),
}


def main() -> None:
    """Run what the first argument names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=[*_PREPARATIONS, *CONTENDERS])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--model-size", choices=SIZES, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--proteins", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--rows", help="where the embeddings go")
    job = parser.parse_args()
    if job.name in _PREPARATIONS:
        print(json.dumps(_PREPARATIONS[job.name](job)))
        return
    rows, seconds = CONTENDERS[job.name](job)
    np.save(job.rows, rows)
    figures = {"seconds": seconds}
    if job.device == "cuda":
        import torch

        figures["bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(figures))


def run_esm(job: argparse.Namespace) -> tuple[np.ndarray, float]:
    return _run_esm(job, _ESM_BATCH)


def run_one_by_one(job: argparse.Namespace) -> tuple[np.ndarray, float]:
    return _run_esm(job, 1)


def _run_esm(job: argparse.Namespace, batch: int) -> tuple[np.ndarray, float]:
    """Embed in file order as esm's users do: ``forward`` on padded batches, then the means."""
    import torch

    model = _esm_model(job.model_size)
    # As esm's own load_local_model does.
    model.load_state_dict(torch.load(job.weights, map_location="cpu", weights_only=True))
    model.to(job.device).eval()
    if job.device == "cuda" and job.precision == "bfloat16":
        # As ESMC.from_pretrained does.
        model.to(torch.bfloat16)
    autocast = torch.autocast(job.device, torch.bfloat16, enabled=job.precision == "bfloat16")

    def embed(sequences: Sequence[str]) -> np.ndarray:
        rows = []
        for start in range(0, len(sequences), batch):
            chosen = list(sequences[start : start + batch])
            states = model(sequence_tokens=model._tokenize(chosen)).embeddings
            rows += [
                states[number, 1 : len(sequence) + 1].float().mean(dim=0)
                for number, sequence in enumerate(chosen)
            ]
        return torch.stack(rows).cpu().numpy()

    with torch.inference_mode(), autocast:
        return _timed(embed, job)


def run_engine(job: argparse.Namespace) -> tuple[np.ndarray, float]:
    encoder = _engine(job)
    return _timed(lambda chosen: encoder.embed(chosen, batch_tokens=job.batch_tokens), job)


def run_matmul(job: argparse.Namespace) -> tuple[np.ndarray, float]:
    """Return no rows, and the seconds of a GFLOP in the products of the linear layers."""
    import torch

    dtype = getattr(torch, job.precision)
    tokens = _MATMUL_TOKENS.get(job.device, _MATMUL_TOKENS["cpu"])
    products = []
    for outputs, inputs in linear_shapes(job.model_size):
        left = torch.randn(tokens, inputs, device=job.device).to(dtype)
        right = torch.randn(outputs, inputs, device=job.device).to(dtype)
        products.append((left, right.t(), left.new_empty(tokens, outputs)))

    def multiply() -> None:
        for left, right, target in products:
            torch.mm(left, right, out=target)
        _synchronise(job.device)

    with torch.inference_mode():
        multiply()
        started = time.perf_counter()
        for _ in range(_MATMUL_REPEATS):
            multiply()
        seconds = time.perf_counter() - started
    operations = 2 * tokens * sum(a * b for a, b in linear_shapes(job.model_size))
    return np.empty((0, 0)), seconds / (operations * _MATMUL_REPEATS / 1e9)


def make_weights(job: argparse.Namespace) -> dict[str, Any]:
    """Write the weights of all contenders."""
    import torch

    torch.manual_seed(0)
    if job.model_size == "demo":
        from esm_sae.embedding import load_encoder

        model = load_encoder("esmc_demo", device="cpu").backbone.model
    else:
        model = _esm_model(job.model_size)
    torch.save(model.state_dict(), job.weights)
    threads = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    gpu = f", {torch.cuda.get_device_name()}" if job.device == "cuda" else ""
    return {
        "machine": f"Python {platform.python_version()}, torch {torch.__version__}, {threads}{gpu}"
    }


def lengths(job: argparse.Namespace) -> dict[str, Any]:
    """Return the proteins' lengths."""
    return {"lengths": [len(sequence) for sequence in _proteins(job)]}


def profile(job: argparse.Namespace) -> dict[str, Any]:
    """Return the share of esm_sae's time by kind of operation."""
    import torch
    from torch import profiler

    encoder = _engine(job)
    sequences = _proteins(job)
    encoder.embed(sequences[:1])
    activities = [profiler.ProfilerActivity.CPU]
    if job.device == "cuda":
        activities.append(profiler.ProfilerActivity.CUDA)
    started = time.perf_counter()
    with profiler.profile(activities=activities) as profiled, torch.inference_mode():
        encoder.embed(sequences, batch_tokens=job.batch_tokens)
        _synchronise(job.device)
    total = time.perf_counter() - started
    on_device = "self_device_time_total" if job.device == "cuda" else "self_cpu_time_total"
    spent = dict.fromkeys((*_GROUPS, "everything else"), 0.0)
    for event in profiled.key_averages():
        spent[_group_of(event.key)] += getattr(event, on_device) / 1e6
    spent["everything else"] = total - sum(
        seconds for group, seconds in spent.items() if group != "everything else"
    )
    shares = {group: seconds / total for group, seconds in spent.items()}
    return {"seconds": total, "shares": shares}


def _group_of(operation: str) -> str:
    for group, names in _GROUPS.items():
        if operation in names or any(not n.startswith("aten") and n in operation for n in names):
            return group
    return "everything else"


def linear_shapes(size: str) -> Iterator[tuple[int, int]]:
    """Yield outputs and inputs of a block's linear layers."""
    width = size_of(size).width
    # Esm rounds 8/3 of the width up to a multiple of 256.
    hidden = (int(8 / 3 * width) + 255) // 256 * 256
    yield from [(3 * width, width), (width, width), (2 * hidden, width), (width, hidden)]


def _esm_model(size: str) -> Any:
    from esm.models.esmc import ESMC
    from esm.tokenization import EsmSequenceTokenizer

    return ESMC(*size_of(size), EsmSequenceTokenizer())


def size_of(size: str) -> Any:
    from esm_sae.embedding.encoders import known_size

    return known_size(f"esmc_{size}")


def _engine(job: argparse.Namespace) -> Any:
    from esm_sae.embedding import load_encoder

    return load_encoder(
        f"esmc_{job.model_size}", weights=job.weights, device=job.device, precision=job.precision
    )


def _proteins(job: argparse.Namespace) -> list[str]:
    """Return a random sample of the bundled proteins, in the order of the file."""
    from esm_sae.data import bundled_fasta
    from esm_sae.formats.fasta import read_fasta

    every = [record.sequence for record in read_fasta(bundled_fasta())]
    short = [sequence for sequence in every if len(sequence) <= job.max_length]
    chosen = random.Random(0).sample(range(len(short)), job.proteins)
    return [short[number] for number in sorted(chosen)]


def _timed(
    embed: Callable[[Sequence[str]], np.ndarray], job: argparse.Namespace
) -> tuple[np.ndarray, float]:
    sequences = _proteins(job)
    embed(["MKTAYIAKQR"])
    _synchronise(job.device)
    started = time.perf_counter()
    rows = embed(sequences)
    _synchronise(job.device)
    return rows, time.perf_counter() - started


def _synchronise(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


CONTENDERS: dict[str, Callable[[argparse.Namespace], tuple[np.ndarray, float]]] = {
    MATMUL: run_matmul,
    ESM: run_esm,
    ONE_BY_ONE: run_one_by_one,
    ENGINE: run_engine,
}
_PREPARATIONS = {"weights": make_weights, "lengths": lengths, "profile": profile}


if __name__ == "__main__":
    main()
