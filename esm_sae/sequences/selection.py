"""Which records of a FASTA file may be in a sample, and why the others may not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from esm_sae.errors import InputError
from esm_sae.formats.fasta_blocks import Block, any_in_sequences
from esm_sae.formats.headers import parse_headers

TOO_SHORT, TOO_LONG = "too short", "too long"
OTHER_LETTERS, IDENTICAL = "other letters", "identical sequence"
NO_TAXON, OTHER_TAXON = "no taxon", "another taxon"


@dataclass(frozen=True)
class Selection:
    """What a record must be like to pass.

    Attributes:
        min_length: fewest residues.
        max_length: most residues; None is no limit.
        letters: the residue letters it may have, in either case; None is all 26.
        taxa: names of taxa, as headers give them, or TaxIDs of which its own must be one; None is
            any. A taxon's descendants are others.
        drop_identical: whether its sequence must not be that of an earlier record that passes.
    """

    min_length: int = 1
    max_length: int | None = None
    letters: str | None = None
    taxa: tuple[str, ...] | None = None
    drop_identical: bool = False

    def __post_init__(self) -> None:
        lowest = max(self.min_length, 1)
        if self.max_length is not None and self.max_length < lowest:
            raise InputError(
                f"no sequence has at least {lowest} and at most {self.max_length} residues; give "
                "another minimum or maximum length"
            )
        if self.letters is not None and not (self.letters.isascii() and self.letters.isalpha()):
            raise InputError(
                f"letters '{self.letters}': expected residue letters, such as ACDEFGHIKLMNPQRSTVWY"
            )
        if self.taxa is not None and not all(taxon.strip() for taxon in self.taxa):
            raise InputError("taxa: expected names or TaxIDs, one is empty")

    def determinants(self) -> dict[str, Any]:
        """Return what determines which records pass, in one form for equal selections."""
        return {
            "min_length": max(self.min_length, 1),
            "max_length": self.max_length,
            "letters": self.letters and "".join(sorted(set(self.letters.upper()))),
            "taxa": self.taxa and sorted(set(self.taxa)),
            "drop_identical": self.drop_identical,
        }


class Sieve:
    """Applies a selection to a file's blocks, in file order, and counts.

    Attributes:
        read: records seen.
        dropped: records that do not pass, by the first reason that applies.
    """

    def __init__(self, selection: Selection, repeats: np.ndarray | None = None) -> None:
        """Prepare for a file.

        Args:
            selection: what passes.
            repeats: (P,) bool, for each record that passes all else whether its sequence is that
                of an earlier one.
        """
        self._selection = selection
        self._repeats = repeats
        self._repeats_used = 0
        self._forbidden = _letter_table(selection.letters)
        self.read = 0
        self.dropped = {TOO_SHORT: 0, TOO_LONG: 0}
        if selection.letters is not None:
            self.dropped[OTHER_LETTERS] = 0
        if selection.taxa is not None:
            self.dropped |= {NO_TAXON: 0, OTHER_TAXON: 0}
        if repeats is not None:
            self.dropped[IDENTICAL] = 0

    @property
    def passing(self) -> int:
        """Records that pass."""
        return self.read - sum(self.dropped.values())

    def passes(self, block: Block) -> np.ndarray:
        """Return (R,) bool: which records of the next block pass."""
        self.read += len(block.starts)
        passes = np.ones(len(block.starts), dtype=bool)
        for reason, fails in self._failures(block, passes):
            fails &= passes
            self.dropped[reason] += int(np.count_nonzero(fails))
            passes &= ~fails
        return passes

    def _failures(self, block: Block, passes: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the records that fail for each reason; ``passes`` is kept up to date between."""
        yield TOO_SHORT, block.lengths < self._selection.min_length
        if self._selection.max_length is not None:
            yield TOO_LONG, block.lengths > self._selection.max_length
        if self._forbidden is not None:
            yield OTHER_LETTERS, any_in_sequences(self._forbidden[block.content], block)
        if self._selection.taxa is not None:
            named, matching = _taxa_of(block, passes, self._selection.taxa)
            yield NO_TAXON, ~named
            yield OTHER_TAXON, ~matching
        if self._repeats is not None:
            fails = np.zeros(len(passes), dtype=bool)
            numbers = np.flatnonzero(passes)
            fails[numbers] = self._repeats[self._repeats_used :][: len(numbers)]
            self._repeats_used += len(numbers)
            yield IDENTICAL, fails


def _letter_table(letters: str | None) -> np.ndarray | None:
    """Return (256,) bool: which bytes are letters outside of those given."""
    if letters is None:
        return None
    every = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    table = np.zeros(256, dtype=bool)
    table[list(every + every.lower())] = True
    allowed = letters.upper().encode()
    table[list(allowed + allowed.lower())] = False
    return table


def _taxa_of(
    block: Block, passes: np.ndarray, taxa: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (R,) bool each: which passing records name a taxon, and which one of these."""
    numbers = np.flatnonzero(passes)
    headers = pl.Series("header", block.headers(numbers), dtype=pl.String)
    parsed = parse_headers(headers).select("taxon", pl.col("taxid").cast(pl.String)).collect()
    named, matching = np.zeros(len(passes), dtype=bool), np.zeros(len(passes), dtype=bool)
    named[numbers] = ~parsed.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
    found = parsed.select(pl.any_horizontal(pl.all().is_in(taxa).fill_null(False)))
    matching[numbers] = found.to_series().to_numpy()
    return named, matching
