"""Make the bundled proteins and their similarity clusters from the examples of MMseqs2.

The source is the Debian package ``mmseqs2-examples``: two FASTA files of UniProtKB records. The
program ``mmseqs`` must be installed. The FASTA file holds every short record and a uniform
sample of the longer ones; the clusters cover all records of the source.
"""

import argparse
import gzip
import hashlib
import io
import logging
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.cli import command, run
from esm_sae.errors import InputError
from esm_sae.formats.fasta import Record, read_fasta
from esm_sae.formats.headers import parse_header

SHORT_LENGTH = 256
LONG_RECORDS = 5_000
MIN_SHORT_RECORDS = 7_000
TAXON_SIZE = 20
MIN_TAXA = 15
MAX_FASTA_BYTES = 3_500_000

# Connected components of one all-against-all search: two proteins that the search finds similar
# share a cluster, so a split by cluster never parts them. MMseqs2's default (greedy set cover)
# promises that only of a member and its representative. `--max-seqs` is above the size of the
# largest family, so that no list of hits is cut off.
MMSEQS_OPTIONS = (
    *("--min-seq-id", "0.3", "-c", "0.8", "--cov-mode", "0", "-e", "0.001"),
    *("--single-step-clustering", "1", "--cluster-mode", "1", "-s", "6", "--max-seqs", "500"),
)

SOURCE_FILES = {
    "DB.fasta.gz": "92a65aa435f5d3e0f33eb47d87910fe7fc6033a28bf4ed1367094377d791d567",
    "QUERY.fasta.gz": "a754e5ba84348d8c3a98c11c468c8c63a3a7a8d3557ac0be42f439d01d78334d",
}
_RESIDUES = frozenset("ACDEFGHIKLMNPQRSTVWYXBZUO")
_LINE_LENGTH = 60

