"""Uniform samples of FASTA files, without replacement and of exact size."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.fasta import parse_record, read_fasta, read_raw
from esm_sae.formats.manifest import Product, identity_of, manifest_beside, produce_files
from esm_sae.formats.sequence_index import IndexBuilder, index_path
from esm_sae.progress import progress

TOO_SHORT, TOO_LONG = "too short", "too long"

_ALGORITHM = "n smallest PCG64 keys, version 1"
_CHUNK = 16_384
_TOP_TAXA = 10
# The longest length in each bin of the histogram; one more bin is open.
_BIN_ENDS = (64, 128, 256, 384, 512, 768, 1024, 2048, 4096)
_BIN_NAMES = [
    *(f"{low + 1}-{high}" for low, high in zip((0, *_BIN_ENDS), _BIN_ENDS, strict=False)),
    f">{_BIN_ENDS[-1]}",
]


@dataclass(frozen=True)
class SampleReport:
    """What became of the records of a source.

    Attributes:
        product: the sample and its manifest, whose summary also has residues, lengths and taxa.
        read: records in the source.
        passing: records within the length limits.
        sampled: records in the sample.
        dropped: records outside the length limits, by reason.
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
    seed: int = 0,
) -> SampleReport:
    """Draw ``n`` records uniformly without replacement from those that pass the length limits.

    Every record of the source has a random key that derives from seed, ``n`` and its number; the
    passing records with the ``n`` smallest keys are the sample (all of them if they are fewer).
    So every subset of ``n`` passing records is equally likely, and the sample is the same for
    any compression of the source. Records are copied byte for byte, in file order; only a missing
    final line end is added. The source is read twice; memory is bounded by keys and numbers,
    about 110 bytes per sampled record, and by the sample's index.

    Beside ``x.fasta`` it writes ``x.index.parquet``, one row per sampled record, and
    ``x.fasta.manifest.json``.

    Args:
        source: plain or gzipped FASTA file, or its URL.
        target: the sample, plain FASTA.
        n: records to draw, at least 1.
        min_length: fewest residues of a record that passes.
        max_length: most residues of a record that passes; None is no limit.
        seed: not negative.

    Raises:
        InputError: an argument is out of range, the source cannot be read or no record passes.
    """
    target = Path(target)
    _require_usable(source, target, n, min_length, max_length, seed)

    def build(paths: list[Path]) -> dict[str, Any]:
        survey = _survey(source, _Draw(n, seed), min_length, max_length)
        if not survey.passing:
            raise _nothing_passes(source, survey, min_length, max_length)
        index = _copy_records(source, survey.chosen, survey.read, paths[0])
        index.write_parquet(paths[1])
        return _summary(survey, index)

    product = produce_files(
        [target, index_path(target)],
        manifest=manifest_beside(target),
        kind="sample",
        determinants={
            "source": identity_of(source),
            "n": n,
            "min_length": min_length,
            "max_length": max_length,
            "seed": seed,
            "algorithm": _ALGORITHM,
        },
        build=build,
    )
    counts = product.manifest.summary
    return SampleReport(
        product, counts["read"], counts["passing"], counts["sampled"], dict(counts["dropped"])
    )


class _Draw:
    """The records with the n smallest keys among those offered, in one pass.

    Key and number of at most 2n records and a chunk are kept, 16 bytes each.
    """

    def __init__(self, n: int, seed: int) -> None:
        self._n = n
        # n is part of the seed: if a sample of a sample used the keys of the first draw again,
        # it would not be uniform over the source.
        self._bits = np.random.PCG64(np.random.SeedSequence((seed, n)))
        self._keys: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._kept = 0
        self._seen = 0

    def offer(self, passes: np.ndarray) -> None:
        """Offer the next records; those that do not pass use up their keys too."""
        keys = self._bits.random_raw(len(passes))
        passing = np.flatnonzero(passes)
        self._keys.append(keys[passing])
        self._numbers.append(passing + self._seen)
        self._kept += len(passing)
        self._seen += len(passes)
        if self._kept > 2 * self._n:
            self._prune()

    def chosen(self) -> np.ndarray:
        """Return the numbers of the drawn records, ascending."""
        self._prune()
        return self._numbers[0]

    def _prune(self) -> None:
        keys, numbers = np.concatenate(self._keys), np.concatenate(self._numbers)
        smallest = np.argsort(keys, kind="stable")[: self._n]
        smallest.sort()
        self._keys, self._numbers = [keys[smallest]], [numbers[smallest]]
        self._kept = len(smallest)


