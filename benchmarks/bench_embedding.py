"""Embedding proteins: this project against the esm package, on the same weights in one run.

    python benchmarks/bench_embedding.py --model-size 300m --proteins 64 --max-length 256
    python benchmarks/bench_embedding.py --model-size 300m --proteins 32 --max-length 2048
    python benchmarks/bench_embedding.py --model-size 300m --proteins 64 --profile

Every contender returns the mean over the residues of each of the same bundled proteins. The
weights are the demo encoder's, or random ones of the size of ESM-C 300M or 600M. The contenders
take turns, each in a process of its own; its time begins when the weights are loaded and a short
sequence has gone through, its memory is that of the whole process, loading included (on a CUDA
device: of its tensors there). Printed are the medians over the rounds.

The matmul rate is that of the linear layers' products alone, over many tokens, in the same
rounds. A contender's share of it counts only what the result needs: the linear layers and the
attention of the blocks, for residues, BOS and EOS. The error is that of the worst row, relative
to its norm, against one sequence at a time through esm in float32.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import embedding_contenders
import numpy as np
from embedding_contenders import (
    CONTENDERS,
    ENGINE,
    MATMUL,
    ONE_BY_ONE,
    SIZES,
    linear_shapes,
    size_of,
)

PRECISIONS = ("float32", "bfloat16")
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Parse the options, run the contenders and print the tables."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        options.weights = str(Path(folder) / "weights.pth")
        # In a process of its own: what this one holds would count as every contender's memory.
        made = _child(options, "weights")
        print(made["machine"])
        if options.profile:
            for precision in options.precision:
                _print_profile(precision, _child(options, "profile", precision=precision))
            return
        lengths = _child(options, "lengths")["lengths"]
        found = _measure(options, Path(folder), sum(lengths))
    gigaflops = _operations(lengths, options.model_size) / 1e9
    tables = {
        precision: _table(found, precision, sum(lengths), gigaflops)
        for precision in options.precision
    }
    for precision, table in tables.items():
        _print_table(precision, table)
    if options.json:
        Path(options.json).write_text(json.dumps({"options": vars(options), **tables}, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-size", choices=SIZES, default="demo")
    parser.add_argument("--proteins", type=int, default=256, help="how many, in file order")
    parser.add_argument("--max-length", type=int, default=256, help="most residues of a protein")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument(
        "--batch-tokens",
        nargs="+",
        type=int,
        default=[None],
        metavar="N",
        help="token budgets of esm_sae, each a contender (default: its own for the device)",
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="START", help="contenders by the start of a name"
    )
    parser.add_argument("--profile", action="store_true", help="only say where esm_sae's time goes")
    parser.add_argument("--folder", help="where the weights lie for the time of the run")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    return parser


def _measure(
    options: argparse.Namespace, folder: Path, residues: int
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the figures of each run by (precision, contender); the errors too."""
    contenders = [
        (precision, name, budget)
        for precision in options.precision
        for name in CONTENDERS
        for budget in (options.batch_tokens if name == ENGINE else [None])
        if name == MATMUL or name.startswith(tuple(options.only))
    ]
    reference = folder / "reference.npy"
    _child(options, ONE_BY_ONE, precision="float32", rows=reference)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for precision, name, budget in contenders:
            rows = folder / "rows.npy"
            figures = _child(options, name, precision=precision, batch_tokens=budget, rows=rows)
            if name != MATMUL:
                figures["error"] = _error(np.load(rows), np.load(reference))
            label = name if budget is None else f"{name}, {budget:,} tokens"
            found.setdefault((precision, label), []).append(figures)
            note = "" if name == MATMUL else f"{residues / figures['seconds']:,.0f} residues/s"
            print(f"round {number + 1}, {precision}, {label} {note}", file=sys.stderr, flush=True)
    return found


def _child(
    options: argparse.Namespace,
    name: str,
    *,
    precision: str = "float32",
    batch_tokens: int | None = None,
    rows: Path | None = None,
) -> dict[str, Any]:
    """Run one thing in a process of its own; return what it says and its peak memory."""
    command = [sys.executable, embedding_contenders.__file__, name, "--weights", options.weights]
    command += ["--model-size", options.model_size, "--device", options.device]
    command += ["--proteins", str(options.proteins), "--max-length", str(options.max_length)]
    command += ["--precision", precision]
    if rows:
        command += ["--rows", str(rows)]
    if batch_tokens:
        command += ["--batch-tokens", str(batch_tokens)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name}: failed with status {status}")
    return {"bytes": usage.ru_maxrss * _MEMORY_UNIT, **json.loads(output)}


def _operations(lengths: Sequence[int], size: str) -> int:
    """Return the floating-point operations that embedding these proteins needs in the blocks."""
    width, _, blocks = size_of(size)
    linear = 2 * sum(outputs * inputs for outputs, inputs in linear_shapes(size))
    tokens = [length + 2 for length in lengths]
    return blocks * sum(linear * count + 4 * width * count**2 for count in tokens)


def _error(rows: np.ndarray, reference: np.ndarray) -> float:
    distances = np.linalg.norm(rows - reference, axis=1)
    return float((distances / np.linalg.norm(reference, axis=1)).max())


def _table(
    found: dict[tuple[str, str], list[dict[str, Any]]],
    precision: str,
    residues: int,
    gigaflops: float,
) -> dict[str, Any]:
    runs = {name: figures for (of, name), figures in found.items() if of == precision}
    rate = 1 / statistics.median(figures["seconds"] for figures in runs.pop(MATMUL))
    table: dict[str, Any] = {"matmul GFLOP/s": rate, "contenders": {}}
    for name, figures in runs.items():
        seconds = statistics.median(figure["seconds"] for figure in figures)
        table["contenders"][name] = {
            "residues/s": residues / seconds,
            "share of matmul rate": gigaflops / seconds / rate,
            "peak bytes": max(figure["bytes"] for figure in figures),
            "error": max(figure["error"] for figure in figures),
            "seconds": [figure["seconds"] for figure in figures],
        }
    return table


def _print_table(precision: str, table: dict[str, Any]) -> None:
    contenders = table["contenders"]
    first = next(iter(contenders.values()))["residues/s"]
    print(f"\n{precision}, matrix products at {table['matmul GFLOP/s']:,.0f} GFLOP/s\n")
    print("| | residues/s | times the first | share of matmul rate | peak MB | error |")
    print("|---|---|---|---|---|---|")
    for name, figures in contenders.items():
        print(
            f"| {name} | {figures['residues/s']:,.0f} | {figures['residues/s'] / first:.2f} | "
            f"{figures['share of matmul rate']:.0%} | {figures['peak bytes'] / 1e6:,.0f} | "
            f"{figures['error']:.1e} |"
        )


def _print_profile(precision: str, profile: dict[str, Any]) -> None:
    print(f"\n{precision}\n\n| | share of {profile['seconds']:.2f} s |\n|---|---|")
    for group, share in profile["shares"].items():
        print(f"| {group} | {share:.1%} |")


if __name__ == "__main__":
    main()
