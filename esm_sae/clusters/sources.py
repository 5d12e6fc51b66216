"""The members of clusters from either form that clusters have: a table, or a JSON."""

import os
from array import array
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.clusters.members import Members
from esm_sae.clusters.tables import ClusterTable, identity_of_file, is_table, open_table
from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import read_sequences
from esm_sae.progress import progress


class MemberSource(NamedTuple):
    """Members of clusters, and how to get their sequences.

    Attributes:
        members: all of them, in the file's order.
        pairs: gives (sequence, header) of the members with the given numbers, in that order.
    """

    members: Members
    pairs: Callable[[np.ndarray], list[tuple[str, str]]]


def member_source(
    clusters: storage.PathLike, fasta: storage.PathLike | None
) -> tuple[Callable[[], MemberSource], dict[str, str]]:
    """Return how the members are loaded, and the hashes of the files they come from.

    Args:
        clusters: cluster JSON, or cluster table (parquet).
        fasta: for a table, the FASTA with the sequences; by default the one recorded in it.

    Raises:
        InputError: there is no such file, or a FASTA is named with a JSON; loading raises it
            where the file cannot be used.
    """
    inputs = {"clusters": identity_of_file(clusters)}
    if is_table(clusters):
        table = open_table(clusters, fasta)
        return lambda: _of_table(table), {**inputs, "fasta": table.fasta_sha256}
    if fasta is not None:
        raise InputError(
            f"{os.fspath(clusters)}: a JSON of clusters holds its sequences; leave out --fasta"
        )
    return lambda: _of_json(clusters), inputs


def _of_table(table: ClusterTable) -> MemberSource:
    located = table.located()

    def pairs(chosen: np.ndarray) -> list[tuple[str, str]]:
        found = {}
        with progress(len(chosen), unit="sequences", description="reading sequences") as shown:
            for place, record in table.records(located, chosen):
                found[place] = (record.sequence, record.header)
                shown.update(1)
        return [found[place] for place in range(len(chosen))]

    return MemberSource(located.members, pairs)


def _of_json(path: storage.PathLike) -> MemberSource:
    """Read a cluster JSON; its sequences are read a second time, those that are drawn."""
    numbers: dict[str, int] = {}
    clusters, lengths = array("I"), array("i")
    with progress(None, unit="sequences", description="reading clusters") as shown:
        for member in read_sequences(path):
            clusters.append(numbers.setdefault(member.cluster, len(numbers)))
            lengths.append(len(member.sequence))
            shown.update(1)
    names = sorted(numbers)
    places = np.empty(len(names), dtype=np.uint32)
    places[[numbers[name] for name in names]] = np.arange(len(names))
    members = Members(names, places[np.asarray(clusters)], np.asarray(lengths))

    def pairs(chosen: np.ndarray) -> list[tuple[str, str]]:
        wanted = set(chosen.tolist())
        found = {
            row: (member.sequence, member.header)
            for row, member in enumerate(read_sequences(path))
            if row in wanted
        }
        return [found[row] for row in chosen.tolist()]

    return MemberSource(members, pairs)