_log = logging.getLogger("esm_sae")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = command(
        "data.cut_proteins",
        "Cut the bundled proteins from the example records of MMseqs2 and cluster them.",
        "python -m esm_sae.data.cut_proteins "
        "--source /usr/share/doc/mmseqs2/example-data --output esm_sae/data",
        seed=True,
    )
    add_source(parser)
    return run(parser, _work, argv)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder of the example records."""
    parser.add_argument(
        "--source", type=Path, required=True, metavar="DIR", help="folder of the example records"
    )


def _work(options: argparse.Namespace) -> str:
    counts = cut_proteins(options.source, options.output, seed=options.seed)
    return (
        f"{options.output}: {counts['bundled_records']} records of {counts['source_records']}, "
        f"{counts['bundled_short_records']} of at most {SHORT_LENGTH} residues; "
        f"{counts['source_clusters']} similarity clusters"
    )


def cut_proteins(source: Path, output: Path, *, seed: int = 0) -> dict[str, int]:
    """Write ``proteins.fasta.gz``, ``similarity_clusters.parquet`` and ``provenance.json``.

    Returns:
        The counts that ``provenance.json`` holds.

    Raises:
        InputError: the source is not the expected one, ``mmseqs`` is missing or fails, or the
            cut would be too small or too large.
    """
    check_source(source)
    records = [record for name in SOURCE_FILES for record in read_fasta(source / name)]
    distinct = without_duplicates(records)
    chosen = choose_records(distinct, long_records=LONG_RECORDS, seed=seed)
    check_records(chosen)
    fasta = encode_fasta(chosen)
    if len(fasta) > MAX_FASTA_BYTES:
        raise InputError(
            f"{source}: the cut takes {len(fasta)} bytes, more than {MAX_FASTA_BYTES}; "
            "lower LONG_RECORDS"
        )
    clusters = similarity_clusters(distinct)
    counts = count(records, distinct, chosen, clusters)

    fasta_path = output / "proteins.fasta.gz"
    clusters_path = output / "similarity_clusters.parquet"
    storage.publish_bytes(fasta_path, fasta)
    with storage.publish(clusters_path) as temporary:
        clusters_table(clusters).write_parquet(temporary, compression="zstd", compression_level=19)
    files = {path.name: storage.sha256_of(path) for path in (fasta_path, clusters_path)}
    storage.publish_json(output / "provenance.json", _provenance(seed, counts, files))
    return counts


def check_source(source: Path) -> None:
    """Check that a folder holds the files that the provenance describes.

    Raises:
        InputError: a file is missing or has other content.
    """
    for name, expected in SOURCE_FILES.items():
        if storage.sha256_of(source / name) != expected:
            raise InputError(
                f"{source / name}: not the file of Debian's mmseqs2-examples 14-7e284+ds-1; "
                "install that version"
            )


def without_duplicates(records: Iterable[Record]) -> list[Record]:
    """Keep the first record of every sequence id, in order."""
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(sequence_id(record), record)
    return list(first.values())


def choose_records(records: Sequence[Record], *, long_records: int, seed: int) -> list[Record]:
    """Choose the records to bundle, in their original order.

    All records of at most ``SHORT_LENGTH`` residues are chosen, and of the longer ones a uniform
    sample of ``long_records``. Records with letters other than the 20 amino acids and X, B, Z,
    U, O are left out.
    """
    plausible = [record for record in records if _RESIDUES.issuperset(record.sequence)]
    longer = [record for record in plausible if not is_short(record)]
    sampled = sorted(longer, key=lambda record: _random_key(sequence_id(record), seed))
    wanted = {sequence_id(record) for record in sampled[:long_records]}
    return [record for record in plausible if is_short(record) or sequence_id(record) in wanted]


def check_records(records: Sequence[Record]) -> None:
    """Check that the demo has enough short proteins and taxa to work with.

    Raises:
        InputError: there are fewer than ``MIN_SHORT_RECORDS`` short records, or fewer than
            ``MIN_TAXA`` taxa that have ``TAXON_SIZE`` of them.
    """
    short = sum(map(is_short, records))
    if short < MIN_SHORT_RECORDS:
        raise InputError(
            f"{short} records of at most {SHORT_LENGTH} residues, {MIN_SHORT_RECORDS} are needed"
        )
    taxa = len(large_taxa(records))
    if taxa < MIN_TAXA:
        raise InputError(
            f"{taxa} taxa with {TAXON_SIZE} records of at most {SHORT_LENGTH} residues, "
            f"{MIN_TAXA} are needed"
        )


def large_taxa(records: Iterable[Record]) -> dict[str, int]:
    """Return the taxa with at least ``TAXON_SIZE`` short records, and how many they have."""
    taxa = Counter(parse_header(record.header).taxon for record in records if is_short(record))
    return {taxon: n for taxon, n in taxa.most_common() if taxon is not None and n >= TAXON_SIZE}


def encode_fasta(records: Iterable[Record]) -> bytes:
    """Encode records as gzipped FASTA of 60 columns.

    The gzip header has no time and no name, so that the same zlib gives the same bytes.
    """
    target = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=target, mtime=0) as file:
        for record in records:
            file.write(_fasta_record(record.header, record.sequence))
    return target.getvalue()


def similarity_clusters(records: Sequence[Record]) -> dict[str, str]:
    """Cluster records with MMseqs2: sequence id -> cluster id, as ``name_clusters`` gives it.

    The result does not depend on the number of threads.

    Raises:
        InputError: ``mmseqs`` is missing or fails.
    """
    program = _mmseqs()
    ids = [sequence_id(record) for record in records]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # MMseqs2 shortens UniProt ids to the accession; ordinals come back as they went in.
        (work / "records.fasta").write_bytes(
            b"".join(
                _fasta_record(str(ordinal), record.sequence)
                for ordinal, record in enumerate(records)
            )
        )
        arguments = ["easy-cluster", "records.fasta", "result", "temporary", *MMSEQS_OPTIONS]
        _log.info("clustering %d records: mmseqs %s", len(records), " ".join(arguments))
        finished = subprocess.run(
            [program, *arguments], cwd=work, capture_output=True, text=True, check=False
        )
        if finished.returncode:
            raise InputError(f"mmseqs failed: {(finished.stdout + finished.stderr)[-500:].strip()}")
        pairs = (work / "result_cluster.tsv").read_text().split()
    component_of = dict(zip(map(int, pairs[1::2]), map(int, pairs[0::2]), strict=True))
    clusters = name_clusters({ids[member]: name for member, name in component_of.items()})
    if clusters.keys() != set(ids):
        raise InputError(f"mmseqs clustered {len(clusters)} records of {len(ids)}")
    return clusters


def name_clusters(components: Mapping[str, Hashable]) -> dict[str, str]:
    """Name every cluster after its first member in the order of sequence ids.

    In a connected component no member stands for the others, and MMseqs2's choice among them
    depends on its version; the name decides the split, so it follows from the members alone.
    """
    names: dict[Hashable, str] = {}
    return {name: names.setdefault(components[name], name) for name in sorted(components)}


def clusters_table(clusters: Mapping[str, str]) -> pl.DataFrame:
    """Return the table ``sequence_id, cluster_id``, sorted by sequence id."""
    ids = sorted(clusters)
    return pl.DataFrame({"sequence_id": ids, "cluster_id": [clusters[name] for name in ids]})


def count(
    records: Sequence[Record],
    distinct: Sequence[Record],
    chosen: Sequence[Record],
    clusters: Mapping[str, str],
) -> dict[str, int]:
    """Count what the source and the bundle hold."""
    sizes = Counter(clusters.values())
    return {
        "source_records": len(records),
        "source_duplicate_ids_dropped": len(records) - len(distinct),
        "source_clusters": len(sizes),
        "source_largest_cluster": max(sizes.values()),
        "source_implausible_records": sum(
            not _RESIDUES.issuperset(record.sequence) for record in distinct
        ),
        "bundled_records": len(chosen),
        "bundled_residues": sum(len(record.sequence) for record in chosen),
        "bundled_clusters": len({clusters[sequence_id(record)] for record in chosen}),
        "bundled_short_records": sum(map(is_short, chosen)),
        "bundled_short_residues": sum(len(r.sequence) for r in chosen if is_short(r)),
        "bundled_short_clusters": len({clusters[sequence_id(r)] for r in chosen if is_short(r)}),
        "bundled_records_over_2048": sum(len(record.sequence) > 2048 for record in chosen),
        "bundled_taxa": len({parse_header(record.header).taxon for record in chosen}),
        "bundled_large_taxa": len(large_taxa(chosen)),
    }


def is_short(record: Record) -> bool:
    """Whether a record has at most ``SHORT_LENGTH`` residues."""
    return len(record.sequence) <= SHORT_LENGTH


def sequence_id(record: Record) -> str:
    """Return the first word of a record's header."""
    return parse_header(record.header).sequence_id


