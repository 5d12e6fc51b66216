"""A synthetic FASTA file like UniRef50: its headers, lengths, letters and line width."""

from pathlib import Path

import numpy as np

# Amino acids and their shares in UniProtKB/Swiss-Prot, in percent (release statistics).
_SHARES = {
    "A": 8.25, "R": 5.53, "N": 4.06, "D": 5.46, "C": 1.38, "Q": 3.93, "E": 6.72, "G": 7.07,
    "H": 2.27, "I": 5.91, "L": 9.65, "K": 5.80, "M": 2.41, "F": 3.86, "P": 4.74, "S": 6.65,
    "T": 5.36, "W": 1.10, "Y": 2.92, "V": 6.86,
}  # fmt: skip
_LONGEST = 35_000
_POOL = 1 << 24
_RECORDS_AT_ONCE = 4096
_LINE = 60


def write_synthetic_fasta(path: Path, size: int, *, seed: int = 0) -> int:
    """Write records until the file has ``size`` bytes; return their number.

    Lengths are log-normal (median 221, mean 293), taxa Zipf-distributed. Sequences are cut from
    one random run of 16 M residues. Memory is bounded by 50 MB.
    """
    generator = np.random.default_rng(seed)
    letters = np.frombuffer("".join(_SHARES).encode(), dtype=np.uint8)
    shares = np.array(list(_SHARES.values()))
    pool = generator.choice(letters, size=_POOL, p=shares / shares.sum()).tobytes()
    records = 0
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(b"".join(_records(generator, pool, records)))
            records += _RECORDS_AT_ONCE
    return records


def _records(generator: np.random.Generator, pool: bytes, first: int) -> list[bytes]:
    lengths = np.clip(generator.lognormal(5.4, 0.75, _RECORDS_AT_ONCE), 11, _LONGEST).astype(int)
    starts = generator.integers(0, _POOL - _LONGEST, _RECORDS_AT_ONCE)
    taxa = np.minimum(generator.zipf(1.3, _RECORDS_AT_ONCE), 200_000)
    lines = []
    for number, (start, length, taxon) in enumerate(
        zip(starts.tolist(), lengths.tolist(), taxa.tolist(), strict=True), first
    ):
        lines.append(
            b">UniRef50_A0A%07X Uncharacterized protein n=1 Tax=Species number %d TaxID=%d "
            b"RepID=A0A%07X_9ZZZZ\n" % (number, taxon, taxon, number)
        )
        sequence = pool[start : start + length]
        lines += [sequence[at : at + _LINE] + b"\n" for at in range(0, length, _LINE)]
    return lines
