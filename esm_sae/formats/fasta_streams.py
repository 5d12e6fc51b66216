"""FASTA files from a stream of bytes, as one that is decompressed: buffers of whole records."""

import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError

# Far beyond titin's 35,000 residues: what is longer is a chromosome, or no FASTA file at all.
LONGEST_RECORD = 1 << 26

_TAIL = 1 << 14
_NEWLINE = ord("\n")


class Filled(NamedTuple):
    """A buffer, the part of it that is whole records, and that part's offset in the file."""

    buffer: np.ndarray
    start: int
    stop: int
    offset: int


def fill_buffers(
    file: BinaryIO, source: storage.PathLike, take_buffer: Callable[[], np.ndarray]
) -> Iterator[Filled]:
    """Fill buffers with whole records; what is behind the last whole one starts the next."""
    name = os.fspath(source)
    rest = np.empty(0, dtype=np.uint8)
    offset, begun, at_end = 0, False, False
    buffer = None
    while not at_end:
        buffer = copied_into(take_buffer() if buffer is None else buffer, rest)
        buffer, size = _read_whole_records(file, buffer, len(rest), f"{name}: at byte {offset}")
        at_end = size < capacity(buffer)
        stop = size if at_end else _last_start(buffer, size)
        rest = buffer[stop:size].copy()
        start = 0 if begun else _count_blank(buffer[:stop], name)
        if start < stop:
            begun = True
            yield Filled(buffer, start, with_line_end(buffer, stop), offset + start)
            buffer = None
        offset += stop
    if not begun:
        raise no_record(name)


def _read_whole_records(
    file: BinaryIO, buffer: np.ndarray, size: int, where: str
) -> tuple[np.ndarray, int]:
    """Read until the file ends or the buffer, enlarged where it must be, has a whole record."""
    while True:
        size = _read(file, buffer, size)
        if size < capacity(buffer) or _last_start(buffer, size):
            return buffer, size
        buffer = enlarged(buffer, size, where)


def _read(file: BinaryIO, buffer: np.ndarray, size: int) -> int:
    view = buffer.data[: capacity(buffer)]
    while size < len(view):
        count = cast(Any, file).readinto(view[size:])
        if not count:
            break
        size += count
    return size


def _last_start(buffer: np.ndarray, size: int) -> int:
    """Return the position of the last record start behind the first byte, 0 if there is none."""
    for window in (_TAIL, size):
        found = buffer[max(size - window, 0) : size].tobytes().rfind(b"\n>")
        if found >= 0:
            return max(size - window, 0) + found + 1
    return 0


def _count_blank(data: np.ndarray, name: str) -> int:
    """Return the number of bytes before the first record: there may be blank lines."""
    content = data.tobytes()
    start = len(content) - len(content.lstrip())
    at_line_start = start == 0 or content[start - 1] == _NEWLINE
    if start < len(content) and not (content[start] == ord(">") and at_line_start):
        raise no_fasta(name)
    return start


def with_line_end(buffer: np.ndarray, stop: int) -> int:
    """Write a line end at ``stop`` if none is before it; return where the content ends now."""
    if buffer[stop - 1] == _NEWLINE:
        return stop
    buffer[stop] = _NEWLINE
    return stop + 1


def enlarged(buffer: np.ndarray, size: int, where: str) -> np.ndarray:
    """Return a buffer of twice the length with the first ``size`` bytes of a full one.

    Raises:
        InputError: what does not fit is no protein.
    """
    if size >= LONGEST_RECORD:
        raise InputError(
            f"{where}: a record of more than {size:,} bytes; is this a protein FASTA file?"
        )
    return copied_into(new_buffer(2 * len(buffer)), buffer[:size])


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


def no_record(name: str) -> InputError:
    """Return the error of an empty file."""
    return InputError(f"{name}: empty, it holds no FASTA record")


def no_fasta(name: str) -> InputError:
    """Return the error of a file that starts with something else."""
    return InputError(f"{name}: does not start with '>'; is it a FASTA file?")
