"""Buffers into which FASTA files are read, and the errors of what is not one."""

from typing import NamedTuple

import numpy as np

from esm_sae.errors import InputError

# In bytes, a hundred times titin's 35,000 residues: what is longer is a chromosome, or no FASTA.
LONGEST_RECORD = 1 << 22

_NEWLINE = ord("\n")


class Filled(NamedTuple):
    """A buffer, the part of it that is whole records, and that part's offset in the file."""

    buffer: np.ndarray
    start: int
    stop: int
    offset: int


def new_buffer(size: int) -> np.ndarray:
    """Return a buffer of some length, of one byte fewer capacity."""
    return np.empty(size, dtype=np.uint8)


def capacity(buffer: np.ndarray) -> int:
    """Return the number of bytes that may be read into a buffer."""
    # One byte is spared for a line end that the file lacks.
    return len(buffer) - 1


def copied_into(buffer: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Copy bytes to the start of a buffer, or of a longer one where they need it."""
    while capacity(buffer) <= len(content):
        buffer = new_buffer(2 * len(buffer))
    buffer[: len(content)] = content
    return buffer


def enlarged(buffer: np.ndarray) -> np.ndarray:
    """Return a buffer of twice the length with the content of a full one."""
    return copied_into(new_buffer(2 * len(buffer)), buffer[: capacity(buffer)])


def with_line_end(buffer: np.ndarray, stop: int) -> int:
    """Write a line end at ``stop`` if none is before it; return where the content ends now."""
    if buffer[stop - 1] == _NEWLINE:
        return stop
    buffer[stop] = _NEWLINE
    return stop + 1


def require_record_size(record: np.ndarray, name: str, offset: int) -> None:
    """Refuse a record, or the start of one, that is too long for a protein.

    Args:
        record: (B,) uint8, what there is of it.
        name: of the file.
        offset: of the record in the uncompressed file.

    Raises:
        InputError: it has more than ``LONGEST_RECORD`` bytes.
    """
    if len(record) > LONGEST_RECORD:
        header = record[1:200].tobytes().decode(errors="replace").partition("\n")[0]
        raise InputError(
            f"{name}: record '{shown(header)}' at byte {offset} has more than "
            f"{LONGEST_RECORD:,} bytes; is this a protein FASTA file?"
        )


def shown(header: str) -> str:
    """Return the start of a header, enough to know the record by."""
    return header[:60].strip()


def no_record(name: str) -> InputError:
    """Return the error of an empty file."""
    return InputError(f"{name}: empty, it holds no FASTA record")


def no_fasta(name: str) -> InputError:
    """Return the error of a file that starts with something else."""
    return InputError(f"{name}: does not start with '>'; is it a FASTA file?")
