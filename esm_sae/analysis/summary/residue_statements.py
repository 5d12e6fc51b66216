"""What can be said of residues: their letter and their neighbours', their place, their concepts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae.analysis.residues import LETTERS, ProteinLetters

# The residue itself, then its neighbours, the nearest first.
OFFSETS = (0, -1, 1, -2, 2, -3, 3)
_ENDS = (1, 2, 3, 5, 10, 20)

# fmt: off
_AMINO_ACIDS = {
    "A": "alanine", "B": "aspartate/asparagine (B)", "C": "cysteine", "D": "aspartate",
    "E": "glutamate", "F": "phenylalanine", "G": "glycine", "H": "histidine", "I": "isoleucine",
    "J": "leucine/isoleucine (J)", "K": "lysine", "L": "leucine", "M": "methionine",
    "N": "asparagine", "O": "pyrrolysine", "P": "proline", "Q": "glutamine", "R": "arginine",
    "S": "serine", "T": "threonine", "U": "selenocysteine", "V": "valine", "W": "tryptophan",
    "X": "unknown residue (X)", "Y": "tyrosine", "Z": "glutamate/glutamine (Z)",
}
# fmt: on


class Intervals(NamedTuple):
    """Stretches of proteins that bear concepts.

    Attributes:
        concepts: the name of each of C concepts.
        source_of: (C,), the number of the source of each.
        protein, start, end, concept: one of each per stretch; positions from 1, both included.
        universe: (P, sources) bool, the proteins of which a source says something.
    """

    concepts: list[str]
    source_of: np.ndarray
    protein: np.ndarray
    start: np.ndarray
    end: np.ndarray
    concept: np.ndarray
    universe: np.ndarray


class ResidueStatements:
    """All statements about the residues of proteins, numbered.

    Statement 0 holds of every residue and the next of those that a source of concepts speaks of:
    they say nothing and are the ``base`` within which another statement is judged. Then come the
    26 letters at each of ``OFFSETS``, the first and last 1, 2, 3, 5, 10 and 20 residues, and the
    concepts.

    Args:
        sequences: one for each protein, null where it is not known.
        intervals: concepts with positions; None for none.
    """

    def __init__(self, sequences: pl.Series, intervals: Intervals | None) -> None:
        self.known = sequences.is_not_null().to_numpy()
        filled = sequences.fill_null("")
        self._letters = ProteinLetters(filled)
        self._lengths = filled.str.len_bytes().to_numpy().astype(np.int64)
        self._intervals = None if intervals is None else _sorted(intervals)
        sources = 0 if intervals is None else intervals.universe.shape[1]
        self.letters = 1 + sources
        self.places = self.letters + len(OFFSETS) * len(LETTERS)
        self.concepts = self.places + 2 * len(_ENDS)
        self.count = self.concepts + (0 if intervals is None else len(intervals.concepts))
        self.base = np.zeros(self.count, dtype=np.int64)
        if intervals is not None:
            self.base[self.concepts :] = 1 + intervals.source_of
        starts = self.letters + len(LETTERS) * np.arange(len(OFFSETS))
        self.letter_slots = [slice(start, start + len(LETTERS)) for start in starts.tolist()]
        self.slot = self._slots()

    def of_rows(self, protein: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the statements that rows bear.

        Args:
            protein: (N,) number of each row's protein, ascending.
            position: (N,) from 1, ascending within a protein.

        Returns:
            starts (N + 1,) int64 and the statements: those of row n are
            ``statements[starts[n]:starts[n + 1]]``, the first of them statement 0.
        """
        everywhere = np.zeros((len(protein), 1), dtype=np.int64)
        columns = [everywhere, self._letters_around(protein, position)]
        columns.append(self._places(protein, position))
        if self._intervals is not None:
            inside = self._intervals.universe[protein]
            columns.append(np.where(inside, 1 + np.arange(inside.shape[1]), -1))
        table = np.concatenate(columns, axis=1)
        row, column = np.nonzero(table >= 0)
        statement = table[row, column]
        if self._intervals is not None:
            concept_row, concept = self._concepts(self._intervals, protein, position)
            row = np.concatenate([row, concept_row])
            statement = np.concatenate([statement, self.concepts + concept])
            order = np.argsort(row, kind="stable")
            row, statement = row[order], statement[order]
        starts = np.searchsorted(row, np.arange(len(protein) + 1))
        return starts.astype(np.int64), statement

    def describe(self, chosen: Sequence[Sequence[int]]) -> tuple[str, str]:
        """Return kind and text of statements that hold together.

        Args:
            chosen: the letters at one offset, or one place or concept; one or two of these.
        """
        firsts = sorted(chosen, key=lambda numbers: self._order(numbers[0]))
        texts = [self._text(numbers) for numbers in firsts]
        if firsts[0][0] >= self.letter_slots[0].stop and firsts[0][0] < self.places:
            texts[0] = f"residue {texts[0]}"
        largest = max(numbers[0] for numbers in chosen)
        if largest >= self.concepts:
            return "concept", "; ".join(texts)
        any_letter = any(numbers[0] < self.places for numbers in chosen)
        return "residue" if any_letter else "position", "; ".join(texts)

    def _slots(self) -> np.ndarray:
        """Number the statements so that only those of one number exclude one another."""
        slots = np.arange(self.count)
        for letters in self.letter_slots:
            slots[letters] = letters.start
        slots[self.places : self.concepts] = self.places
        return slots

    def _order(self, statement: int) -> tuple[bool, bool, int]:
        """Order statements as they are said: the letter, a concept, a place, the neighbours."""
        is_neighbour = self.letter_slots[0].stop <= statement < self.places
        is_place = self.places <= statement < self.concepts
        return is_neighbour, is_place, statement

    def _text(self, statements: Sequence[int]) -> str:
        number = statements[0]
        if number < self.places:
            return self._letters_text(statements)
        if number >= self.concepts and self._intervals is not None:
            return self._intervals.concepts[number - self.concepts]
        from_end, end = divmod(number - self.places, len(_ENDS))
        where = "last" if from_end else "first"
        return f"{where} residue" if end == 0 else f"{where} {_ENDS[end]} residues"

    def _letters_text(self, statements: Sequence[int]) -> str:
        """Say letters at one offset: 'lysine or arginine', 'after proline', '2 before glycine'."""
        offset = OFFSETS[(statements[0] - self.letters) // len(LETTERS)]
        *others, last = (
            _AMINO_ACIDS[LETTERS[(statement - self.letters) % len(LETTERS)]]
            for statement in statements
        )
        listed = f"{', '.join(others)} or {last}" if others else last
        if offset == 0:
            return listed
        distance = f"{abs(offset)} " if abs(offset) > 1 else ""
        return f"{distance}{'after' if offset < 0 else 'before'} {listed}"

    def _letters_around(self, protein: np.ndarray, position: np.ndarray) -> np.ndarray:
        columns = []
        length = self._lengths[protein]
        for number, offset in enumerate(OFFSETS):
            there = position + offset
            inside = (there >= 1) & (there <= length)
            letter = self._letters.at(protein, np.clip(there, 1, length)).astype(np.int64)
            known = inside & (letter < len(LETTERS))
            columns.append(np.where(known, self.letters + number * len(LETTERS) + letter, -1))
        return np.stack(columns, axis=1)

    def _places(self, protein: np.ndarray, position: np.ndarray) -> np.ndarray:
        from_end = self._lengths[protein] + 1 - position
        near = np.stack([position, from_end], axis=1)[:, :, None] <= np.array(_ENDS)
        numbers = self.places + np.arange(2 * len(_ENDS))
        return np.where(near.reshape(len(protein), -1), numbers, -1)

    def _concepts(
        self, intervals: Intervals, protein: np.ndarray, position: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return row and concept of each row that lies in a stretch."""
        if not len(protein):
            return protein, protein
        first, last = np.searchsorted(intervals.protein, [protein[0], protein[-1] + 1])
        own = slice(first, last)
        # Rows are in the order of these keys, so that those of a stretch are consecutive.
        width = max(int(position.max()), int(intervals.end[own].max(initial=0))) + 2
        keys = protein * width + position
        at = intervals.protein[own] * width
        starts = np.searchsorted(keys, at + intervals.start[own], side="left")
        ends = np.searchsorted(keys, at + intervals.end[own], side="right")
        rows = np.maximum(ends - starts, 0)
        offsets = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
        pairs = np.stack(
            [np.repeat(starts, rows) + offsets, np.repeat(intervals.concept[own], rows)]
        )
        # Overlapping stretches of one concept bear it once.
        pairs = np.unique(pairs, axis=1)
        return pairs[0], pairs[1]


def _sorted(intervals: Intervals) -> Intervals:
    order = np.argsort(intervals.protein, kind="stable")
    parts = (intervals.protein, intervals.start, intervals.end, intervals.concept)
    protein, start, end, concept = (part[order].astype(np.int64) for part in parts)
    return intervals._replace(protein=protein, start=start, end=end, concept=concept)
