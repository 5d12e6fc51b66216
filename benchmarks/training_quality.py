"""Held-out FVU, dead latents and recovery after the same samples, learning rates swept."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import planted_dictionary
import training_evaluator
from planted_dictionary import Planted, Support
from training_processes import (
    DENSE,
    DICTIONARY_LEARNING,
    OURS,
    SAE_LENS,
    SPARSIFY,
    Contender,
    Machine,
)

_SWEPT = (OURS, SPARSIFY, DICTIONARY_LEARNING, SAE_LENS, DENSE)
_FACTOR = 3.0
_ROWS_PER_READ = 65_536

Figures = dict[str, Any]


@dataclass(frozen=True)
class _Data:
    """Rows to train on and to judge by.

    Attributes:
        path: the file of the training rows.
        train: these rows, memory-mapped, (N, D), N a multiple of the batch size.
        held_out: (n, D).
        mean: of the training rows, (D,).
        planted: the true dictionary, and what made the held-out rows; None for real rows.
    """

    path: Path
    train: np.ndarray
    held_out: np.ndarray
    mean: np.ndarray
    planted: tuple[Planted, Support] | None


@dataclass
class _Sweep:
    """A contender's learning rates, its own default first, with the FVU that each gave."""

    contender: Contender
    fvu: dict[float, float] = field(default_factory=dict)
    best: Figures = field(default_factory=dict)

    @property
    def default(self) -> float:
        """Its default learning rate."""
        return next(iter(self.fvu))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the mode's options."""
    add = parser.add_argument
    add("--k", type=int, nargs="+", default=[32])
    add("--batch-size", type=int, default=1024)
    add("--samples", type=int, default=196_608, help="rows trained on, each epoch's counted")
    add("--rows", type=int, default=98_304, help="different planted rows among these")
    add("--directions", type=int, default=planted_dictionary.DIRECTIONS, help="planted ones")
    add("--held-out", type=int, default=8192, help="rows that the FVU is taken on, at most")
    add("--rates", type=int, default=5, help="learning rates per contender")
    add("--np_dir", metavar="DIR", help="embedding shards in place of planted rows")
    add("--similarity_clusters", default="bundled", help="as of the command train")
    add(
        "--peer-auxk",
        action="store_true",
        help="then train each peer that has AuxK at its best rate with it on, a latent counting "
        "as dead after one pass over the rows, as ours does",
    )
    add("--only", nargs="+", default=[""], metavar="START", help="by the start of a name")


def run(options: argparse.Namespace, machine: Machine) -> Figures:
    """Train, judge and print; return the figures."""
    data = _shard_rows(options, machine) if options.np_dir else _planted_rows(options, machine)
    entered = [one for one in _SWEPT if one in machine.contenders(options.only)]
    figures: Figures = {}
    for k in options.k:
        rows = []
        for contender in entered:
            sweep = _sweep(options, machine, data, contender, k)
            rows.append(_row(contender.name, sweep, sweep.best))
            if options.peer_auxk and contender.auxk and not contender.is_ours:
                rows.append(_with_auxk(options, machine, data, sweep, k))
        _print_table(options, data, k, rows)
        figures[f"k = {k}"] = rows
    return figures


def _planted_rows(options: argparse.Namespace, machine: Machine) -> _Data:
    planted = planted_dictionary.plant(
        options.width, directions=options.directions, seed=options.seed
    )
    count = options.rows // options.batch_size * options.batch_size
    train, _ = planted_dictionary.draw_rows(planted, count, seed=options.seed + 1)
    held_out, support = planted_dictionary.draw_rows(
        planted, options.held_out, seed=options.seed + 2
    )
    return _data(machine, train, held_out, (planted, support))


def _shard_rows(options: argparse.Namespace, machine: Machine) -> _Data:
    """Read the rows that ``train`` trains on, shuffled, and its validation rows."""
    from esm_sae.formats.shards import open_shards
    from esm_sae.sae.rows import SplitChoice, split_rows

    shards = open_shards(options.np_dir)
    split = split_rows(shards, SplitChoice(options.similarity_clusters, 0))
    random = np.random.default_rng(options.seed)

    def drawn(rows: Any, most: int) -> np.ndarray:
        every = np.concatenate([np.asarray(block) for block in rows.blocks(_ROWS_PER_READ)])
        return shards.rows_at(np.sort(random.permutation(every)[:most]))

    whole = len(split.train) // options.batch_size * options.batch_size
    train = random.permutation(drawn(split.train, whole))
    return _data(machine, train, drawn(split.validation, options.held_out), None)


def _data(
    machine: Machine,
    train: np.ndarray,
    held_out: np.ndarray,
    planted: tuple[Planted, Support] | None,
) -> _Data:
    path = machine.scratch / "train.npy"
    np.save(path, train.astype(np.float32, copy=False))
    mean = train.mean(0, dtype=np.float64).astype(np.float32)
    mapped = np.load(path, mmap_mode="r")
    return _Data(path, mapped, held_out.astype(np.float32, copy=False), mean, planted)


