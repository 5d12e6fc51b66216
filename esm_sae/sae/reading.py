"""Reading training rows: shuffled over all shards, in batches that are prepared ahead of use."""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from esm_sae.formats.shards import EmbeddingShards
from esm_sae.sae.order import EpochOrder
from esm_sae.sae.row_sources import (
    ResidentRows,
    RowSource,
    StreamedRows,
    fit_on_device,
    scattered_reads,
)
from esm_sae.sae.rows import RowRuns

_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Rows to train on, as NumPy or jax arrays.

    Attributes:
        rows: (B, D) float32, in ascending order of row number; those past ``count`` are 0.
        mask: (B,) float32, 1 for the first ``count`` rows and 0 for those behind.
        count: number of real rows, B except in the last batch of an epoch.
    """

    rows: Any
    mask: Any
    count: int


class Reader:
    """Reads the training rows, each once per epoch, in an order computed from the seed.

    Rows that fit into half of the free memory of an accelerator are put there once, piece by
    piece, and batches are gathered there; else they are read from the shards, of any size. Beside
    the row numbers, 16 bytes per run, four batches are in memory at most: one in use, two ready,
    one being read.
    """

    def __init__(
        self,
        shards: EmbeddingShards,
        rows: RowRuns,
        *,
        batch_size: int,
        seed: int,
        place: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        resident: bool | None = None,
    ) -> None:
        """Set up reading; nothing is read yet.

        Args:
            shards: the embedding matrices, float32 or float16.
            rows: the training rows.
            batch_size: B.
            seed: seed of the order.
            place: puts rows and mask of a batch where they are used; called ahead of use, too.
            resident: whether the rows are kept on the device; None where its memory decides.
        """
        self._shards, self._rows = shards, rows
        self._batch_size, self._seed = batch_size, seed
        self._place, self._resident = place, resident

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``first`` on, counted from 0.

        Which rows a batch has depends on seed, epoch and number alone. What goes wrong with a
        batch is raised where it would have been yielded. The thread that reads ends with the
        iterator, also when that is closed early.
        """
        source = self._source
        order = EpochOrder(len(self._rows), self._seed, epoch)
        with scattered_reads(self._shards), ThreadPoolExecutor(1) as thread:
            ahead: deque[Future[Batch]] = deque()
            try:
                for start in range(first * self._batch_size, order.count, self._batch_size):
                    ahead.append(thread.submit(self._read, source, order, start))
                    if len(ahead) > _BATCHES_AHEAD:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for batch in ahead:
                    batch.cancel()

    def _read(self, source: RowSource, order: EpochOrder, start: int) -> Batch:
        stop = min(start + self._batch_size, order.count)
        rows: Any = source.gather(np.sort(order.places(start, stop)), self._batch_size)
        mask: Any = (np.arange(self._batch_size) < stop - start).astype(np.float32)
        if self._place is not None:
            rows, mask = self._place(rows, mask)
        return Batch(rows, mask, stop - start)

    @functools.cached_property
    def _source(self) -> RowSource:
        resident = self._resident
        if resident is None:
            resident = fit_on_device(self._shards, self._rows)
        return (ResidentRows if resident else StreamedRows)(self._shards, self._rows)
