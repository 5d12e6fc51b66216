"""Sampling FASTA files: this project against the tools people use, on one file in one run.

    pip install -e . biopython dnaio pyfastx          # seqkit and seqtk, where they are installed
    python benchmarks/bench_sampling.py [--megabytes 420] [--rounds 5] [--folder DIR]

Every contender draws 100,000 of some million records, of at most 256 residues where it can filter
by length, and writes them as FASTA. The contenders take turns, each in a process of its own; a
Python contender's time begins behind its imports. Printed are the medians over the rounds, the
throughput in bytes of uncompressed FASTA, and the most memory of a process.

    python benchmarks/bench_sampling.py --only esm_sae --megabytes 4200

shows that memory does not grow with the file.
"""

import argparse
import gzip
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

RECORDS, MAX_LENGTH = 100_000, 256
# Of the records within the length limit, for the tool that draws no exact number: about 100,000
# of those in 420 MB.
_SHARE = 0.165
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


def run_esm_sae(source: Path, target: Path) -> float:
    from esm_sae.sequences import sample_fasta

    started = time.perf_counter()
    # As after a download, whose manifest has the hash of the file.
    sample_fasta(source, target, RECORDS, max_length=MAX_LENGTH, sha256="0" * 64)
    return time.perf_counter() - started


def run_esm_sae_hashing(source: Path, target: Path) -> float:
    from esm_sae.sequences import sample_fasta

    started = time.perf_counter()
    sample_fasta(source, target, RECORDS, max_length=MAX_LENGTH)
    return time.perf_counter() - started


def run_esm_sae_records(source: Path, target: Path) -> float:
    from esm_sae.sequences import sampling
    from esm_sae.sequences.draw import Draw
    from esm_sae.sequences.drawn_records import read_records
    from esm_sae.sequences.selection import Selection

    started = time.perf_counter()
    selection = Selection(max_length=MAX_LENGTH)
    with (
        sampling._drawn(source, selection, Draw(RECORDS, 0), target.parent) as drawn,
        target.open("wb") as out,
    ):
        for block in read_records(drawn.records, source):
            out.write(block.content.data)
    return time.perf_counter() - started


def run_pyfastx(source: Path, target: Path) -> float:
    import pyfastx

    return _reservoir(lambda: pyfastx.Fastx(str(source), format="fasta"), target)


def run_dnaio(source: Path, target: Path) -> float:
    import dnaio

    def records() -> Iterator[tuple[str, str]]:
        with dnaio.open(source, open_threads=1) as file:
            for record in file:
                yield record.name, record.sequence

    return _reservoir(records, target)


def run_biopython(source: Path, target: Path) -> float:
    from Bio import SeqIO

    def records() -> Iterator[tuple[str, str]]:
        opened = gzip.open if source.suffix == ".gz" else open
        with opened(source, "rt") as file:
            for record in SeqIO.parse(file, "fasta"):
                yield record.description, str(record.seq)

    return _reservoir(records, target)


def _reservoir(records: Callable[[], Iterator[tuple[str, str]]], target: Path) -> float:
    """Draw as one would by hand: one pass, the sample in memory (algorithm R)."""
    started = time.perf_counter()
    generator = random.Random(0)
    chosen: list[tuple[str, str]] = []
    passing = 0
    for name, sequence in records():
        if len(sequence) > MAX_LENGTH:
            continue
        passing += 1
        if len(chosen) < RECORDS:
            chosen.append((name, sequence))
        elif (place := generator.randrange(passing)) < RECORDS:
            chosen[place] = (name, sequence)
    with target.open("w") as file:
        for name, sequence in chosen:
            file.write(f">{name}\n{sequence}\n")
    return time.perf_counter() - started


