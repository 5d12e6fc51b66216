"""The JSON of clusters: ``{cluster: [[sequence, header], ...]}``, read and written in parts."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.json_lists import encode_json, entry_of, entry_writer, read_entries

NOISE = "-1"

SequencesByCluster = Mapping[str, Sequence[tuple[str, str]]]


class Member(NamedTuple):
    """A sequence of a cluster.

    Attributes:
        cluster: name of the cluster.
        number: its place in the cluster's list, from 1.
        sequence: the amino acids.
        header: the FASTA header.
    """

    cluster: str
    number: int
    sequence: str
    header: str


def read_sequences(path: storage.PathLike) -> Iterator[Member]:
    """Read ``{cluster: [[sequence, header], ...]}``, one member at a time, in the file's order.

    Memory is bounded as that of ``read_entries``. A cluster with an empty list has no member.

    Raises:
        InputError: as ``read_entries``, or an entry is no pair of texts.
    """
    for cluster, number, entry in read_entries(path):
        is_pair = isinstance(entry, list) and len(entry) == 2
        if not is_pair or not all(isinstance(part, str) for part in entry):
            raise InputError(
                f"{os.fspath(path)}: {entry_of(cluster, number)} is not a [sequence, header] pair"
            )
        yield Member(cluster, number, *entry)


def write_sequences(path: Path, clusters: SequencesByCluster) -> None:
    """Write clusters as ``{cluster: [[sequence, header], ...]}``."""
    with entry_writer(path) as writer:
        for name, members in clusters.items():
            writer.add(name, [encode_member(*pair) for pair in members])


def encode_member(sequence: str, header: str) -> bytes:
    """Return the JSON of a member, which is one line."""
    # Text alone is encoded several times as fast as in a list.
    return b"[%s, %s]" % (encode_json(sequence), encode_json(header))
