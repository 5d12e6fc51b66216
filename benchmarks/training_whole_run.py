"""The command train from disk: time and memory as the number of rows grows."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

import training_processes as processes
from planted_dictionary import ROWS_PER_FILE
from training_processes import HERE, Machine

_TRAINED_ON = re.compile(r"rows: ([\d,]+) trained on")

Figures = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the mode's options."""
    add = parser.add_argument
    add("--k", type=int, nargs="+", default=[32], help="several are trained in one pass")
    add("--precision", choices=["float32", "bfloat16"], default="float32")
    add("--batch-size", type=int, default=4096)
    add("--epochs", type=int, default=1)
    add(
        "--files",
        type=int,
        nargs="+",
        default=[1, 4, 16],
        help="trainings by their number of matrices of 65,536 rows (default: 1 4 16)",
    )


def run(options: argparse.Namespace, machine: Machine) -> Figures:
    """Train on the first matrices of a folder, more each time; print and return the figures."""
    folder = _write_rows(options, machine)
    runs = []
    for files in sorted(options.files):
        figures = _train(options, machine, folder, files)
        runs.append(figures)
        print(figures, file=sys.stderr, flush=True)
    _print_table(options, runs)
    return {"runs": runs}


def _write_rows(options: argparse.Namespace, machine: Machine) -> Path:
    # In a process of its own: what this one holds would count as the command's memory.
    folder = machine.scratch / "all"
    command = [sys.executable, str(HERE / "planted_dictionary.py"), "--output", str(folder)]
    command += ["--rows", str(max(options.files) * ROWS_PER_FILE)]
    command += ["--width", str(options.width), "--seed", str(options.seed)]
    processes.run(command)
    return folder


def _train(options: argparse.Namespace, machine: Machine, folder: Path, files: int) -> Figures:
    chosen = machine.scratch / f"{files}_files"
    chosen.mkdir()
    for matrix in sorted(folder.iterdir())[:files]:
        os.link(matrix, chosen / matrix.name)
    command = [sys.executable, "-m", "esm_sae.train", "--np_dir", str(chosen), "--quiet"]
    command += ["--project", "benchmark", "--latent_dim", str(options.latent_dim)]
    command += ["--topk", *map(str, options.k), "--batch_size", str(options.batch_size)]
    command += ["--precision", options.precision]
    command += ["--num_epochs", str(options.epochs), "--seed", str(options.seed)]
    command += ["--output", str(machine.scratch / f"trained_{files}")]
    usage = processes.run(command, {"JAX_PLATFORMS": options.device})
    trained_on = _TRAINED_ON.search(usage.output)
    if trained_on is None:
        raise SystemExit(f"train did not say how many rows it trained on:\n{usage.output}")
    return {
        "rows": files * ROWS_PER_FILE,
        "trained on": int(trained_on[1].replace(",", "")),
        "seconds": usage.seconds,
        "own bytes": usage.own_bytes,
        "peak bytes": usage.peak_bytes,
        "said": usage.output.strip().splitlines(),
    }


def _print_table(options: argparse.Namespace, runs: list[Figures]) -> None:
    print(
        f"\nk = {', '.join(map(str, options.k))}, L = {options.latent_dim:,}, batches of "
        f"{options.batch_size:,}, {options.precision}, {options.epochs} epoch(s), rows of "
        f"{options.width} on disk\n"
    )
    print("| rows | trained on | seconds | of these a second | peak MB | with mapped files, MB |")
    print("|---|---|---|---|---|---|")
    for figures in runs:
        own, seconds = figures["own bytes"], figures["seconds"]
        rate = options.epochs * figures["trained on"] / seconds
        memory = "not told" if own is None else f"{own / 1e6:,.0f}"
        print(
            f"| {figures['rows']:,} | {figures['trained on']:,} | {seconds:.0f} | {rate:,.0f} | "
            f"{memory} | {figures['peak bytes'] / 1e6:,.0f} |"
        )
