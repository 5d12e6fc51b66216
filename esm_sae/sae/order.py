"""The order of an epoch: a permutation that is computed where it is asked for, not stored."""

import math
from dataclasses import dataclass

import numpy as np

# Of 8, 12 and 16 rounds, 12 are the first with which the orders of 2 to 6 places, over 24,000
# seeds, come near being equally frequent; more places mix sooner.
_ROUNDS = 12


@dataclass(frozen=True)
class EpochOrder:
    """A permutation of ``range(count)``, a function of seed and epoch alone.

    A generalised Feistel network: a number is split into its row and column in the smallest
    near-square table that holds ``count`` cells, and in turn each of the two is moved on, modulo
    the table's side, by a keyed hash of the other. A result past the end is permuted again until
    it is below ``count``, which few are. Source: Black and Rogaway 2002, "Ciphers with Arbitrary
    Finite Domains", methods 2 and 3.

    Attributes:
        count: number of places, up to 2^62.
        seed: seed of the training, 0 or more.
        epoch: number of the epoch, 0 or more.
    """

    count: int
    seed: int
    epoch: int

    def places(self, start: int, stop: int) -> np.ndarray:
        """Return elements ``start`` to ``stop`` of the permutation, (stop - start,) int64.

        Takes time and memory in proportion to their number, not to ``count``.

        Raises:
            IndexError: these are not all within ``range(count)``.
        """
        if not 0 <= start <= stop <= self.count:
            raise IndexError(f"elements {start} to {stop} of a permutation of {self.count}")
        keys = np.random.SeedSequence([self.seed, self.epoch]).generate_state(_ROUNDS)
        places = self._permuted(np.arange(start, stop), keys)
        outside = np.flatnonzero(places >= self.count)
        while len(outside):
            places[outside] = self._permuted(places[outside], keys)
            outside = outside[places[outside] >= self.count]
        return places

    def _permuted(self, numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
        rows = math.isqrt(max(self.count - 1, 0)) + 1
        columns = max(-(-self.count // rows), 1)
        row, column = (part.astype(np.uint32) for part in np.divmod(numbers, columns))
        for one, other in keys.reshape(-1, 2):
            row = _moved(row, _hash(column ^ one), rows)
            column = _moved(column, _hash(row ^ other), columns)
        return row.astype(np.int64) * columns + column


def _moved(numbers: np.ndarray, hashes: np.ndarray, modulus: int) -> np.ndarray:
    """Add hashes, scaled from 32 bits to ``range(modulus)``, modulo ``modulus`` (up to 2^31)."""
    steps = (hashes.astype(np.uint64) * np.uint64(modulus) >> np.uint64(32)).astype(np.uint32)
    sums = numbers + steps
    # Below the modulus the difference wraps round to more than the sum.
    return np.minimum(sums, sums - np.uint32(modulus))


def _hash(numbers: np.ndarray) -> np.ndarray:
    """Return the finaliser of MurmurHash3 (Appleby, public domain) of 32-bit numbers."""
    hashes = numbers ^ (numbers >> 16)
    hashes *= np.uint32(0x85EBCA6B)
    hashes ^= hashes >> 13
    hashes *= np.uint32(0xC2B2AE35)
    hashes ^= hashes >> 16
    return hashes
