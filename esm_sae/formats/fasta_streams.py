"""FASTA files from a stream of bytes, as one that is decompressed: buffers of whole records."""

import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import numpy as np

from esm_sae import storage
from esm_sae.formats.fasta_buffers import (
    Filled,
    capacity,
    copied_into,
    enlarged,
    no_fasta,
    no_record,
    require_record_size,
    with_line_end,
)

_TAIL = 1 << 14
_NEWLINE = ord("\n")


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
        buffer, size = _read_whole_records(file, buffer, len(rest), name, offset, begun)
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
    file: BinaryIO, buffer: np.ndarray, size: int, name: str, offset: int, begun: bool
) -> tuple[np.ndarray, int]:
    """Read until the file ends or the buffer, enlarged where it must be, has a whole record."""
    while True:
        size = _read(file, buffer, size)
        if size < capacity(buffer) or _last_start(buffer, size):
            return buffer, size
        start = 0 if begun else _count_blank(buffer[:size], name)
        require_record_size(buffer[start:size], name, offset + start)
        buffer = enlarged(buffer)


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
