"""FASTA records, one at a time."""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.fasta_blocks import Block, locate_records
from esm_sae.formats.fasta_reading import is_seekable, read_blocks

# Records that lie closer are read in one go, with all between them.
_BYTES_WORTH_A_SEEK = 1 << 16


class Record(NamedTuple):
    """One FASTA record.

    Attributes:
        header: the header line without its ``>``, otherwise byte for byte.
        sequence: the residues in upper case, without line breaks and without a final ``*``.
        offset: position of the record's ``>`` in the uncompressed bytes.
    """

    header: str
    sequence: str
    offset: int


def read_fasta(source: storage.PathLike) -> Iterator[Record]:
    """Read the records of a FASTA file, plain or compressed by gzip or zstd, one at a time.

    Lower case, wrapped lines, blank lines, CRLF and a final ``*`` are accepted. The 26 letters
    of the IUPAC protein alphabet are residues. Memory is bounded by a few MiB, or the longest
    record where that is longer.

    Raises:
        InputError: the file is missing, empty, truncated, does not start with ``>``, or has a
            record with no id, no sequence, letters that are not residues or more than 4 MiB
            (the first such record is named).
    """
    for block in read_blocks(source):
        yield from records_of(block, np.arange(len(block.starts)))


def records_of(block: Block, numbers: np.ndarray) -> list[Record]:
    """Return the records with the given numbers in a block."""
    offsets = (block.starts[numbers] + block.offset).tolist()
    sequences = (sequence.decode("ascii") for sequence in block.sequences(numbers))
    return list(map(Record, block.headers(numbers), sequences, offsets))


def read_at(source: storage.PathLike, offsets: Sequence[int] | np.ndarray) -> Iterator[Record]:
    """Read the records that start at the given offsets, which must ascend.

    A plain local file is read by seeking; a compressed or remote one is read through.

    Raises:
        InputError: no record starts at an offset: the file changed since it was indexed.
    """
    wanted = np.asarray(offsets, dtype=np.int64)
    if not len(wanted):
        return iter(())
    if not is_seekable(source):
        return _read_through(source, wanted, start=0)
    first, last = int(wanted[0]), int(wanted[-1])
    if last - first > len(wanted) * _BYTES_WORTH_A_SEEK:
        return _seek_each(source, wanted)
    _require_start(source, first)
    return _read_through(source, wanted, start=first)


def _read_through(source: storage.PathLike, wanted: np.ndarray, *, start: int) -> Iterator[Record]:
    found = 0
    for block in read_blocks(source, start=start):
        starts = block.starts + block.offset
        until = int(np.searchsorted(wanted, starts[-1], side="right"))
        numbers = np.searchsorted(starts, wanted[found:until])
        for offset, nearest in zip(wanted[found:until], starts[numbers], strict=True):
            if offset != nearest:
                raise _moved(source, int(offset))
        yield from records_of(block, numbers)
        found = until
        if found == len(wanted):
            return
    raise _moved(source, int(wanted[found]))


def _seek_each(source: storage.PathLike, wanted: np.ndarray) -> Iterator[Record]:
    with storage.open_binary(source) as file:
        for offset in wanted.tolist():
            if not _starts_record(file, offset):
                raise _moved(source, offset)
            lines = [file.readline()]
            lines += itertools.takewhile(lambda line: not line.startswith(b">"), file)
            data = np.frombuffer(b"".join(lines).rstrip(b"\n") + b"\n", dtype=np.uint8)
            yield from records_of(locate_records(data, source, offset), np.array([0]))


def _require_start(source: storage.PathLike, offset: int) -> None:
    with storage.open_binary(source) as file:
        if not _starts_record(file, offset):
            raise _moved(source, offset)


def _starts_record(file: BinaryIO, offset: int) -> bool:
    """Whether a record starts at an offset; the file is left standing there."""
    file.seek(max(offset - 1, 0))
    at_line_start = offset == 0 or file.read(1) == b"\n"
    starts = at_line_start and file.read(1) == b">"
    file.seek(offset)
    return starts


def _moved(source: storage.PathLike, offset: int) -> InputError:
    return InputError(
        f"{os.fspath(source)}: no record starts at byte {offset}; the file changed since it was "
        "indexed, make the index again"
    )
