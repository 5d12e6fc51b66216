"""Where batches of training rows come from: memory-mapped shards, or a copy on the device."""

import contextlib
import functools
import mmap
import resource
from collections.abc import Iterator
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from esm_sae.formats.shards import EmbeddingShards
from esm_sae.sae.rows import RowRuns

_ROWS_PER_PIECE = 16_384


class RowSource(Protocol):
    """Training rows by their place among all training rows."""

    def gather(self, places: np.ndarray, size: int) -> np.ndarray | jax.Array:
        """Return the rows at ascending places as (size, D) float32, 0 past their end."""
        ...


class StreamedRows:
    """Rows that are read from the shards when they are asked for.

    Beside what it returns it holds nothing in memory; how much of the shards stays in the page
    cache is for the kernel to decide.
    """

    def __init__(self, shards: EmbeddingShards, rows: RowRuns) -> None:
        self._shards, self._rows = shards, rows
        self._on_disk = False

    def gather(self, places: np.ndarray, size: int) -> np.ndarray:
        """Return the rows at ascending places as (size, D) float32, 0 past their end."""
        numbers = self._rows.at(places)
        if self._on_disk:
            announce(self._shards, numbers)
        before = _reads_waited_for()
        rows = self._shards.rows_at(numbers)
        self._on_disk |= _reads_waited_for() - before > len(numbers) // 8
        if len(rows) == size:
            return rows
        return np.concatenate([rows, np.zeros((size - len(rows), rows.shape[1]), rows.dtype)])


class ResidentRows:
    """Rows that are copied to the device once, in the shards' own precision."""

    def __init__(self, shards: EmbeddingShards, rows: RowRuns) -> None:
        self._table = jnp.zeros((len(rows), shards.width), dtype=_common_type(shards))
        start = 0
        for numbers in rows.blocks(_ROWS_PER_PIECE):
            self._table = _written(self._table, shards.rows_at(numbers), np.int32(start))
            start += len(numbers)

    def gather(self, places: np.ndarray, size: int) -> jax.Array:
        """Return the rows at ascending places as (size, D) float32, 0 past their end."""
        padded = np.full(size, len(self._table), dtype=np.int32)
        padded[: len(places)] = places
        return _taken(self._table, padded)


def fit_on_device(shards: EmbeddingShards, rows: RowRuns) -> bool:
    """Whether the rows fit into half of what jax may still take of the device; on a CPU never.

    There the page cache holds them already. What other libraries hold of the device is not seen.
    """
    memory = jax.local_devices()[0].memory_stats()
    if memory is None:
        return False
    needed = len(rows) * shards.width * _common_type(shards).itemsize
    return needed <= (memory["bytes_limit"] - memory["bytes_in_use"]) / 2


@contextlib.contextmanager
def scattered_reads(shards: EmbeddingShards) -> Iterator[None]:
    """Have each row read alone: the kernel would read megabytes about it, expecting the next."""
    matrices = [array.base for array in shards.arrays if isinstance(array.base, mmap.mmap)]
    for matrix in matrices:
        matrix.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        for matrix in matrices:
            matrix.madvise(mmap.MADV_NORMAL)


def announce(shards: EmbeddingShards, numbers: np.ndarray) -> None:
    """Have the disk begin to read all of these rows, before they are waited for one by one."""
    for shard, _, rows in shards.by_shard(numbers):
        matrix = shards.arrays[shard]
        if not isinstance(matrix, np.memmap) or not isinstance(matrix.base, mmap.mmap):
            continue
        row_bytes = matrix.strides[0]
        first = matrix.offset % mmap.ALLOCATIONGRANULARITY + rows * row_bytes
        pages = first - first % mmap.PAGESIZE
        lengths = first + row_bytes - pages
        for page, length in zip(pages.tolist(), lengths.tolist(), strict=True):
            matrix.base.madvise(mmap.MADV_WILLNEED, page, length)


def _reads_waited_for() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _common_type(shards: EmbeddingShards) -> np.dtype:
    return np.result_type(*[array.dtype for array in shards.arrays])


@functools.partial(jax.jit, donate_argnums=0)
def _written(table: jax.Array, rows: jax.Array, start: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice(table, rows.astype(table.dtype), (start, np.int32(0)))


@jax.jit
def _taken(table: jax.Array, places: jax.Array) -> jax.Array:
    rows = table.at[places].get(mode="fill", fill_value=0, indices_are_sorted=True)
    return rows.astype(jnp.float32)
