"""The JSON files of clusters: sequences by cluster, embedded clusters, statistics, mapping."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError

NOISE = "-1"

_ENTRY_KEYS = {"sequence", "header", "embedding"}

SequencesByCluster = dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class EmbeddedClusters:
    """Sequences by taxon with one vector each, as parallel columns.

    Attributes:
        taxa: taxon of each protein, N names.
        sequences: N amino-acid sequences.
        headers: N FASTA headers.
        embeddings: (N, D) float32.
    """

    taxa: list[str]
    sequences: list[str]
    headers: list[str]
    embeddings: np.ndarray


def read_sequences(path: storage.PathLike) -> SequencesByCluster:
    """Read ``{cluster: [[sequence, header], ...]}``.

    Raises:
        InputError: the JSON has another shape; the cluster is named.
    """
    content = _mapping_of_lists(path)
    clusters: SequencesByCluster = {}
    for cluster, members in content.items():
        for number, member in enumerate(members):
            pair = isinstance(member, list) and len(member) == 2
            if not pair or not all(isinstance(part, str) for part in member):
                raise InputError(
                    f"{os.fspath(path)}: entry {number + 1} of cluster '{cluster}' is not a "
                    "[sequence, header] pair"
                )
        clusters[cluster] = [(sequence, header) for sequence, header in members]
    return clusters


def encode_sequences(clusters: Mapping[str, Sequence[tuple[str, str]]]) -> bytes:
    """Encode clusters as ``{cluster: [[sequence, header], ...]}``."""
    return storage.encode_compact_json(
        {name: [list(pair) for pair in members] for name, members in clusters.items()}
    )


def read_embedded(path: storage.PathLike) -> EmbeddedClusters:
    """Read ``{taxon: [{"sequence", "header", "embedding"}, ...]}``.

    Raises:
        InputError: the JSON has another shape or vectors differ in width; the taxon is named.
    """
    content = _mapping_of_lists(path)
    taxa, sequences, headers, vectors = [], [], [], []
    for taxon, members in content.items():
        for number, member in enumerate(members):
            where = f"{os.fspath(path)}: entry {number + 1} of taxon '{taxon}'"
            if not isinstance(member, dict) or not set(member) >= _ENTRY_KEYS:
                raise InputError(f"{where} lacks sequence, header or embedding")
            if not isinstance(member["sequence"], str) or not isinstance(member["header"], str):
                raise InputError(f"{where} has a sequence or header that is not text")
            vector = _vector(member["embedding"], where)
            if vectors and len(vector) != len(vectors[0]):
                raise InputError(
                    f"{where} has an embedding of width {len(vector)}, others {len(vectors[0])}"
                )
            taxa.append(taxon)
            sequences.append(member["sequence"])
            headers.append(member["header"])
            vectors.append(vector)
    if not vectors:
        raise InputError(f"{os.fspath(path)}: holds no embedded protein")
    return EmbeddedClusters(taxa, sequences, headers, np.stack(vectors))


def encode_embedded(clusters: EmbeddedClusters) -> bytes:
    """Encode embedded clusters; each float32 is written with the digits that restore it."""
    content: dict[str, list[dict[str, Any]]] = {}
    rows = zip(
        clusters.taxa, clusters.sequences, clusters.headers, clusters.embeddings, strict=True
    )
    for taxon, sequence, header, vector in rows:
        entry = {
            "sequence": sequence,
            "header": header,
            "embedding": [float(digits) for digits in vector.astype(np.float32).astype(str)],
        }
        content.setdefault(taxon, []).append(entry)
    return storage.encode_compact_json(content)


def _mapping_of_lists(path: storage.PathLike) -> dict[str, list[Any]]:
    content = storage.read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{os.fspath(path)}: expected an object of clusters, found another shape")
    if not content:
        raise InputError(f"{os.fspath(path)}: holds no cluster")
    for cluster, members in content.items():
        if not isinstance(members, list):
            raise InputError(f"{os.fspath(path)}: cluster '{cluster}' is not a list")
    return content


def _vector(value: Any, where: str) -> np.ndarray:
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, dtype=np.float32)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise InputError(f"{where} has an embedding that is not a list of finite numbers")
    return vector
