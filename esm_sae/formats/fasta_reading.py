"""Reading FASTA files, plain or compressed, in blocks of whole records."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.compression import decompressed
from esm_sae.formats.fasta_blocks import Block, locate_records

# A block and its work arrays fit the cache of a core.
_BLOCK_BYTES = 1 << 20
_LOCATORS = 2
_BLOCKS_AHEAD = 3
# Far beyond titin's 35,000 residues: what is longer is a chromosome, or no FASTA file at all.
_LONGEST_RECORD = 1 << 26
_TAIL = 1 << 14
_NEWLINE = ord("\n")


def read_blocks(source: storage.PathLike, *, start: int = 0) -> Iterator[Block]:
    """Read a FASTA file in blocks of whole records, in file order.

    A block's ``content`` is overwritten when the next one is read. Memory is bounded by a few
    blocks of 1 MiB, or the longest record where that is longer.

    Args:
        source: plain or compressed FASTA file, or its URL.
        start: offset of the first record to read; others than 0 only of a plain local file.

    Raises:
        InputError: the file is missing, empty, truncated, does not start with ``>``, or has a
            record with no id, no sequence, letters that are not residues or more than 64 MiB
            (the first such record is named).
    """
    buffer = _new_buffer(_BLOCK_BYTES)
    with storage.open_binary(source) as raw, decompressed(raw, source) as file:
        if start:
            file.seek(start)
        for filled in _fill_buffers(file, source, lambda: buffer):
            yield _locate(filled._replace(offset=filled.offset + start), source)


class BlockReader:
    """Reads a FASTA file as ``read_blocks`` does, ahead of its caller.

    One thread reads and decompresses and two locate the records while the caller works on a
    block. Memory is bounded by some ten blocks. To be used in a ``with`` block, once.
    """

    def __init__(self, source: storage.PathLike) -> None:
        self._source = source
        self._raw = storage.open_binary(source)
        self.bytes_total = self._raw.seek(0, os.SEEK_END)
        self._raw.seek(0)
        self._free: Queue[np.ndarray] = Queue()
        for _ in range(_LOCATORS + _BLOCKS_AHEAD):
            self._free.put(_new_buffer(_BLOCK_BYTES))
        self._located: Queue[Future[tuple[np.ndarray, Block]] | None] = Queue()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1 + _LOCATORS, thread_name_prefix="fasta")

    def __enter__(self) -> "BlockReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        # Wakes the reading thread if it waits for one.
        self._free.put(_new_buffer(_BLOCK_BYTES))
        self._pool.shutdown()
        self._raw.close()

    def __iter__(self) -> Iterator[Block]:
        reading = self._pool.submit(self._read)
        while (located := self._located.get()) is not None:
            buffer, block = located.result()
            yield block
            self._free.put(buffer if len(buffer) == _BLOCK_BYTES else _new_buffer(_BLOCK_BYTES))
        reading.result()

    @property
    def bytes_read(self) -> int:
        """Bytes read of the file, which may be compressed."""
        return self._raw.tell()

    def _read(self) -> None:
        try:
            with decompressed(self._raw, self._source) as file:
                for filled in _fill_buffers(file, self._source, self._free.get):
                    if self._stopped.is_set():
                        return
                    self._located.put(self._pool.submit(self._locate, filled))
        finally:
            self._located.put(None)

    def _locate(self, filled: "_Filled") -> tuple[np.ndarray, Block]:
        return filled.buffer, _locate(filled, self._source)


class _Filled(NamedTuple):
    """A buffer, the part of it that is whole records, and that part's offset in the file."""

    buffer: np.ndarray
    start: int
    stop: int
    offset: int


def _locate(filled: _Filled, source: storage.PathLike) -> Block:
    return locate_records(filled.buffer[filled.start : filled.stop], source, filled.offset)


def _fill_buffers(
    file: BinaryIO, source: storage.PathLike, take_buffer: Callable[[], np.ndarray]
) -> Iterator[_Filled]:
    """Fill buffers with whole records; what is behind the last whole one starts the next."""
    name = os.fspath(source)
    rest = np.empty(0, dtype=np.uint8)
    offset, begun, at_end = 0, False, False
    buffer = None
    while not at_end:
        buffer = _copied_into(take_buffer() if buffer is None else buffer, rest)
        buffer, size = _read_whole_records(file, buffer, len(rest), f"{name}: at byte {offset}")
        at_end = size < _capacity(buffer)
        stop = size if at_end else _last_start(buffer, size)
        rest = buffer[stop:size].copy()
        start = 0 if begun else _count_blank(buffer[:stop], name)
        if start < stop:
            begun = True
            yield _Filled(buffer, start, _with_line_end(buffer, stop), offset + start)
            buffer = None
        offset += stop
    if not begun:
        raise InputError(f"{name}: empty, it holds no FASTA record")


def _read_whole_records(
    file: BinaryIO, buffer: np.ndarray, size: int, where: str
) -> tuple[np.ndarray, int]:
    """Read until the file ends or the buffer, enlarged where it must be, has a whole record."""
    while True:
        size = _read(file, buffer, size)
        if size < _capacity(buffer) or _last_start(buffer, size):
            return buffer, size
        if size >= _LONGEST_RECORD:
            raise InputError(
                f"{where}: a record of more than {size:,} bytes; is this a protein FASTA file?"
            )
        buffer = _copied_into(_new_buffer(2 * len(buffer)), buffer[:size])


def _read(file: BinaryIO, buffer: np.ndarray, size: int) -> int:
    view = buffer.data[: _capacity(buffer)]
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
        raise InputError(f"{name}: does not start with '>'; is it a FASTA file?")
    return start


def _with_line_end(buffer: np.ndarray, stop: int) -> int:
    if buffer[stop - 1] == _NEWLINE:
        return stop
    buffer[stop] = _NEWLINE
    return stop + 1


def _new_buffer(size: int) -> np.ndarray:
    return np.empty(size, dtype=np.uint8)


def _capacity(buffer: np.ndarray) -> int:
    # One byte is spared for a line end that the file lacks.
    return len(buffer) - 1


def _copied_into(buffer: np.ndarray, content: np.ndarray) -> np.ndarray:
    while _capacity(buffer) <= len(content):
        buffer = _new_buffer(2 * len(buffer))
    buffer[: len(content)] = content
    return buffer