PYTHON = {
    "esm_sae": (run_esm_sae, "esm_sae", "exact, with index and manifest"),
    "esm_sae, hashing the source": (run_esm_sae_hashing, "esm_sae", "the same, source unknown"),
    "esm_sae, records only": (run_esm_sae_records, "esm_sae", "exact, no index or manifest"),
    "pyfastx": (run_pyfastx, "pyfastx", "exact, sample in memory"),
    "dnaio": (run_dnaio, "dnaio", "exact, sample in memory"),
    "Biopython SeqIO": (run_biopython, "Bio", "exact, sample in memory"),
}
SHELL = {
    "seqkit seq | sample": (
        "seqkit",
        "seqkit seq -M {length} {source} | seqkit sample -s 1 -p {share} > {target}",
        "a random number of records",
    ),
    "seqtk sample": (
        "seqtk",
        "seqtk sample -s 1 {source} {records} > {target}",
        "exact, no filter, sample in memory",
    ),
    "seqtk sample -2": (
        "seqtk",
        "seqtk sample -2 -s 1 {source} {records} > {target}",
        "exact, no filter, two passes",
    ),
}


def main() -> None:
    """Parse the options, run the contenders and print the tables."""
    options = _parser().parse_args()
    if options.make:
        _make(Path(options.make[0]), int(options.make[1]))
        return
    if options.run:
        name, source, target = options.run
        print(json.dumps(PYTHON[name][0](Path(source), Path(target))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        plain, packed = Path(folder) / "synthetic.fasta", Path(folder) / "synthetic.fasta.gz"
        # In a process of its own: what this one holds would count as every contender's memory.
        command = [sys.executable, __file__, "--make", str(plain), str(options.megabytes)]
        subprocess.run(command, check=True)
        size = plain.stat().st_size
        for source in (plain, packed):
            names = [name for name in _available() if name.startswith(tuple(options.only))]
            if not names:
                raise SystemExit(f"no contender's name starts with {' or '.join(options.only)}")
            _print_table(source, size, _measure(source, names, options.rounds))


def _make(plain: Path, megabytes: int) -> None:
    from synthetic_fasta import write_synthetic_fasta

    records = write_synthetic_fasta(plain, megabytes * 10**6)
    packed = Path(f"{plain}.gz")
    with plain.open("rb") as file, gzip.open(packed, "wb", compresslevel=6) as out:
        shutil.copyfileobj(file, out, 1 << 20)
    sizes = [path.stat().st_size / 1e6 for path in (plain, packed)]
    print(f"{records:,} records, {sizes[0]:.0f} MB, with gzip {sizes[1]:.0f} MB", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=420, help="size of the file")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender")
    parser.add_argument("--folder", help="where the files are made for the time of the run")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="START", help="contenders by the start of a name"
    )
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser


def _available() -> list[str]:
    modules = [name for name, entry in PYTHON.items() if importlib.util.find_spec(entry[1])]
    return modules + [name for name, entry in SHELL.items() if shutil.which(entry[0])]


def _measure(source: Path, names: list[str], rounds: int) -> dict[str, list[tuple[float, int]]]:
    """Return seconds and bytes of peak memory of each run; the first round only warms up."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            measured = _run(name, source)
            if number:
                found[name].append(measured)
    return found


def _run(name: str, source: Path) -> tuple[float, int]:
    target = source.parent / "out" / "sample.fasta"
    target.parent.mkdir()
    if name in PYTHON:
        command = [sys.executable, __file__, "--run", name, str(source), str(target)]
    else:
        text = SHELL[name][1].format(
            source=source, target=target, length=MAX_LENGTH, records=RECORDS, share=_SHARE
        )
        command = ["sh", "-c", text]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{name}: failed with status {status}")
    if not target.stat().st_size:
        raise SystemExit(f"{name}: wrote nothing")
    shutil.rmtree(target.parent)
    if name in PYTHON:
        seconds = json.loads(output)
    return seconds, usage.ru_maxrss * _MEMORY_UNIT


def _print_table(source: Path, size: int, measured: dict[str, list[tuple[float, int]]]) -> None:
    medians = {
        name: statistics.median(seconds for seconds, _ in runs) for name, runs in measured.items()
    }
    first, ours = next(iter(medians.items()))
    print(f"\n{source.name}\n")
    print(f"| | MB/s | s | time over that of {first} | peak MB | |\n|---|---|---|---|---|---|")
    for name, seconds in medians.items():
        memory = max(memory for _, memory in measured[name]) / 1e6
        note = (PYTHON.get(name) or SHELL[name])[2]
        print(
            f"| {name} | {size / seconds / 1e6:,.0f} | {seconds:.2f} | {seconds / ours:.1f} | "
            f"{memory:,.0f} | {note} |"
        )


if __name__ == "__main__":
    main()
