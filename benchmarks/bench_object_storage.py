"""What a data root on object storage costs this machine: sending, fetching and comparing shards.

    python benchmarks/bench_object_storage.py [--shards 1000]

The store is fsspec's, in memory, so that what is measured is our own work and the local disk's; a
real store adds its requests. A shard has two rows in two files. The last line is a hash of 1 GB,
which is taken once when a file is sent and once when it arrives.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae.formats.manifest import Product, produce_files
from esm_sae.formats.shards import (
    ROW_SCHEMA,
    Provenance,
    publish_manifest,
    shard_name,
    shard_paths,
)
from esm_sae.remote import Mirror, ObjectStore

FOLDER = "embeddings3"
_COUNTS = ("proteins", "residues", "truncated", "windowed", "skipped", "unknown_letters")
_PROVENANCE = Provenance("esmc_test", "", "0" * 64, 3, "mean", "float32")


def main() -> None:
    """Parse the options, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _measure(options.shards, Path(folder))


def _measure(count: int, base: Path) -> None:
    store = ObjectStore("memory://bench/root")
    one, two = (Mirror(store, base / name, 10**12) for name in ("one", "two"))
    (one.folder / FOLDER).mkdir(parents=True)
    products = [_make_shard(one.folder / FOLDER, shard, count) for shard in range(count)]
    names = [f"{FOLDER}/{shard_name(shard, count)}.json" for shard in range(count)]

    def bring_tables() -> None:
        two.bring([*names, f"{FOLDER}/manifest.json"], hold=FOLDER, without=".npy")

    _timed(f"sending {count:,} shards", lambda: [one.push(product) for product in products])
    _timed("fetching manifests and row tables", bring_tables)
    _timed("seeing that they are what the store has", bring_tables)
    common = _timed(
        "their common manifest",
        lambda: publish_manifest(two.folder / FOLDER, count=count, matrices=False),
    )
    _timed("sending that", lambda: two.push(common))
    _timed("fetching the matrices", lambda: two.bring_folder(FOLDER))
    _timed("seeing that all is what the store has", lambda: two.bring_folder(FOLDER))
    data = np.random.default_rng(0).bytes(10**9)
    _timed("sha256 of 1 GB", lambda: hashlib.sha256(data).hexdigest())


def _make_shard(folder: Path, shard: int, count: int) -> Product:
    def build(paths: list[Path]) -> dict[str, Any]:
        with paths[0].open("wb") as file:
            np.save(file, np.full((2, 4), shard, np.float32))
        table = {"sequence_id": [f"{shard}a", f"{shard}b"], "header": ["", ""], "length": [1, 1]}
        empty = {name: [None, None] for name in ROW_SCHEMA if name not in table}
        pl.DataFrame(table | empty, schema=ROW_SCHEMA).write_parquet(paths[1])
        return {"rows": 2, "width": 4} | dict.fromkeys(_COUNTS, 0) | {"proteins": 2}

    paths = shard_paths(folder, shard, count, with_means=False)
    return produce_files(
        paths,
        manifest=paths[0].with_suffix(".json"),
        kind="embedding_shard",
        determinants={
            "provenance": asdict(_PROVENANCE),
            "options": {"dtype": "float32"},
            "source": "1",
            "shard": [shard, count],
        },
        build=build,
    )


def _timed(label: str, action: Callable[[], Any]) -> Any:
    started, cores = time.perf_counter(), time.process_time()
    result = action()
    seconds, core_seconds = time.perf_counter() - started, time.process_time() - cores
    print(f"| {label} | {seconds:.2f} s | {core_seconds:.2f} core s |", flush=True)
    return result


if __name__ == "__main__":
    main()