def _fasta_record(header: str, sequence: str) -> bytes:
    lines = [sequence[at : at + _LINE_LENGTH] for at in range(0, len(sequence), _LINE_LENGTH)]
    return "\n".join([f">{header}", *lines, ""]).encode()


def _random_key(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16, person=b"cut").digest()


def _mmseqs() -> str:
    program = shutil.which("mmseqs")
    if program is None:
        raise InputError("the program mmseqs is not installed; install Debian's package mmseqs2")
    return program


def _provenance(seed: int, counts: dict[str, int], files: dict[str, str]) -> dict[str, Any]:
    version = subprocess.run([_mmseqs(), "version"], capture_output=True, text=True, check=True)
    return {
        "data": "UniProtKB (Swiss-Prot and TrEMBL) protein records",
        "creator": "The UniProt Consortium",
        "licence": "CC BY 4.0, https://www.uniprot.org/help/license",
        "citation": "The UniProt Consortium. UniProt: the Universal Protein Knowledgebase in "
        "2025. Nucleic Acids Research 53, D609-D617 (2025)",
        "changes": "a selection of the records; sequences wrapped to 60 columns, headers and "
        "residues unchanged",
        "source": {
            "package": "Debian mmseqs2-examples",
            "version": "14-7e284+ds-1",
            "files": SOURCE_FILES,
            "uniprot_release": "not stated by the package",
        },
        "cut": {
            "command": "python -m esm_sae.data.cut_proteins "
            f"--source /usr/share/doc/mmseqs2/example-data --output esm_sae/data --seed {seed}",
            "seed": seed,
            "rule": f"every record of at most {SHORT_LENGTH} residues and a uniform sample of "
            f"{LONG_RECORDS} longer ones, in source order, the first record of each id",
        },
        "clusters": {
            "program": "MMseqs2",
            "version": version.stdout.strip(),
            "command": "mmseqs easy-cluster " + " ".join(MMSEQS_OPTIONS),
            "input": "all records of the source, the first record of each id",
            "rule": "connected components: two records with an alignment of at least 30% "
            "identity over 80% of both share a cluster; cluster_id is the first sequence_id of its "
            "members; the number of threads makes no difference",
            "citation": "Steinegger M, Soding J. MMseqs2 enables sensitive protein sequence "
            "searching for the analysis of massive data sets. Nature Biotechnology 35, "
            "1026-1028 (2017)",
        },
        "counts": counts,
        "sha256": files,
    }


if __name__ == "__main__":
    sys.exit(main())
