"""The example proteins of MMseqs2, of which the bundled ones are a part."""

from pathlib import Path
from typing import NamedTuple

from esm_sae.data.cut_proteins import SOURCE_FILES, check_source, without_duplicates
from esm_sae.formats.fasta import Record, read_fasta
from esm_sae.formats.headers import parse_header
from esm_sae.split import read_similarity_clusters, split_of


class SourceProtein(NamedTuple):
    """A protein of the source.

    Attributes:
        sequence_id: its id.
        header: its whole header.
        sequence: its residues.
        cluster: its similarity cluster.
        split: its split, that of its cluster.
    """

    sequence_id: str
    header: str
    sequence: str
    cluster: str
    split: str


def read_source(source: Path) -> list[SourceProtein]:
    """Read the proteins of the source with their clusters and splits, each sequence once.

    Raises:
        InputError: the source is not the expected one.
    """
    check_source(source)
    records = [record for name in SOURCE_FILES for record in read_fasta(source / name)]
    clusters = read_similarity_clusters("bundled")
    first: dict[str, Record] = {}
    for record in without_duplicates(records):
        first.setdefault(record.sequence, record)
    proteins = []
    for record in first.values():
        sequence_id = parse_header(record.header).sequence_id
        cluster = clusters[sequence_id]
        proteins.append(
            SourceProtein(sequence_id, record.header, record.sequence, cluster, split_of(cluster))
        )
    return proteins
