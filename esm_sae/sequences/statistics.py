"""What a source and a sample of it consist of: lengths, taxa, headers."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae.sequences.selection import Sieve

_TOP_TAXA = 10
# The longest length in each bin of the histogram; one more bin is open.
_BIN_ENDS = (64, 128, 256, 384, 512, 768, 1024, 2048, 4096)
_BIN_NAMES = [
    *(f"{low + 1}-{high}" for low, high in zip((0, *_BIN_ENDS), _BIN_ENDS, strict=False)),
    f">{_BIN_ENDS[-1]}",
]


class LengthCounts:
    """Counts lengths.

    Attributes:
        records: records counted.
        residues: their residues.
    """

    def __init__(self) -> None:
        self.records = 0
        self.residues = 0
        # For each length up to the last bin's end; the longer ones together.
        self._counts = np.zeros(_BIN_ENDS[-1] + 2, dtype=np.int64)

    def add(self, lengths: np.ndarray) -> None:
        """Count the lengths (R,) of some records."""
        self.records += len(lengths)
        self.residues += int(lengths.sum())
        capped = np.minimum(lengths, len(self._counts) - 1)
        self._counts += np.bincount(capped, minlength=len(self._counts))

    @property
    def bins(self) -> np.ndarray:
        """(10,) records in each bin."""
        return np.add.reduceat(self._counts, [0, *(end + 1 for end in _BIN_ENDS)])


def summary_of(
    sieve: Sieve, before: LengthCounts, after: LengthCounts, index: Path, unrecognised: int
) -> dict[str, Any]:
    """Summarise a sample: counts, length histogram before and after, commonest taxa.

    Args:
        sieve: what became of the source's records.
        before: lengths of the source's records.
        after: lengths of the sampled ones.
        index: the sample's index table.
        unrecognised: sampled records whose header is of no known style.
    """
    rows = pl.scan_parquet(index)
    named = rows.filter(pl.col("taxon").is_not_null() | pl.col("taxid").is_not_null())
    taxa = named.group_by("taxon", "taxid").len("records").collect(engine="streaming")
    return {
        "read": sieve.read,
        "passing": sieve.passing,
        "sampled": after.records,
        "dropped": sieve.dropped,
        "not_drawn": sieve.passing - after.records,
        "residues_read": before.residues,
        "residues_sampled": after.residues,
        "lengths": [
            {"length": name, "read": int(read), "sampled": int(sampled)}
            for name, read, sampled in zip(_BIN_NAMES, before.bins, after.bins, strict=True)
        ],
        "taxa": len(taxa),
        "unrecognised_headers": unrecognised,
        "without_taxon": after.records - int(taxa["records"].sum()),
        "top_taxa": taxa.sort("records", "taxon", "taxid", descending=[True, False, False])
        .head(_TOP_TAXA)
        .with_columns(pl.col("taxon").fill_null(pl.format("TaxID {}", "taxid")))
        .to_dicts(),
    }
