"""Which records of a FASTA file have the sequence of an earlier one."""

import hashlib
from pathlib import Path

import numpy as np

from esm_sae import storage
from esm_sae.formats.fasta_reading import BlockReader
from esm_sae.progress import progress
from esm_sae.sequences.selection import Selection, Sieve

# 128 bits: among 10^9 different sequences two have one digest with a probability of 10^-21.
_DIGEST_BYTES = 16
_DIGESTS_AT_ONCE = 1 << 23
_DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])


def find_repeats(source: storage.PathLike, selection: Selection, folder: Path) -> np.ndarray:
    """Find the records whose sequence is that of an earlier record that passes too.

    Reads the file once and keeps 16 bytes per passing record in a file in ``folder``. Memory is
    bounded by 1 byte per passing record and some 500 MB, and by 60 bytes per record that has the
    commonest sequence.

    Returns:
        (P,) bool, for each record that passes, in file order.
    """
    path = folder / "digests"
    count = _write_digests(source, selection, path)
    if not count:
        return np.zeros(0, dtype=bool)
    repeats = np.zeros(count, dtype=bool)
    shares = -(-count // _DIGESTS_AT_ONCE)
    for share in range(shares):
        _mark_repeats(path, share, shares, repeats)
    path.unlink()
    return repeats


def _write_digests(source: storage.PathLike, selection: Selection, path: Path) -> int:
    sieve = Sieve(selection)
    with (
        BlockReader(source) as blocks,
        path.open("wb") as file,
        progress(
            blocks.bytes_total, unit="bytes", description="finding identical sequences"
        ) as bar,
    ):
        for block in blocks:
            passing = np.flatnonzero(sieve.passes(block))
            file.write(b"".join(map(_digest, block.sequences(passing))))
            bar.update(blocks.bytes_read - bar.done)
    return sieve.passing


def _mark_repeats(path: Path, share: int, shares: int, repeats: np.ndarray) -> None:
    """Mark the repeats among the digests of one share; equal ones are in the same share."""
    numbers, digests = [], []
    for start in range(0, len(repeats), _DIGESTS_AT_ONCE):
        offset = start * _DIGEST.itemsize
        some = np.fromfile(path, dtype=_DIGEST, count=_DIGESTS_AT_ONCE, offset=offset)
        of_share = np.flatnonzero(some["high"] % shares == share)
        numbers.append(of_share + start)
        digests.append(some[of_share])
    number, digest = np.concatenate(numbers), np.concatenate(digests)
    # Stable: of equal digests the earliest record comes first.
    order = np.lexsort((digest["low"], digest["high"]))
    digest = digest[order]
    repeats[number[order[1:][digest[1:] == digest[:-1]]]] = True


def _digest(sequence: bytes) -> bytes:
    return hashlib.blake2b(sequence, digest_size=_DIGEST_BYTES).digest()
