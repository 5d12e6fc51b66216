"""Records of FASTA files in blocks: many at once, located by vector operations.

A file is looked at as arrays of bytes; one at a time only records with something unusual in their
sequence.
"""

import os
import threading
from typing import NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats import fasta_buffers

_NEWLINE, _RETURN, _GREATER, _STAR = b"\n\r>*"
# A letter of either case is at most 25 behind "a" once bit 5 is set.
_CASE_BIT, _FIRST_LETTER, _LETTERS = 0x20, ord("a"), 26
_BLANKS = " \t\r"
_WHITESPACE = b" \t\n\r\v\f"


class Block(NamedTuple):
    """Whole records of a FASTA file, and where each lies.

    Attributes:
        content: (B,) uint8, the records' bytes; the last one ends with a line end.
        offset: position of ``content[0]`` in the uncompressed file.
        starts: (R,) position in ``content`` of each record's ``>``.
        header_ends: (R,) position of the line end of its header.
        ends: (R,) position behind its last byte.
        lengths: (R,) number of residues.
    """

    content: np.ndarray
    offset: int
    starts: np.ndarray
    header_ends: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray

    def headers(self, records: np.ndarray) -> list[str]:
        """Return the headers of the records with the given numbers in the block."""
        view = self.content.data
        spans = self._spans(self.starts[records] + 1, self.header_ends[records])
        # One decoding of all is several times as fast as one of each.
        text = b"\n".join([view[start:end] for start, end in spans]).decode(errors="replace")
        headers = text.split("\n") if len(records) else []
        return [header.rstrip("\r") for header in headers] if "\r" in text else headers

    def sequences(self, records: np.ndarray) -> list[bytes]:
        """Return the residues of the records with the given numbers, in upper case."""
        view = self.content.data
        return [
            residues_in(view[start:end])
            for start, end in self._spans(self.header_ends[records], self.ends[records])
        ]

    def contents(self, records: np.ndarray) -> list[memoryview]:
        """Return the bytes of the records with the given numbers, as they stand in the file."""
        view = self.content.data
        return [
            view[start:end] for start, end in self._spans(self.starts[records], self.ends[records])
        ]

    @staticmethod
    def _spans(starts: np.ndarray, ends: np.ndarray) -> "zip[tuple[int, int]]":
        return zip(starts.tolist(), ends.tolist(), strict=True)


def locate_records(content: np.ndarray, source: storage.PathLike, offset: int = 0) -> Block:
    """Locate the records in bytes that start with ``>`` and end with a line end.

    Args:
        content: (B,) uint8.
        source: the file that they are from, named in errors.
        offset: their position in the uncompressed file.

    Raises:
        InputError: a record has no id, no sequence or letters that are not residues.
    """
    flags, work = _scratch(len(content))
    newlines = np.flatnonzero(np.equal(content, _NEWLINE, out=flags))
    line_starts = newlines[:-1] + 1
    of_records = np.flatnonzero(content[line_starts] == _GREATER)
    starts = np.append(0, line_starts[of_records])
    # The header of record r ends with line number header_lines[r] of the block.
    header_lines = np.concatenate([[0], of_records + 1, [len(newlines)]])
    header_ends = newlines[header_lines[:-1]]
    ends = np.append(starts[1:], len(content))
    lengths = ends - header_ends - np.diff(header_lines)
    np.bitwise_or(content, _CASE_BIT, out=work)
    np.subtract(work, _FIRST_LETTER, out=work)
    odd = np.greater_equal(work, _LETTERS, out=flags)
    odd[newlines] = False
    block = Block(content, offset, starts, header_ends, ends, lengths)
    _mend_lengths(block, odd, source)
    return block


def residues_in(lines: bytes | memoryview) -> bytes:
    """Return the residues in a record's sequence lines, in upper case and without a final ``*``."""
    return bytes(lines).translate(None, _WHITESPACE).upper().removesuffix(b"*")


def any_in_sequences(flags: np.ndarray, block: Block) -> np.ndarray:
    """Return (R,) whether any byte of each record's sequence is flagged, given flags (B,)."""
    bounds = np.empty(2 * len(block.starts), dtype=np.int64)
    bounds[0::2], bounds[1::2] = block.starts, block.header_ends
    return np.logical_or.reduceat(flags, bounds)[1::2]


def _mend_lengths(block: Block, odd: np.ndarray, source: storage.PathLike) -> None:
    """Correct the lengths where more than letters and newlines is in a sequence.

    CRLF and a final ``*`` are dealt with by vector operations, anything else record by record.
    """
    unclear = any_in_sequences(odd, block)
    if unclear.any():
        _discount_returns(block, odd)
        _discount_stars(block, odd)
        unclear = any_in_sequences(odd, block)
    unclear |= block.lengths <= 0
    unclear |= block.ends - block.starts > fasta_buffers.LONGEST_RECORD
    unclear |= block.content[block.starts + 1] <= ord(" ")
    for number in np.flatnonzero(unclear).tolist():
        block.lengths[number] = _count_residues(block, number, source)


def _discount_returns(block: Block, odd: np.ndarray) -> None:
    returns = np.flatnonzero(block.content == _RETURN)
    odd[returns] = False
    before = np.searchsorted(returns, np.stack([block.header_ends, block.ends]))
    block.lengths[:] -= before[1] - before[0]


def _discount_stars(block: Block, odd: np.ndarray) -> None:
    last = block.ends - 1
    # The last line end, with CRLF, and one blank line; further ones are left to the slow way.
    for _ in range(4):
        last -= np.isin(block.content[last], (_NEWLINE, _RETURN))
    stars = block.content[last] == _STAR
    odd[last[stars]] = False
    block.lengths[:] -= stars


def _count_residues(block: Block, number: int, source: storage.PathLike) -> int:
    at = block.offset + int(block.starts[number])
    record = block.content[block.starts[number] : block.ends[number]]
    fasta_buffers.require_record_size(record, os.fspath(source), at)
    (header,) = block.headers(np.array([number]))
    (sequence,) = block.sequences(np.array([number]))
    where = f"{os.fspath(source)}: record '{fasta_buffers.shown(header)}' at byte {at}"
    if not header.strip(_BLANKS):
        raise InputError(f"{where} has no id after '>'; give it one")
    if not sequence:
        raise InputError(f"{where} has no sequence; remove it or add its residues")
    for position, letter in enumerate(sequence):
        if not ord("A") <= letter <= ord("Z"):
            raise InputError(
                f"{where} has {chr(letter)!r} at residue {position + 1}, which is not a residue "
                "letter; is this a protein FASTA file without gaps?"
            )
    return len(sequence)


_THREAD = threading.local()


def _scratch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return work arrays (size,) of bool and uint8: new memory would cost more than the work."""
    arrays = getattr(_THREAD, "arrays", None)
    if arrays is None or len(arrays[0]) < size:
        arrays = _THREAD.arrays = np.empty(size, dtype=bool), np.empty(size, dtype=np.uint8)
    return arrays[0][:size], arrays[1][:size]
