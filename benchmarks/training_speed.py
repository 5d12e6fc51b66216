"""Samples per second of every contender's training step, at several k."""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import training_processes as processes
from training_processes import HERE, Contender, Machine

_LIBRARIES = ("jax", "torch")
# Each of the encoder's size: encode, decode, and the gradients of the activations and of both
# kernels.
_PRODUCTS_OF_A_DENSE_STEP = 5

Figures = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the mode's options."""
    parser.add_argument("--k", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a run (default: 8)")
    parser.add_argument("--untimed", type=int, default=3, help="steps before (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="START", help="contenders by the start of a name"
    )


def run(options: argparse.Namespace, machine: Machine) -> Figures:
    """Measure and print; return the figures of every run."""
    contenders = machine.contenders(options.only)
    runs, kernels = _measure(options, machine, contenders)
    limits = _limits(options, kernels)
    for precision in ("float32", "bfloat16"):
        entered = [contender for contender in contenders if contender.precision == precision]
        if entered:
            _print_table(options.k, entered, runs, limits[precision])
    _print_kernels(options, kernels, limits)
    return {"runs": runs, "kernels": kernels}


def _measure(
    options: argparse.Namespace, machine: Machine, contenders: Sequence[Contender]
) -> tuple[dict[str, dict[int, list[Figures]]], dict[str, list[Figures]]]:
    """Return the figures of each run by contender and k, and the kernels' seconds by library."""
    rows = _write_rows(options, machine)
    runs: dict[str, dict[int, list[Figures]]] = {}
    kernels: dict[str, list[Figures]] = {}
    for number in range(options.rounds):
        for library in _LIBRARIES:
            kernels.setdefault(library, []).append(_time_kernels(options, library))
        for k in options.k:
            for contender in contenders:
                figures = machine.train(contender, _job(options, rows, k))
                runs.setdefault(contender.name, {}).setdefault(k, []).append(figures)
                rate = figures["samples_per_second"]
                note = f"round {number + 1}, k = {k}, {contender.name}: {rate:,.0f} samples/s"
                print(note, file=sys.stderr, flush=True)
    return runs, kernels


def _write_rows(options: argparse.Namespace, machine: Machine) -> Path:
    # In a process of its own: what this one holds would count as every contender's memory.
    count = options.batch_size * (options.steps + options.untimed)
    command = [sys.executable, str(HERE / "planted_dictionary.py")]
    command += ["--output", str(machine.scratch), "--rows", str(count), "--in-one-file"]
    command += ["--width", str(options.width), "--seed", str(options.seed)]
    processes.run(command)
    return machine.scratch / "rows_00000.npy"


def _job(options: argparse.Namespace, rows: Path, k: int) -> dict[str, Any]:
    names = ("latent_dim", "batch_size", "steps", "untimed", "seed", "device")
    return {"rows": rows, "k": k, **{name: getattr(options, name) for name in names}}


def _time_kernels(options: argparse.Namespace, library: str) -> Figures:
    command = [sys.executable, str(HERE / "training_kernels.py"), library]
    command += ["--rows", str(options.batch_size), "--width", str(options.width)]
    command += ["--latent-dim", str(options.latent_dim), "--device", options.device]
    command += ["--k", *map(str, options.k)]
    return processes.last_json(processes.run(command).output)


def _limits(options: argparse.Namespace, kernels: dict[str, list[Figures]]) -> dict[str, float]:
    """Return the samples per second of the encoder's product alone, by precision."""
    return {
        precision: options.batch_size
        / min(_median(timed, f"matmul {precision}") for timed in kernels.values())
        for precision in ("float32", "bfloat16")
    }


def _print_table(
    ks: Sequence[int],
    contenders: Sequence[Contender],
    runs: dict[str, dict[int, list[Figures]]],
    limit: float,
) -> None:
    rates = {
        contender.name: [_median(runs[contender.name][k], "samples_per_second") for k in ks]
        for contender in contenders
    }
    peers = [rates[contender.name] for contender in contenders if not contender.is_ours]
    best = [max(of_peers) for of_peers in zip(*peers, strict=True)] if peers else None
    print(f"\n{contenders[0].precision}; the encoder's product alone: {limit:,.0f} samples/s\n")
    heads = ["", *(f"k = {k}" for k in ks), "times the best peer", "share of that product's rate"]
    _print_row([*heads, "peak MB", "first step, s", "versions"])
    _print_row(["---"] * (len(heads) + 3))
    for contender in contenders:
        own, every = rates[contender.name], [f for k in ks for f in runs[contender.name][k]]
        memory = max(figures["device_bytes"] or figures["peak_bytes"] for figures in every)
        times = (
            "" if best is None else _joined(f"{a / b:.2f}" for a, b in zip(own, best, strict=True))
        )
        _print_row(
            [
                contender.name,
                *(f"{rate:,.0f}" for rate in own),
                times,
                _joined(f"{rate / limit:.0%}" for rate in own),
                f"{memory / 1e6:,.0f}",
                f"{_median(every, 'first_seconds'):.1f}",
                ", ".join(f"{name} {version}" for name, version in every[0]["versions"].items()),
            ]
        )


def _print_kernels(
    options: argparse.Namespace, kernels: dict[str, list[Figures]], limits: dict[str, float]
) -> None:
    operations = 2 * options.batch_size * options.width * options.latent_dim
    shape = f"({options.batch_size}, {options.latent_dim})"
    heads = [f"{precision} product, GFLOP/s" for precision in limits]
    print(f"\nA batch's kernels; top-k of {shape} float32\n")
    _print_row(["", *heads, *(f"top {k}, ms" for k in options.k)])
    _print_row(["---"] * (1 + len(heads) + len(options.k)))
    for library, timed in kernels.items():
        products = [operations / _median(timed, f"matmul {name}") / 1e9 for name in limits]
        top_k = [_median(timed, f"top_k {k}") * 1e3 for k in options.k]
        _print_row(
            [library, *(f"{rate:,.0f}" for rate in products), *(f"{ms:,.1f}" for ms in top_k)]
        )
    dense = [
        f"{limit / _PRODUCTS_OF_A_DENSE_STEP:,.0f} samples/s in {name}"
        for name, limit in limits.items()
    ]
    print(f"\nThe five products of a dense step allow {' and '.join(dense)}.")


def _median(runs: Sequence[Figures], name: str) -> float:
    return statistics.median(figures[name] for figures in runs)


def _joined(parts: Any) -> str:
    return " / ".join(parts)


def _print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |")
