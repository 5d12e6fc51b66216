"""FASTA files that are plain and local, in ranges that can be read side by side."""

import os
from typing import NamedTuple

import numpy as np

from esm_sae.formats.fasta_buffers import (
    Filled,
    capacity,
    enlarged,
    new_buffer,
    require_record_size,
    with_line_end,
)


class Range(NamedTuple):
    """What is in a range of a file.

    Attributes:
        buffer: where it was read to.
        filled: the records that start in it, whole; None if none does.
        only_blank_before: whether what is in it before the first of them is blank.
    """

    buffer: np.ndarray
    filled: Filled | None
    only_blank_before: bool


def read_range(descriptor: int, start: int, stop: int, buffer: np.ndarray, name: str) -> Range:
    """Read the records that start at ``start`` or behind it and before ``stop``.

    Args:
        descriptor: of the open file.
        start: first byte of the range.
        stop: the byte behind it.
        buffer: (B,) uint8, better longer than the range; a longer one takes its place where that
            or a record needs it.
        name: of the file, for errors.

    Raises:
        InputError: a record is too long.
    """
    # A record starts behind a line end.
    origin = max(start - 1, 0)
    if capacity(buffer) < stop - origin:
        buffer = new_buffer(2 * (stop - origin))
    size = _read_at(descriptor, buffer, 0, origin)
    first = _find_start(buffer, size, start - origin)
    limit = min(stop - origin, size)
    if not 0 <= first < limit:
        return Range(buffer, None, _is_blank(buffer[start - origin : limit]))
    while (end := _find_start(buffer, size, stop - origin)) < 0:
        if size < capacity(buffer):
            end = size
            break
        last = max(buffer[:limit].tobytes().rfind(b"\n>") + 1, first)
        require_record_size(buffer[last:size], name, origin + last)
        buffer = enlarged(buffer)
        size = _read_at(descriptor, buffer, size, origin)
    # Only at the end of the file a line end can be lacking.
    filled = Filled(buffer, first, with_line_end(buffer, end), origin + first)
    return Range(buffer, filled, _is_blank(buffer[start - origin : first]))


def _read_at(descriptor: int, buffer: np.ndarray, size: int, origin: int) -> int:
    """Read on behind the first ``size`` bytes of a buffer that starts at ``origin``."""
    view = buffer.data[: capacity(buffer)]
    while size < len(view):
        count = os.preadv(descriptor, [view[size:]], origin + size)
        if not count:
            break
        size += count
    return size


def _find_start(buffer: np.ndarray, size: int, position: int) -> int:
    """Return the position of the first record start at ``position`` or behind it, -1 if none."""
    if position == 0 and size and buffer[0] == ord(">"):
        return 0
    before = max(position - 1, 0)
    for window in (1 << 12, size):
        found = buffer[before : min(before + window, size)].tobytes().find(b"\n>")
        if found >= 0:
            return before + found + 1
    return -1


def _is_blank(content: np.ndarray) -> bool:
    return not content.tobytes().strip()
