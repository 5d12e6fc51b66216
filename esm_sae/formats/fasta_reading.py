"""Reading FASTA files, plain or compressed, in blocks of whole records."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import LifoQueue, Queue
from typing import NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.compression import compression_of, decompressed
from esm_sae.formats.fasta_blocks import Block, locate_records
from esm_sae.formats.fasta_buffers import Filled, new_buffer, no_fasta, no_record
from esm_sae.formats.fasta_ranges import read_range
from esm_sae.formats.fasta_streams import fill_buffers

# Measured: smaller ones cost the interpreter more, larger ones the cache.
_BLOCK_BYTES = 1 << 21
_LOCATORS = 2
_BLOCKS_AHEAD = 3
# What is read of a range's last record without asking again.
_SLACK = 1 << 15


def read_blocks(source: storage.PathLike, *, start: int = 0) -> Iterator[Block]:
    """Read a FASTA file in blocks of whole records, in file order.

    A block's ``content`` is overwritten when the next one is read. Memory is bounded by a few
    blocks of 2 MiB, or the longest record where that is longer.

    Args:
        source: plain or compressed FASTA file, or its URL.
        start: offset of the first record to read; others than 0 only of a plain local file.

    Raises:
        InputError: the file is missing, empty, truncated, does not start with ``>``, or has a
            record with no id, no sequence, letters that are not residues or more than 4 MiB
            (the first such record is named).
    """
    buffer = new_buffer(_BLOCK_BYTES)
    with storage.open_binary(source) as raw, decompressed(raw, source) as file:
        if start:
            file.seek(start)
        for filled in fill_buffers(file, source, lambda: buffer):
            yield _locate(filled._replace(offset=filled.offset + start), source)


class BlockReader:
    """Reads a FASTA file as ``read_blocks`` does, ahead of its caller.

    Threads read and locate the records while the caller works on a block: two side by side where
    the file is plain and local; else one reads and decompresses for them. Memory is bounded by
    some ten blocks. To be used in a ``with`` block, once.

    Attributes:
        is_seekable: whether the blocks' offsets are positions in the file of ``fileno``.
        bytes_total: size of the file, which may be compressed.
    """

    def __init__(self, source: storage.PathLike) -> None:
        self._source = source
        self.is_seekable = is_seekable(source)
        self._raw = storage.open_binary(source)
        self.bytes_total = self._raw.seek(0, os.SEEK_END)
        self._raw.seek(0)
        self._bytes_located = 0
        # The buffer that was given back last is the one that is still in a cache.
        self._free: Queue[np.ndarray] = LifoQueue()
        for _ in range(_LOCATORS + _BLOCKS_AHEAD):
            self._free.put(self._new_buffer())
        self._located: Queue[Future[tuple[np.ndarray, Block]] | None] = Queue()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(_LOCATORS + 1, thread_name_prefix="fasta")

    def __enter__(self) -> "BlockReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        # Wakes the reading thread if it waits for one.
        self._free.put(self._new_buffer())
        self._pool.shutdown(cancel_futures=True)
        self._raw.close()

    def __iter__(self) -> Iterator[Block]:
        return self._blocks_of_ranges() if self.is_seekable else self._blocks_of_stream()

    def fileno(self) -> int:
        """Return the descriptor of the open file, which is closed with the reader."""
        return self._raw.fileno()

    @property
    def bytes_read(self) -> int:
        """Bytes read of the file, which may be compressed."""
        return self._bytes_located if self.is_seekable else self._raw.tell()

    def _blocks_of_ranges(self) -> Iterator[Block]:
        name = os.fspath(self._source)
        starts = iter(range(0, self.bytes_total, _BLOCK_BYTES))
        waiting: deque[Future[_LocatedRange]] = deque()
        # The caller holds one buffer; the others must do for all that are waiting.
        most = _LOCATORS + _BLOCKS_AHEAD - 1
        begun = False
        while True:
            while len(waiting) < most and (start := next(starts, None)) is not None:
                waiting.append(self._pool.submit(self._locate_range, start))
            if not waiting:
                break
            found = waiting.popleft().result()
            if not begun and not found.only_blank_before:
                raise no_fasta(name)
            if found.error is not None:
                raise found.error
            self._bytes_located = min(self._bytes_located + _BLOCK_BYTES, self.bytes_total)
            if found.block is not None:
                begun = True
                yield found.block
            self._give_back(found.buffer)
        if not begun:
            raise no_record(name)

    def _locate_range(self, start: int) -> "_LocatedRange":
        name = os.fspath(self._source)
        stop = start + _BLOCK_BYTES
        found = read_range(self._raw.fileno(), start, stop, self._free.get(), name)
        block = error = None
        if found.filled is not None:
            try:
                block = _locate(found.filled, self._source)
            except InputError as caught:
                # What comes before it in the file may be worse.
                error = caught
        return _LocatedRange(found.buffer, block, error, found.only_blank_before)

    def _blocks_of_stream(self) -> Iterator[Block]:
        reading = self._pool.submit(self._read_stream)
        while (located := self._located.get()) is not None:
            buffer, block = located.result()
            yield block
            self._give_back(buffer)
        reading.result()

    def _read_stream(self) -> None:
        try:
            with decompressed(self._raw, self._source) as file:
                for filled in fill_buffers(file, self._source, self._free.get):
                    if self._stopped.is_set():
                        return
                    self._located.put(self._pool.submit(self._locate_filled, filled))
        finally:
            self._located.put(None)

    def _locate_filled(self, filled: Filled) -> tuple[np.ndarray, Block]:
        return filled.buffer, _locate(filled, self._source)

    def _new_buffer(self) -> np.ndarray:
        return new_buffer(_BLOCK_BYTES + _SLACK if self.is_seekable else _BLOCK_BYTES)

    def _give_back(self, buffer: np.ndarray) -> None:
        """Let a buffer be filled again; one that a long record enlarged is let go."""
        is_enlarged = len(buffer) > _BLOCK_BYTES + _SLACK
        self._free.put(self._new_buffer() if is_enlarged else buffer)


class _LocatedRange(NamedTuple):
    """The records of a range, or what is wrong with them, and what ``Range`` says of it."""

    buffer: np.ndarray
    block: Block | None
    error: InputError | None
    only_blank_before: bool


def is_seekable(source: storage.PathLike) -> bool:
    """Whether records of the file can be read by seeking: it is local and not compressed."""
    return not storage.is_url(source) and compression_of(source) is None


def _locate(filled: Filled, source: storage.PathLike) -> Block:
    return locate_records(filled.buffer[filled.start : filled.stop], source, filled.offset)