@dataclass
class _Survey:
    """What the first pass over the source found."""

    read: int
    residues: int
    dropped: dict[str, int]
    lengths: np.ndarray
    chosen: np.ndarray

    @property
    def passing(self) -> int:
        return self.read - sum(self.dropped.values())


def _survey(
    source: storage.PathLike, draw: _Draw, min_length: int, max_length: int | None
) -> _Survey:
    read = residues = too_short = too_long = 0
    histogram = _histogram(np.empty(0))
    with progress(None, unit="records", description="drawing the sample") as bar:
        for lengths in _length_chunks(source):
            short = lengths < min_length
            long = lengths > (np.inf if max_length is None else max_length)
            draw.offer(~short & ~long)
            read += len(lengths)
            residues += int(lengths.sum())
            too_short += int(short.sum())
            too_long += int(long.sum())
            histogram += _histogram(lengths)
            bar.update(len(lengths))
    dropped = {TOO_SHORT: too_short, TOO_LONG: too_long}
    return _Survey(read, residues, dropped, histogram, draw.chosen())


def _length_chunks(source: storage.PathLike) -> Iterator[np.ndarray]:
    lengths = (len(record.sequence) for record in read_fasta(source))
    while len(chunk := np.fromiter(islice(lengths, _CHUNK), dtype=np.int64)):
        yield chunk


def _copy_records(
    source: storage.PathLike, chosen: np.ndarray, read: int, target: Path
) -> pl.DataFrame:
    """Copy the records with the given ascending numbers; return the index of the copy."""
    index = IndexBuilder()
    wanted = iter(chosen.tolist())
    next_wanted = next(wanted, None)
    offset = 0
    with (
        target.open("wb") as out,
        progress(read, unit="records", description="copying the sample") as bar,
    ):
        for number, raw in enumerate(read_raw(source)):
            if number % _CHUNK == 0 and number:
                bar.update(_CHUNK)
            if number != next_wanted:
                continue
            content = raw.raw if raw.raw.endswith(b"\n") else raw.raw + b"\n"
            index.add(parse_record(raw, source), offset)
            out.write(content)
            offset += len(content)
            next_wanted = next(wanted, None)
            if next_wanted is None:
                break
    if next_wanted is not None:
        raise InputError(f"{source}: changed while it was read; sample it again")
    return index.finish()


def _summary(survey: _Survey, index: pl.DataFrame) -> dict[str, Any]:
    sampled = _histogram(index["length"].to_numpy())
    taxa = index.drop_nulls("taxon").group_by("taxon").len("records")
    return {
        "read": survey.read,
        "passing": survey.passing,
        "sampled": len(index),
        "dropped": survey.dropped,
        "not_drawn": survey.passing - len(index),
        "residues_read": survey.residues,
        "residues_sampled": int(index["length"].cast(pl.Int64).sum()),
        "lengths": [
            {"length": name, "read": int(before), "sampled": int(after)}
            for name, before, after in zip(_BIN_NAMES, survey.lengths, sampled, strict=True)
        ],
        "taxa": len(taxa),
        "without_taxon": index["taxon"].null_count(),
        "top_taxa": taxa.sort("records", "taxon", descending=[True, False])
        .head(_TOP_TAXA)
        .to_dicts(),
    }


def _histogram(lengths: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(_BIN_ENDS, lengths), minlength=len(_BIN_NAMES))


def _require_usable(
    source: storage.PathLike,
    target: Path,
    n: int,
    min_length: int,
    max_length: int | None,
    seed: int,
) -> None:
    if n < 1:
        raise InputError(f"{target}: cannot draw {n} records; give n of at least 1")
    if seed < 0:
        raise InputError(f"{target}: seed {seed} is negative; give one from 0 on")
    if max_length is not None and max_length < max(min_length, 1):
        raise InputError(
            f"{target}: no sequence has at least {max(min_length, 1)} and at most {max_length} "
            "residues; give another minimum or maximum length"
        )
    if target.name.endswith(".gz"):
        raise InputError(
            f"{target}: a sample is plain text, so that records are found by seeking; give a "
            "name without .gz"
        )
    if target.exists() and not storage.is_url(source) and target.samefile(source):
        raise InputError(f"{target}: is the source itself; give the sample another name")


def _nothing_passes(
    source: storage.PathLike, survey: _Survey, min_length: int, max_length: int | None
) -> InputError:
    limits = f"{min_length} to {max_length}" if max_length is not None else f"{min_length} or more"
    reasons = " and ".join(f"{count:,} {reason}" for reason, count in survey.dropped.items())
    return InputError(
        f"{source}: none of its {survey.read:,} records has {limits} residues ({reasons}); "
        "widen the length limits"
    )
