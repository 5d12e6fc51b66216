"""Cluster tables as JSON of sequences by cluster."""

from pathlib import Path
from typing import Any

from esm_sae import storage
from esm_sae.clusters.tables import by_size, identity_of_file, open_table
from esm_sae.formats.clusters_json import NOISE, SequencesByCluster, encode_sequences
from esm_sae.formats.manifest import Product, manifest_beside, produce_files
from esm_sae.progress import progress

_ALGORITHM = "clusters-json-1"
_LARGEST = 10


def clusters_to_json(
    table: storage.PathLike,
    output_json: storage.PathLike,
    *,
    fasta: storage.PathLike | None = None,
) -> Product:
    """Write a cluster table as ``{cluster: [[sequence, header], ...]}``.

    Clusters stand largest first, ties by name, noise (``"-1"``) last; members in the table's
    order. Sequences and headers are those of the FASTA, found by offset where the table has
    offsets, else by sequence_id (and header and order where ids repeat).

    Args:
        table: cluster table, by taxon or by embedding.
        output_json: the file to write.
        fasta: the FASTA with the sequences; by default the one recorded in the table.

    Raises:
        InputError: the table is none, or the FASTA lacks members or is another than was
            clustered.
    """
    target = Path(output_json)
    opened = open_table(table, fasta)

    def build(temporaries: list[Path]) -> dict[str, Any]:
        rows = opened.located()
        sizes = by_size(rows)
        pairs: list[tuple[str, str]] = [("", "")] * len(rows)
        with progress(len(rows), unit="sequences", description="reading sequences") as shown:
            for row, record in opened.records(rows):
                pairs[row] = (record.sequence, record.header)
                shown.update(1)
        clusters: SequencesByCluster = {name: [] for name in sizes["cluster"]}
        for name, pair in zip(rows["cluster"], pairs, strict=True):
            clusters[name].append(pair)
        temporaries[0].write_bytes(encode_sequences(clusters))
        real = sizes.filter(sizes["cluster"] != NOISE)
        return {
            "clusters": len(real),
            "sequences": len(rows),
            "noise": len(clusters.get(NOISE, [])),
            "largest": real.head(_LARGEST).to_dicts(),
        }

    return produce_files(
        [target],
        manifest=manifest_beside(target),
        kind="clusters_json",
        determinants={
            "clusters": identity_of_file(table),
            "fasta": opened.fasta_sha256,
            "algorithm": _ALGORITHM,
        },
        build=build,
    )
