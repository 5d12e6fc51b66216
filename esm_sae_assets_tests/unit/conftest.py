"""Fixtures: a source, a small SAE in NumPy, embedded clusters, machines around a store."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.embedded_clusters import EmbeddedClusters, write_embedded_json
from esm_sae.remote import Mirror
from mirrored_outputs import ROOMY, CountingStore


class FakeSAE:
    """TopK and ReLU of a random projection; the last two latents never fire."""

    ENCODER: ClassVar[dict[str, Any]] = {
        "encoder": "esmc_test",
        "weights_sha256": "0" * 64,
        "layer": 3,
    }

    def __init__(self, width: int = 8, latents: int = 24, k: int = 4, **config: Any) -> None:
        generator = np.random.default_rng(7)
        self.kernel = generator.standard_normal((width, latents)).astype(np.float32)
        self.kernel[:, -2:] = 0
        self.config = SAEConfig(width, latents, k, **config)
        self.fingerprint = "fake"

    def encode_sparse(self, x: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        dense = np.maximum(x @ self.kernel, 0)
        latents = np.argsort(-dense, axis=1, kind="stable")[:, : self.config.k]
        return np.take_along_axis(dense, latents, axis=1), latents

    def reconstruct(self, rows: np.ndarray, /) -> np.ndarray:
        return rows

    def dense(self, x: np.ndarray) -> np.ndarray:
        """Return (N, L) activations of TopK, one row at a time as the layer will have it."""
        out = np.zeros((len(x), self.config.latent_dim), dtype=np.float32)
        values, latents = self.encode_sparse(x)
        np.put_along_axis(out, latents, values, axis=1)
        return out


def _write_clusters(
    folder: Path,
    sizes: dict[str, int],
    *,
    width: int = 8,
    residues: bool = False,
    header: str = "tr|P{:05d}|P_TEST Protein {} OS=Some taxon",
) -> tuple[Path, EmbeddedClusters, list[np.ndarray]]:
    """Write ``embedded_clusters.json`` with random vectors; return each protein's residues too."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(3)
    taxa = [taxon for taxon, size in sizes.items() for _ in range(size)]
    sequences = [
        "".join(generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), 5 + n)) for n in range(len(taxa))
    ]
    headers = [header.format(number, number) for number in range(len(taxa))]
    matrices = [generator.standard_normal((len(s), width)).astype(np.float32) for s in sequences]
    means = np.stack([matrix.mean(axis=0) for matrix in matrices])
    clusters = EmbeddedClusters(taxa, sequences, headers, means)
    path = folder / "embedded_clusters.json"
    write_embedded_json(path, clusters)
    if residues:
        np.save(folder / "embedded_clusters.residues.npy", np.concatenate(matrices))
        table = [
            {"protein": number, "taxon": taxa[number], "header": headers[number], "position": at}
            for number, sequence in enumerate(sequences)
            for at in range(1, len(sequence) + 1)
        ]
        pl.DataFrame(table).write_parquet(folder / "embedded_clusters.residues.parquet")
    return path, clusters, matrices


@pytest.fixture
def fake_sae() -> type[FakeSAE]:
    """Return the class of a small SAE."""
    return FakeSAE


@pytest.fixture
def write_clusters() -> Callable[..., tuple[Path, EmbeddedClusters, list[np.ndarray]]]:
    """Return a function that writes embedded clusters and returns their parts."""
    return _write_clusters


@pytest.fixture
def analysis_run(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Return a function that makes all tables of an SAE on embedded clusters; their paths."""
    from esm_sae.analysis import (
        compute_activations,
        feature_taxonomy,
        open_cluster_rows,
        summarise_latents,
    )

    def run(sae: FakeSAE, **clusters: Any) -> dict[str, Path]:
        residues = sae.config.pooling == "residue"
        sizes = clusters.pop("sizes", {"Homo sapiens": 9, "Mus musculus": 8, "Lonely": 1})
        path, _, _ = _write_clusters(tmp_path / "in", sizes, residues=residues, **clusters)
        rows = open_cluster_rows(path, pooling=sae.config.pooling)
        activations = compute_activations(sae, rows, tmp_path / "activations").path
        taxonomy = feature_taxonomy(sae, path, tmp_path / "taxonomy").path
        summary = summarise_latents(activations, taxonomy, tmp_path / "feature_summary.parquet")
        return {"activations": activations, "taxonomy": taxonomy, "summary": summary.path}

    return run


@pytest.fixture
def source(write_fasta: Callable[..., Path], random_proteins: Callable[..., Any]) -> Path:
    """Return a FASTA file of 300 proteins in short lines."""
    return write_fasta(random_proteins(300), "source.fasta", width=15)


@pytest.fixture
def bucket_url() -> str:
    """Return the URL of an empty store in memory."""
    return f"memory://bucket/{uuid.uuid4().hex}"


@pytest.fixture
def machine(bucket_url: str, tmp_path: Path) -> Callable[..., Mirror]:
    """Return a function that gives a machine of its own: a copy of the one store."""

    def make(name: str = "one", limit: int = ROOMY) -> Mirror:
        return Mirror(CountingStore(bucket_url), tmp_path / name, limit)

    return make
