"""Uniform samples of FASTA files, without replacement and of exact size."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.fasta_reading import BlockReader
from esm_sae.formats.manifest import Product, identity_of, manifest_beside, produce_files
from esm_sae.formats.sequence_index import IndexWriter, index_path
from esm_sae.progress import progress
from esm_sae.sequences.draw import Draw
from esm_sae.sequences.drawn_records import RecordsInFile, changed_meanwhile, read_records
from esm_sae.sequences.identical import find_repeats
from esm_sae.sequences.sampling_checks import require_as_recorded, require_usable
from esm_sae.sequences.selection import Selection, Sieve
from esm_sae.sequences.statistics import LengthCounts, summary_of

_ALGORITHM = "n smallest PCG64 keys, version 2"


@dataclass(frozen=True)
class SampleReport:
    """What became of the records of a source.

    Attributes:
        product: the sample and its manifest, whose summary also has residues, lengths and taxa.
        read: records in the source.
        passing: records that pass the selection.
        sampled: records in the sample.
        dropped: records that do not pass, by the first reason that applies.
    """

    product: Product
    read: int
    passing: int
    sampled: int
    dropped: dict[str, int]


def sample_fasta(
    source: storage.PathLike,
    target: storage.PathLike,
    n: int,
    *,
    min_length: int = 1,
    max_length: int | None = None,
    letters: str | None = None,
    taxa: Sequence[str] | None = None,
    drop_identical: bool = False,
    seed: int = 0,
    sha256: str | None = None,
) -> SampleReport:
    """Draw ``n`` records uniformly without replacement from those that pass.

    Every record of the source has a random key that derives from seed, ``n`` and its number; the
    passing records with the ``n`` smallest keys are the sample (all of them if they are fewer).
    So every subset of ``n`` passing records is equally likely, and the sample is the same for
    any compression of the source. Records are copied byte for byte, in file order; only a missing
    final line end is added.

    The source is read once (twice with ``drop_identical``). Of a compressed one, the records that
    may still be in the sample are kept in a file beside the target: some n (1 + ln(passing / n))
    records, or the first 65,536 where n is smaller. Memory is bounded by 90 bytes per sampled
    record and some 300 MB, whatever the length of the sequences and of the source.

    Beside ``x.fasta`` it writes ``x.index.parquet``, one row per sampled record, and
    ``x.fasta.manifest.json``.

    Args:
        source: FASTA file, plain or compressed by gzip or zstd, or its URL.
        target: the sample, plain FASTA.
        n: records to draw, at least 1.
        min_length: fewest residues of a record that passes.
        max_length: most residues of a record that passes; None is no limit.
        letters: the residue letters that a record may have, in either case; None is all 26.
        taxa: names of taxa, as the headers give them, or TaxIDs, of which a record's own must be
            one; None is any. Their descendants are other taxa.
        drop_identical: pass only the first of the records that have one sequence.
        seed: not negative.
        sha256: the source's hash where it is known; else it is read from the manifest beside the
            source, or computed.

    Raises:
        InputError: an argument is out of range, the source cannot be read or no record passes.
    """
    target = Path(target)
    chosen_taxa = None if taxa is None else tuple(taxa)
    try:
        selection = Selection(min_length, max_length, letters, chosen_taxa, drop_identical)
    except InputError as error:
        raise InputError(f"{target}: {error}") from None
    require_usable(source, target, n, seed)
    state = storage.state_of(source)
    known = identity_of(source) if sha256 is None else sha256
    require_as_recorded(source, known)

    def build(paths: list[Path]) -> dict[str, Any]:
        with (
            _work_folder(target) as folder,
            _drawn(source, selection, Draw(n, seed), folder) as drawn,
        ):
            if not drawn.sieve.passing:
                raise _nothing_passes(source, drawn.sieve)
            lengths, unrecognised = _copy(drawn.records, source, paths, folder)
            if storage.state_of(source) != state:
                raise changed_meanwhile(source)
        return summary_of(drawn.sieve, drawn.lengths, lengths, paths[1], unrecognised)

    product = produce_files(
        [target, index_path(target)],
        manifest=manifest_beside(target),
        kind="sample",
        determinants={
            "source": known,
            "n": n,
            **selection.determinants(),
            "seed": seed,
            "algorithm": _ALGORITHM,
        },
        build=build,
    )
    counts = product.manifest.summary
    try:
        read, passing, sampled = (int(counts[name]) for name in ("read", "passing", "sampled"))
        return SampleReport(product, read, passing, sampled, dict(counts["dropped"]))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{product.manifest_path}: not the manifest of a sample; remove it and sample again"
        ) from None


@dataclass
class _Drawn:
    """The drawn records, and what became of all."""

    records: RecordsInFile
    sieve: Sieve
    lengths: LengthCounts


@contextlib.contextmanager
def _drawn(
    source: storage.PathLike, selection: Selection, draw: Draw, folder: Path
) -> Iterator[_Drawn]:
    repeats = find_repeats(source, selection, folder) if selection.drop_identical else None
    sieve, lengths = Sieve(selection, repeats), LengthCounts()
    with contextlib.ExitStack() as stack:
        blocks = stack.enter_context(BlockReader(source))
        # What cannot be found again by seeking is set aside while it goes by.
        aside = None
        if not blocks.is_seekable:
            aside = stack.enter_context((folder / "candidates").open("w+b"))
        with progress(blocks.bytes_total, unit="bytes", description="drawing the sample") as bar:
            for block in blocks:
                lengths.add(block.lengths)
                candidates = draw.offer(sieve.passes(block))
                sizes = (block.ends - block.starts)[candidates]
                if aside is None:
                    offsets = block.starts[candidates] + block.offset
                else:
                    offsets = aside.tell() + np.cumsum(sizes) - sizes
                    aside.write(b"".join(block.contents(candidates)))
                draw.place(offsets, sizes)
                bar.update(blocks.bytes_read - bar.done)
        if aside is not None:
            aside.flush()
        descriptor = blocks.fileno() if aside is None else aside.fileno()
        yield _Drawn(RecordsInFile(descriptor, *draw.chosen()), sieve, lengths)


def _copy(
    records: RecordsInFile, source: storage.PathLike, paths: list[Path], folder: Path
) -> tuple[LengthCounts, int]:
    """Write the drawn records and their index; return their lengths and unrecognised headers."""
    index, lengths = IndexWriter(folder), LengthCounts()
    with (
        paths[0].open("wb") as out,
        progress(len(records.sizes), unit="records", description="copying the sample") as bar,
    ):
        for block in read_records(records, source):
            out.write(block.content.data)
            index.add(block)
            lengths.add(block.lengths)
            bar.update(len(block.starts))
    index.finish(paths[1])
    return lengths, index.unrecognised


@contextlib.contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """Make a folder beside the target; a killed process's is removed by the next one."""
    folder = storage.temporary_beside(target)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _nothing_passes(source: storage.PathLike, sieve: Sieve) -> InputError:
    reasons = " and ".join(f"{count:,} {reason}" for reason, count in sieve.dropped.items())
    return InputError(
        f"{source}: none of its {sieve.read:,} records passes ({reasons}); widen the limits"
    )
