"""Cluster tables as JSON of sequences by cluster."""

import itertools
import shutil
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from esm_sae import storage
from esm_sae.clusters.tables import ClusterTable, Located, identity_of_file, open_table
from esm_sae.formats.clusters_json import encode_member
from esm_sae.formats.json_lists import EntryWriter, entry_writer
from esm_sae.formats.manifest import Product, manifest_beside, produce_files
from esm_sae.progress import progress

_ALGORITHM = "clusters-json-1"
_LARGEST = 10
# About the size of what is brought into order at once, and how many such parts there are at most:
# each has an open file.
_PART_BYTES = 1 << 26
_MOST_PARTS = 100
_HEADER_BYTES = 100


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

    The FASTA is read once, in its own order, into temporary files beside the output that take
    about the room of the output. Memory is bounded by some 60 bytes a member and one of these
    files, which is of some 64 MiB, or a hundredth of all where that is more; for a table without
    offsets also by its ids and the FASTA's.

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
        located = opened.located()
        members = located.members
        sizes = members.sizes()
        order = members.by_size(sizes)
        folder = storage.temporary_beside(target)
        folder.mkdir()
        try:
            with entry_writer(temporaries[0]) as writer:
                _write_members(opened, located, order, writer, folder)
        finally:
            shutil.rmtree(folder)
        noise = int(members.noise().sum())
        real = order[:-1] if noise else order
        return {
            "clusters": len(real),
            "sequences": len(members.clusters),
            "noise": noise,
            "largest": members.described(real[:_LARGEST], sizes),
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


def _write_members(
    table: ClusterTable, located: Located, order: np.ndarray, writer: EntryWriter, folder: Path
) -> None:
    """Write the members cluster by cluster, which come from the FASTA in another order."""
    members = located.members
    rank = np.empty(len(members.names), dtype=np.uint32)
    rank[order] = np.arange(len(order))
    rows = np.argsort(rank[members.clusters], kind="stable")
    ends = _ends_of_parts(members.lengths[rows])
    files = [folder / f"{number:03d}" for number in range(len(ends))]
    start = 0
    for file, places, end in zip(
        files, _spread(table, located, rows, ends, files), ends.tolist(), strict=True
    ):
        lines = file.read_bytes().split(b"\n")
        file.unlink()
        entries = [lines[line] for line in np.argsort(places)]
        for cluster, run in _runs(members.clusters[rows[start:end]]):
            writer.add(members.names[cluster], entries[run])
        start = end


def _ends_of_parts(lengths: np.ndarray) -> np.ndarray:
    """Return where each part of the members ends, so that all are of about equal size."""
    size = np.cumsum(lengths + _HEADER_BYTES, dtype=np.int64)
    part = size // max(_PART_BYTES, int(size[-1]) // _MOST_PARTS + 1)
    return np.append(np.flatnonzero(np.diff(part)) + 1, len(lengths))


def _spread(
    table: ClusterTable, located: Located, rows: np.ndarray, ends: np.ndarray, files: list[Path]
) -> list[np.ndarray]:
    """Write each member as a line into the file of the part that its place is in.

    Returns:
        For each file the places of its lines.
    """
    places = [array("q") for _ in files]
    with ExitStack() as stack:
        outputs = [stack.enter_context(file.open("wb")) for file in files]
        shown = stack.enter_context(
            progress(len(rows), unit="sequences", description="reading sequences")
        )
        part_of = np.repeat(np.arange(len(ends), dtype=np.uint8), np.diff(ends, prepend=0))
        for place, record in table.records(located, rows):
            part = part_of[place]
            outputs[part].write(encode_member(record.sequence, record.header) + b"\n")
            places[part].append(place)
            shown.update(1)
    return [np.asarray(own) for own in places]


def _runs(clusters: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Yield each run of one cluster."""
    bounds = [0, *(np.flatnonzero(np.diff(clusters)) + 1).tolist(), len(clusters)]
    for start, end in itertools.pairwise(bounds):
        yield int(clusters[start]), slice(start, end)
