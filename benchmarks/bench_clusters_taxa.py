"""Taxon clusters of 10 million records: this project against what one would write by hand.

    pip install -e . pandas pyarrow      # pandas only to compare with
    python benchmarks/bench_clusters_taxa.py [--rows 10000000] [--folder DIR]

Makes a synthetic taxonomy of NCBI's size and a FASTA file with its index, with the headers of
UniRef50: taxa are Zipf-distributed, and the more members a cluster has the higher is the rank of
its common ancestor. Every contender makes a table of the records by taxon and the statistics of
the taxa, in a process of its own. Printed are seconds, the processors' seconds (with those of
Python's start) and the most memory of each; the time of this project is that of the whole call,
its hashes and manifest included.

With --folder the data are kept and used again: 5 GB, and 9 GB while they are made.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024
_FASTA, _TAXDUMP, _SPECIES_LIST = "proteins.fasta", "taxdump", "speclist.txt"


def run_esm_sae(folder: Path, out: Path) -> float:
    return _cluster(folder, out)


def run_esm_sae_at_rank(folder: Path, out: Path) -> float:
    return _cluster(folder, out, taxonomy=folder / _TAXDUMP, rank="species")


def run_esm_sae_representative(folder: Path, out: Path) -> float:
    return _cluster(
        folder,
        out,
        taxonomy=folder / _TAXDUMP,
        rank="species",
        organism="representative",
        species_list=folder / _SPECIES_LIST,
    )


def run_dictionary(folder: Path, out: Path) -> float:
    """Loop over the FASTA's lines, and collect what belongs to a taxon in a dictionary."""
    started = time.perf_counter()
    pattern = re.compile(r" Tax=(.+?) TaxID=(\d+)")
    taxa: dict[tuple[str, str], list[tuple[str, int]]] = {}
    header, length = "", 0

    def add() -> None:
        if header and (found := pattern.search(header)):
            taxa.setdefault((found[1], found[2]), []).append((header, length))

    with (folder / _FASTA).open() as file:
        for line in file:
            if line.startswith(">"):
                add()
                header, length = line[1:-1], 0
            else:
                length += len(line) - 1
        add()
    with (out / "taxa.tsv").open("w") as file:
        for (name, taxid), members in taxa.items():
            for header, length in members:
                file.write(f"{header.split(' ', 1)[0]}\t{header}\t{name}\t{taxid}\t{length}\n")
    with (out / "statistics.json").open("w") as file:
        json.dump({f"{key[0]} ({key[1]})": _described(taxa[key]) for key in taxa}, file)
    return time.perf_counter() - started


def run_pandas(folder: Path, out: Path) -> float:
    """Read the index whole, group it, and write it back."""
    import pandas

    started = time.perf_counter()
    index = pandas.read_parquet(folder / f"{Path(_FASTA).stem}.index.parquet")
    lengths = index.groupby("taxid")["length"]
    table = lengths.agg(["size", "mean"])
    table = table.join(lengths.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack())
    names = index.groupby("taxid")["taxon"].first()
    index["cluster"] = index["taxid"].map(names)
    columns = ["sequence_id", "header", "cluster", "taxid", "length", "offset"]
    index[columns].to_parquet(out / "taxa.parquet", compression="zstd")
    table.rename(columns=str).assign(name=names).to_json(out / "statistics.json", orient="index")
    return time.perf_counter() - started


CONTENDERS: dict[str, tuple[Callable[[Path, Path], float], str, str]] = {
    "esm_sae": (run_esm_sae, "esm_sae", "taxa as given"),
    "esm_sae, species": (run_esm_sae_at_rank, "esm_sae", "lifted by a taxonomy"),
    "esm_sae, representative": (
        run_esm_sae_representative,
        "esm_sae",
        "species of the representative's code, or else of the common ancestor",
    ),
    "dictionary of lists": (run_dictionary, "json", "taxa as given, in the order of taxa"),
    "pandas": (run_pandas, "pandas", "taxa as given, from the index"),
}


def main() -> None:
    """Make the data, run the contenders and print the table."""
    options = _parser().parse_args()
    if options.make:
        _make(Path(options.make), options.rows)
        return
    if options.run:
        name, folder, out = options.run
        print(json.dumps(CONTENDERS[name][0](Path(folder), Path(out))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary) / f"taxa_{options.rows}"
        if not (folder / f"{_FASTA}.manifest.json").is_file():
            # In a process of its own: what this one holds would count as every contender's memory.
            command = [sys.executable, __file__, "--make", str(folder), "--rows", str(options.rows)]
            subprocess.run(command, check=True)
        print("\n| | s | CPU s | peak MB | |\n|---|---|---|---|---|")
        for name, (_, package, note) in CONTENDERS.items():
            if importlib.util.find_spec(package) and name.startswith(tuple(options.only)):
                seconds, busy, memory = _measured(name, folder, options.rounds)
                figures = f"{seconds:,.1f} | {busy:,.1f} | {memory / 1e6:,.0f}"
                print(f"| {name} | {figures} | {note} |", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="records")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each contender")
    parser.add_argument("--folder", help="where the data are made, and kept")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="START", help="contenders by the start of a name"
    )
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser


def _make(folder: Path, rows: int) -> None:
    from synthetic_taxa import (
        make_taxonomy,
        write_species_list,
        write_taxdump,
        write_uniref_like_fasta,
    )

    from esm_sae.sequences import sample_fasta

    taxonomy = make_taxonomy()
    write_taxdump(taxonomy, folder / _TAXDUMP)
    write_species_list(taxonomy, folder / _SPECIES_LIST)
    source = folder / f"source_{_FASTA}"
    write_uniref_like_fasta(taxonomy, source, rows)
    # With an index and a manifest beside it, as the asset graph has it.
    sample_fasta(source, folder / _FASTA, rows)
    source.unlink()


def _cluster(folder: Path, out: Path, **options: object) -> float:
    from esm_sae.clusters import cluster_taxa

    started = time.perf_counter()
    cluster_taxa(folder / _FASTA, out / "taxa.parquet", **options)
    return time.perf_counter() - started


def _described(members: list[tuple[str, int]]) -> dict[str, float]:
    lengths = sorted(length for _, length in members)
    quantiles = {
        f"q{share}": lengths[round(share / 100 * (len(lengths) - 1))]
        for share in (5, 25, 50, 75, 95)
    }
    return {"size": len(lengths), "mean_length": statistics.fmean(lengths), **quantiles}


def _measured(name: str, folder: Path, rounds: int) -> tuple[float, float, float]:
    """Return medians of seconds and CPU seconds, and the most bytes of memory, of the rounds."""
    seconds, busy, memory = [], [], 0
    for _ in range(rounds):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        command = [sys.executable, __file__, "--run", name, str(folder), str(out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        output = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{name}: failed with status {status}")
        seconds.append(json.loads(output))
        busy.append(usage.ru_utime + usage.ru_stime)
        memory = max(memory, usage.ru_maxrss * _MEMORY_UNIT)
        shutil.rmtree(out)
    return statistics.median(seconds), statistics.median(busy), memory


if __name__ == "__main__":
    main()
