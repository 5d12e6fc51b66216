"""Fixtures that tests of several parts share."""

import functools
import gzip
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, settings

from esm_sae.data import bundled_fasta
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import produce_files
from esm_sae.formats.shards import EMBEDDINGS, MEANS, ROW_SCHEMA, Provenance, shard_bounds
from esm_sae.formats.shards import shard_name as name_of

# A busy machine is slow, and that is no failure.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parents[1]

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a parameter of bytes by its argument: gzip writes the time into them.

    The workers of pytest-xdist, which collect at other times, would find other tests.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def write_fasta(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes ``(header, sequence)`` records and returns the path.

    A name that ends in ``.gz`` is compressed; ``width`` wraps lines.
    """

    def write(
        records: Iterable[tuple[str, str]],
        name: str = "proteins.fasta",
        *,
        width: int = 60,
        newline: str = "\n",
    ) -> Path:
        lines = []
        for header, sequence in records:
            lines.append(f">{header}")
            lines += [sequence[at : at + width] for at in range(0, len(sequence), width)]
        content = newline.join([*lines, ""]).encode()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
        return path

    return write


@pytest.fixture
def random_proteins() -> Callable[..., list[tuple[str, str]]]:
    """Return a function that makes ``count`` records with UniRef headers, seeded."""

    def make(
        count: int, *, shortest: int = 5, longest: int = 40, taxa: int = 4, seed: int = 0
    ) -> list[tuple[str, str]]:
        generator = np.random.default_rng(seed)
        records = []
        for number in range(count):
            taxon = int(generator.integers(taxa))
            length = int(generator.integers(shortest, longest + 1))
            header = (
                f"UniRef50_P{number:05d} Protein {number} n=1 Tax=Taxon {taxon} "
                f"TaxID={1000 + taxon} RepID=P{number:05d}_TEST"
            )
            records.append((header, "".join(generator.choice(list(RESIDUES), length))))
        return records

    return make


@pytest.fixture
def write_shards() -> Callable[..., Path]:
    """Return a function that writes a shard store of given matrices and returns its folder.

    ``proteins`` are ``(header, matrix)`` pairs; a matrix has one row, or with residue pooling one
    per residue, and then the means are written too.
    """

    def write(
        directory: Path,
        proteins: Sequence[tuple[str, np.ndarray]],
        *,
        count: int = 1,
        pooling: str = "mean",
        dtype: str = "float32",
        encoder: str = "esmc_test",
        options: Any = None,
    ) -> Path:
        provenance = Provenance(encoder, "", "0" * 64, 3, pooling, "float32")
        for shard in range(count):
            start, stop = shard_bounds(shard, count, len(proteins))
            _write_shard(
                directory,
                proteins[start:stop],
                name_of(shard, count),
                {
                    "provenance": asdict(provenance),
                    "options": options or {"dtype": dtype},
                    "source": "1" * 64,
                    "shard": [shard, count],
                },
                dtype,
            )
        return directory

    return write


@pytest.fixture
def make_shards(
    tmp_path: Path, write_shards: Callable[..., Path]
) -> Callable[..., tuple[Path, np.ndarray]]:
    """Return a function that makes a small random store: its folder and its (N, D) matrix.

    With residue pooling every protein has 2 to 5 rows.
    """

    def make(
        proteins: int = 12,
        width: int = 8,
        *,
        count: int = 3,
        name: str = "embeddings3",
        pooling: str = "mean",
        seed: int = 0,
        **options: Any,
    ) -> tuple[Path, np.ndarray]:
        generator = np.random.default_rng(seed)
        content = []
        for number in range(proteins):
            rows = 1 if pooling == "mean" else int(generator.integers(2, 6))
            header = f"P{number} protein OS=Taxon {number % 3} OX={100 + number % 3}"
            content.append((header, generator.standard_normal((rows, width))))
        folder = write_shards(tmp_path / name, content, count=count, pooling=pooling, **options)
        dtype = options.get("dtype", "float32")
        return folder, np.concatenate([matrix for _, matrix in content]).astype(dtype)

    return make


@pytest.fixture
def python_environment() -> dict[str, str]:
    """Return the environment of child processes that import the library from this checkout."""
    inherited = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *([inherited] if inherited else [])])
    }


@pytest.fixture
def python(
    python_environment: dict[str, str],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs Python code in a fresh process, which can import the library."""

    def run(code: str, *arguments: object, check: bool = True) -> Any:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
            env=python_environment,
        )

    return run


@pytest.fixture
def start_python(
    python_environment: dict[str, str],
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts Python code; what still runs is killed after the test."""
    started = []

    def start(code: str, *arguments: object) -> Any:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=python_environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _write_shard(
    directory: Path,
    proteins: Sequence[tuple[str, np.ndarray]],
    name: str,
    determinants: dict[str, Any],
    dtype: str,
) -> None:
    matrices = [np.asarray(matrix, dtype=dtype) for _, matrix in proteins]
    residues = determinants["provenance"]["pooling"] == "residue"

    def build(paths: list[Path]) -> dict[str, Any]:
        rows = []
        for (header, _), matrix in zip(proteins, matrices, strict=True):
            parsed = parse_header(header)
            rows += [
                (
                    parsed.sequence_id,
                    header,
                    parsed.taxon,
                    parsed.taxid,
                    len(matrix),
                    position + 1 if residues else None,
                )
                for position in range(len(matrix))
            ]
        matrix = np.concatenate(matrices)
        _save(paths[0], matrix)
        pl.DataFrame(rows, schema=ROW_SCHEMA, orient="row").write_parquet(paths[1])
        if residues:
            _save(paths[2], np.stack([protein.mean(axis=0) for protein in matrices]))
        return {
            "rows": len(matrix),
            "proteins": len(matrices),
            "residues": len(matrix),
            "width": matrix.shape[1],
        }

    targets = [directory / f"{name}.npy", directory / f"{name}.parquet"]
    if residues:
        targets.append(directory / f"{name.replace(EMBEDDINGS, MEANS, 1)}.npy")
    produce_files(
        targets,
        manifest=directory / f"{name}.json",
        kind="embedding_shard",
        determinants=determinants,
        build=build,
    )


def _save(path: Path, matrix: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, matrix)


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 400 bundled proteins, as a file of the user's own."""
    path = tmp_path_factory.mktemp("source") / "proteins.fasta"
    with gzip.open(bundled_fasta(), "rt") as file:
        blocks = file.read().split("\n>")
    records = itertools.islice(blocks, 400)
    path.write_text("\n>".join(record.rstrip("\n") for record in records) + "\n")
    return path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Return a function that serves a folder over HTTP and returns the address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and writes no line about it."""

    def log_message(self, format: str, *arguments: Any) -> None:
        del format, arguments