def _sweep(
    options: argparse.Namespace, machine: Machine, data: _Data, contender: Contender, k: int
) -> _Sweep:
    """Train at the default learning rate and at others; judge the best in full."""
    sweep = _Sweep(contender)
    kept = machine.scratch / "best.npz"
    for _ in range(options.rates):
        rate = _next_rate(sweep.fvu) if sweep.fvu else None
        weights, said = _train(options, machine, data, contender, k, rate)
        fvu = _fvu(weights, data, k)
        if not sweep.fvu or fvu < min(sweep.fvu.values()):
            weights.replace(kept)
        sweep.fvu[said["learning_rate"]] = fvu
        note = f"k = {k}, {contender.name}, rate {said['learning_rate']:.2e}: FVU {fvu:.4f}"
        print(note, file=sys.stderr, flush=True)
    sweep.best = _judge(kept, data, k)
    return sweep


def _with_auxk(
    options: argparse.Namespace, machine: Machine, data: _Data, sweep: _Sweep, k: int
) -> Figures:
    rate = min(sweep.fvu, key=sweep.fvu.__getitem__)
    weights, _ = _train(options, machine, data, sweep.contender, k, rate, len(data.train))
    name = f"{sweep.contender.name}, dead after one pass"
    return {"name": name, "best rate": rate} | _judge(weights, data, k)


def _next_rate(fvu: dict[float, float]) -> float:
    """Return the learning rate to try next: beyond the best so far, or between its neighbours."""
    rates = sorted(fvu)
    if len(rates) == 1 and math.isfinite(fvu[rates[0]]):
        return rates[0] * _FACTOR
    best = min(fvu, key=fvu.__getitem__)
    at = rates.index(best)
    if at == 0 or math.isinf(fvu[best]):
        return rates[0] / _FACTOR
    if at == len(rates) - 1:
        return rates[-1] * _FACTOR
    beside = min(rates[at - 1], rates[at + 1], key=fvu.__getitem__)
    return math.sqrt(rates[at] * beside)


def _train(
    options: argparse.Namespace,
    machine: Machine,
    data: _Data,
    contender: Contender,
    k: int,
    rate: float | None,
    dead_after: int | None = None,
) -> tuple[Path, Figures]:
    weights = machine.scratch / "weights.npz"
    job = {
        "rows": data.path,
        "latent_dim": options.latent_dim,
        "k": k,
        "batch_size": options.batch_size,
        "steps": options.samples // options.batch_size - 1,
        "learning_rate": rate,
        "dead_after": dead_after,
        "seed": options.seed,
        "device": options.device,
        "save": weights,
    }
    return weights, machine.train(contender, job)


def _fvu(weights: Path, data: _Data, k: int) -> float:
    fidelity = training_evaluator.measure(
        training_evaluator.load(weights), data.held_out, data.mean, k
    )
    # A rate that is too high gives NaN.
    return fidelity.fvu if math.isfinite(fidelity.fvu) else math.inf


def _judge(path: Path, data: _Data, k: int) -> Figures:
    weights = training_evaluator.load(path)
    fidelity = training_evaluator.measure(weights, data.held_out, data.mean, k)
    figures: Figures = {
        "FVU": fidelity.fvu,
        "L0": fidelity.l0,
        "dead": training_evaluator.dead_share(weights, data.train, k),
    }
    if data.planted:
        planted, true = data.planted
        found = planted_dictionary.support_of(planted, weights.decoder, fidelity.fired)
        figures["cosine"] = planted_dictionary.mean_max_cosine(planted, weights.decoder)
        figures["F1"] = planted_dictionary.support_f1(true, found)
    return figures


def _row(name: str, sweep: _Sweep, best: Figures) -> Figures:
    rate: Callable[[float], float] = sweep.fvu.__getitem__
    return {
        "name": name,
        "default rate": sweep.default,
        "FVU at it": sweep.fvu[sweep.default],
        "best rate": min(sweep.fvu, key=rate),
        "at the edge": min(sweep.fvu, key=rate) in (min(sweep.fvu), max(sweep.fvu)),
        "FVU by rate": dict(sorted(sweep.fvu.items())),
    } | best


def _print_table(options: argparse.Namespace, data: _Data, k: int, rows: list[Figures]) -> None:
    source = options.np_dir or "planted"
    print(
        f"\nk = {k}, L = {options.latent_dim:,}; {source} rows {len(data.train):,} x "
        f"{data.train.shape[1]}, {options.samples:,} samples in batches of {options.batch_size:,}, "
        f"judged on {len(data.held_out):,} held out"
    )
    if data.planted:
        most = planted_dictionary.best_f1(data.planted[1], len(data.held_out), k)
        print(f"F1 can be {most:.3f} at most with k latents per row.")
    heads = ["", "FVU at the default rate", "best FVU", "at rate", "dead latents", "L0"]
    heads += ["mean max cosine", "F1 of the support"] if data.planted else []
    _print_cells(["", *heads[1:]])
    _print_cells(["---"] * len(heads))
    for row in rows:
        default = (
            f"{row['FVU at it']:.4f} ({row['default rate']:.1e})" if "FVU at it" in row else ""
        )
        edge = ", the edge of those tried" if row.get("at the edge") else ""
        cells = [row["name"], default, f"{row['FVU']:.4f}", f"{row['best rate']:.1e}{edge}"]
        cells += [f"{row['dead']:.1%}", f"{row['L0']:.1f}"]
        cells += [f"{row[name]:.3f}" for name in ("cosine", "F1") if name in row]
        _print_cells(cells)


def _print_cells(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |")
