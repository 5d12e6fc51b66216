"""Concepts that a sequence alone tells, exact to the residue."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

_LETTERS = "ACDEFGHIKLMNPQRSTVWY"
_BETWEEN = 255
_UNKNOWN = len(_LETTERS)

# Tenths of the hydropathy of Kyte & Doolittle (1982), J. Mol. Biol. 157:105, in the order of
# _LETTERS: whole numbers, so that a sum at the bound is there whatever comes before it.
# fmt: off
_HYDROPATHY = [
    18, 25, -35, -35, 28, -4, -32, 45, -39, 38, 19, -35, -16, -35, -45, -8, -7, 42, -9, -13,
]
# fmt: on
_MEMBRANE_WINDOW, _MEMBRANE_MEAN = 19, 16
_ENTROPY_WINDOW, _ENTROPY_TRIGGER, _ENTROPY_EXTENSION = 12, 2.2, 2.5

Intervals = tuple[np.ndarray, np.ndarray]


def find_motifs(sequences: Sequence[str]) -> pl.DataFrame:
    """Find the concepts of ``MOTIFS`` in sequences.

    Occurrences may overlap. A letter that is none of the 20 amino acids matches nothing, and no
    window with one counts. Memory is about 60 bytes a residue: give sequences by the chunk.

    Returns:
        concept, number (of the sequence), start, end (from 1, both inclusive), sorted.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    # A letter between sequences keeps a motif from running from one into the next.
    code_of = np.full(256, _UNKNOWN, dtype=np.uint8)
    code_of[list(_LETTERS.encode())] = np.arange(len(_LETTERS))
    code_of[list(_LETTERS.lower().encode())] = np.arange(len(_LETTERS))
    code_of[ord("\n")] = _BETWEEN
    text = code_of[np.frombuffer(("\n".join(sequences) + "\n").encode(), dtype=np.uint8)]
    starts = np.cumsum(lengths + 1) - lengths - 1
    tables = []
    for concept, find in MOTIFS.items():
        first, end = find(text)
        number = np.searchsorted(starts, first, side="right") - 1
        tables.append(
            pl.DataFrame(
                {
                    "concept": pl.Series([concept], dtype=pl.String).new_from_index(0, len(first)),
                    "number": number.astype(np.uint32),
                    "start": (first - starts[number] + 1).astype(np.uint32),
                    "end": (end - starts[number]).astype(np.uint32),
                }
            )
        )
    return pl.concat(tables).sort("concept", "number", "start", "end")


def _pattern(*places: str) -> Callable[[np.ndarray], Intervals]:
    """Return a search for a run of residues, each one of those given (a dot: any of the 20)."""
    allowed = np.zeros((len(places), 256), dtype=bool)
    for row, letters in zip(allowed, places, strict=True):
        row[[_LETTERS.index(letter) for letter in (_LETTERS if letters == "." else letters)]] = True

    def find(text: np.ndarray) -> Intervals:
        count = len(text) - len(places) + 1
        matches = np.ones(max(count, 0), dtype=bool)
        for place, row in enumerate(allowed):
            matches &= row[text[place : place + len(matches)]]
        first = np.flatnonzero(matches)
        return first, first + len(places)

    return find


def _initiator(text: np.ndarray) -> Intervals:
    begins = np.concatenate([[True], text[:-1] == _BETWEEN])
    first = np.flatnonzero(begins & (text == _LETTERS.index("M")))
    return first, first + 1


def _low_complexity(text: np.ndarray) -> Intervals:
    """Find stretches as the first stage of SEG does; see ``MOTIFS``."""
    window = _ENTROPY_WINDOW
    share = np.arange(window + 1) / window
    term = -share * np.log2(np.where(share > 0, share, 1.0))
    entropy = np.zeros(max(len(text) - window + 1, 0))
    for letter in range(len(_LETTERS)):
        entropy += term[_window_sums(text == letter, window)]
    whole = _window_sums(text < _UNKNOWN, window) == window
    # Sums of the table's terms are equal only to rounding, whichever order their letters are in.
    low = whole & (entropy <= _ENTROPY_EXTENSION + 1e-9)
    trigger = whole & (entropy <= _ENTROPY_TRIGGER + 1e-9)
    first, end = _runs(low)
    triggers = np.concatenate([[0], np.cumsum(trigger)])
    kept = triggers[end] > triggers[first]
    return _runs(_covered(first[kept], end[kept] + window - 1, len(text)))


def _membrane(text: np.ndarray) -> Intervals:
    """Find hydrophobic stretches by Kyte-Doolittle windows; see ``MOTIFS``."""
    window = _MEMBRANE_WINDOW
    tenths = np.zeros(256, dtype=np.int64)
    tenths[: len(_LETTERS)] = _HYDROPATHY
    whole = _window_sums(text < _UNKNOWN, window) == window
    high = _window_sums(tenths[text], window) >= _MEMBRANE_MEAN * window
    first, end = _runs(whole & high)
    return _runs(_covered(first, end + window - 1, len(text)))


def _window_sums(values: np.ndarray, window: int) -> np.ndarray:
    if len(values) < window:
        return np.zeros(0, dtype=np.int64)
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return sums[window:] - sums[:-window]


def _runs(mask: np.ndarray) -> Intervals:
    """Return where runs of true start and end (exclusive)."""
    edges = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _covered(first: np.ndarray, end: np.ndarray, length: int) -> np.ndarray:
    steps = np.zeros(length + 1, dtype=np.int64)
    np.add.at(steps, first, 1)
    np.add.at(steps, end, -1)
    return np.cumsum(steps[:-1]) > 0


MOTIFS: dict[str, Callable[[np.ndarray], Intervals]] = {
    "C-X2-C": _pattern("C", ".", ".", "C"),
    "N-glycosylation sequon": _pattern("N", "ACDEFGHIKLMNQRSTVWY", "ST"),
    "P-loop": _pattern("AG", ".", ".", ".", ".", "G", "K", "ST"),
    "initiator methionine": _initiator,
    "low complexity": _low_complexity,
    "transmembrane-like stretch": _membrane,
}
"""The concepts computed from sequence.

- C-X2-C: two cysteines three apart, as in many metal sites.
- N-glycosylation sequon: N-X-S/T, X not P (Marshall 1972, Annu. Rev. Biochem. 41:673), whether
  or not anything is attached there.
- P-loop: [AG]-x(4)-G-K-[ST], Walker A (PROSITE PS00017).
- initiator methionine: M as the first residue; fragments mostly lack it.
- low complexity: windows of 12 residues with a Shannon entropy of at most 2.5 bits, where at least
  one is at most 2.2, joined: the first stage of SEG (Wootton & Federhen 1993, Comput. Chem.
  17:149) with its default parameters, without the second, which trims the ends.
- transmembrane-like stretch: windows of 19 residues with a mean hydropathy of at least 1.6 (Kyte &
  Doolittle 1982), joined; signal peptides and hydrophobic cores are among them.
"""
