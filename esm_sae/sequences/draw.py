"""A uniform draw without replacement, from records that go by once."""

import numpy as np


class Draw:
    """The passing records with the ``n`` smallest keys among those that went by.

    Every record has a random key that derives from seed, ``n`` and its number, whether it passes
    or not. So every set of ``n`` passing records is equally likely, and how the records are
    handed over does not matter. Memory: key, offset and size of at most 1.5 n records (or
    n + 65,536), 20 bytes each, three times that while they are thinned out.
    """

    def __init__(self, n: int, seed: int) -> None:
        self._n = n
        # n is part of the seed: if a sample of a sample used the keys of the first draw again,
        # it would not be uniform over the source.
        self._bits = np.random.PCG64(np.random.SeedSequence((seed, n)))
        self._most = n + max(n // 2, 1 << 16)
        # Once there is one, a key that is not below it cannot be among the n smallest any more.
        self._limit: np.uint64 | None = None
        self._keys: list[np.ndarray] = []
        self._offsets: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []
        self._kept = 0

    def offer(self, passes: np.ndarray) -> np.ndarray:
        """Offer the next records.

        Args:
            passes: (R,) bool.

        Returns:
            (C,) the positions among them of those still in the running, ascending; ``place`` must
            be told next where they are.
        """
        keys = self._bits.random_raw(len(passes))
        running = passes if self._limit is None else passes & (keys < self._limit)
        candidates = np.flatnonzero(running)
        self._keys.append(keys[candidates])
        return candidates

    def place(self, offsets: np.ndarray, sizes: np.ndarray) -> None:
        """Tell where the candidates of the last offer are kept: (C,) offsets, which ascend."""
        self._offsets.append(offsets.astype(np.int64))
        self._sizes.append(sizes.astype(np.uint32))
        self._kept += len(offsets)
        if self._kept > self._most:
            self._thin_out()

    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the (n,) offsets of the drawn records, ascending, and their sizes."""
        self._thin_out()
        return self._offsets[0], self._sizes[0]

    def _thin_out(self) -> None:
        keys = np.concatenate([np.empty(0, np.uint64), *self._keys])
        keep = np.ones(len(keys), dtype=bool)
        if len(keys) > self._n:
            limit = np.partition(keys, self._n - 1)[self._n - 1]
            keep = keys < limit
            # Of equal keys the earlier record's counts as smaller.
            ties = np.flatnonzero(keys == limit)[: self._n - np.count_nonzero(keep)]
            keep[ties] = True
            self._limit = limit
        self._keys = [keys[keep]]
        self._offsets = [np.concatenate([np.empty(0, np.int64), *self._offsets])[keep]]
        self._sizes = [np.concatenate([np.empty(0, np.uint32), *self._sizes])[keep]]
        self._kept = len(self._keys[0])
