"""Labels of residues: the statements that best predict on which residues a latent fires."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae.analysis.summary.label_scores import (
    FEWEST_HITS,
    Counts,
    Draft,
    f1_of,
    lowest_of,
    skill_of,
)
from esm_sae.analysis.summary.residue_statements import ResidueStatements

_MOST_LETTERS = 3
_LETTER_GAIN = 1.05
_SECOND_GAIN = 0.05


def residue_drafts(
    parts: Sequence[Path],
    statements: ResidueStatements,
    training: np.ndarray,
    thresholds: np.ndarray,
) -> dict[int, Draft]:
    """Draft a label of residues for each latent, from the residues of training proteins.

    A statement predicts that the activation is above a threshold. First the threshold and the
    statement of the highest skill are chosen: a place, a concept, or up to three letters at one
    offset, taken greedily, each further one of which raises F1 by 5%. Then a second statement
    that must hold as well is added where it adds 0.05 to F1. Residues on which no latent fires at
    all do not count.

    Memory: about (16 x T + 80) bytes x L x S for S statements, 24 x S x S, and one part of
    activations.

    Args:
        parts: files of activations in the order of rows: row, protein, position, latent,
            activation.
        statements: what can be said.
        training: (P,) bool, the proteins that labels are drafted from; the others are held out.
        thresholds: (T, L), the lowest first.

    Returns:
        The drafts, of latents that fire on at least 5 training residues of which they hold.
    """
    reader = _Reader(parts, statements, training, thresholds)
    hits, pairs = reader.count()
    bearers = np.diagonal(pairs, axis1=1, axis2=2)[:, None]
    firsts = [
        _best(_Counted(above, bearers, statements.base[None]), above, pairs, statements)
        for above in hits
    ]
    level = lowest_of(np.stack([first.skill for first in firsts]))
    first = _Choice(
        *(_taken(values, level) for values in zip(*(f[:4] for f in firsts), strict=True)),
        *(_taken(values, level, axis=1) for values in zip(*(f[4:] for f in firsts), strict=True)),
    )
    firing = _taken(hits, level, axis=1)
    together = _Counted(
        reader.count_within(first.within, level),
        np.stack([first.within.astype(np.float64) @ side for side in pairs]),
        np.where(statements.base > 0, statements.base, first.base[:, None]),
    )
    second = _best(together, firing, pairs, statements, after=first)
    adds = np.isfinite(second.skill) & (second.f1 >= first.f1 + _SECOND_GAIN)
    drafts = {}
    for latent in np.flatnonzero(np.isfinite(first.skill)).tolist():
        chosen, best = [np.flatnonzero(first.within[latent]).tolist()], first
        if adds[latent]:
            chosen.append(np.flatnonzero(second.within[latent]).tolist())
            best = second
        kind, text = statements.describe(chosen)
        threshold = float(thresholds[level[latent], latent])
        drafts[latent] = Draft(
            kind, text, "residue", threshold, float(best.skill[latent]), best.counts(1, latent)
        )
    return drafts


class _Counted(NamedTuple):
    """Residues of both sides, training and held-out, by latent and statement.

    Attributes:
        hits: (2, L, S), those that bear the statement and on which the latent fires.
        bearers: (2, L or 1, S), those that bear it.
        base: (L or 1, S), the statement within which it is judged.
    """

    hits: np.ndarray
    bearers: np.ndarray
    base: np.ndarray


class _Choice(NamedTuple):
    """The statement chosen for each latent.

    Attributes:
        within: (L, S) bool, the letters chosen, or one place or concept.
        base: (L,), the statement within which it is judged.
        f1, skill: (L,), of training; skill is minus infinity where too few bear the statement out.
        hits, bearers, firing, units: (2, L), residues of both sides.
    """

    within: np.ndarray
    base: np.ndarray
    f1: np.ndarray
    skill: np.ndarray
    hits: np.ndarray
    bearers: np.ndarray
    firing: np.ndarray
    units: np.ndarray

    def counts(self, side: int, latent: int) -> Counts:
        parts = (self.hits, self.bearers, self.firing, self.units)
        return Counts(*(int(part[side, latent]) for part in parts))


def _best(
    counted: _Counted,
    alone: np.ndarray,
    pairs: np.ndarray,
    statements: ResidueStatements,
    after: _Choice | None = None,
) -> _Choice:
    """Choose for each latent the statement of the highest F1; of equal ones the first.

    Args:
        counted: what is chosen from.
        alone: (2, L, S), residues that bear a statement and on which the latent fires.
        pairs: (2, S, S), residues that bear two statements.
        statements: what can be said.
        after: the statement that holds already.
    """
    shape = alone[0].shape
    latents = np.arange(len(alone[0]))
    base = np.broadcast_to(counted.base, shape)
    firing = np.take_along_axis(alone[0], base, axis=1)
    hits, bearers = counted.hits[0], np.broadcast_to(counted.bearers[0], shape)
    f1 = f1_of(hits, bearers, firing)
    within = np.zeros(shape, dtype=bool)
    for letters in statements.letter_slots:
        # A set of letters stands in the place of the first letter.
        within[:, letters], scores = _letter_sets(
            hits[:, letters], bearers[:, letters], firing[:, letters]
        )
        f1[:, letters] = -1
        f1[:, letters.start] = scores
    f1[:, : statements.letters] = -1
    if after is not None:
        f1[after.within @ (statements.slot[:, None] == statements.slot)] = -1
        two_sources = (statements.base > 0) & (after.base[:, None] > 0)
        f1[two_sources & (statements.base != after.base[:, None])] = -1
    best = f1.argmax(axis=1)
    in_slot = statements.slot == statements.slot[best][:, None]
    single = np.arange(statements.count) == best[:, None]
    within = np.where((best < statements.places)[:, None], within & in_slot, single)
    own = base[latents, best]
    firing, units = alone[:, latents, own], pairs[:, own, own]
    f1 = f1[latents, best]
    chosen_hits = (counted.hits * within).sum(axis=2)
    skill = skill_of(f1, firing[0], units[0])
    return _Choice(
        within,
        own,
        f1,
        np.where(chosen_hits[0] >= FEWEST_HITS, skill, -np.inf),
        chosen_hits,
        (counted.bearers * within).sum(axis=2),
        firing,
        units,
    )


def _letter_sets(
    hits: np.ndarray, bearers: np.ndarray, firing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose letters of one offset for each latent, (L, 26) bool, and return their F1, (L,)."""
    latents = np.arange(len(hits))
    chosen = np.zeros(hits.shape, dtype=bool)
    best = np.zeros(len(hits))
    for _ in range(_MOST_LETTERS):
        so_far = [(part * chosen).sum(axis=1, keepdims=True) for part in (hits, bearers)]
        f1 = f1_of(hits + so_far[0], bearers + so_far[1], firing)
        f1[chosen] = -1
        letter = f1.argmax(axis=1)
        better = f1[latents, letter] >= best * _LETTER_GAIN
        chosen[latents[better], letter[better]] = True
        best = np.where(better, f1[latents, letter], best)
    return chosen, best


def _taken(values: Sequence[np.ndarray] | np.ndarray, level: np.ndarray, axis: int = 0):
    """Return of arrays of all levels, with L along an axis, those of each latent's level."""
    return np.stack(
        [values[number].take(latent, axis=axis) for latent, number in enumerate(level)], axis=axis
    )


class _Part(NamedTuple):
    """One file of activations and the statements that its rows bear."""

    row: np.ndarray
    latent: np.ndarray
    activation: np.ndarray
    starts: np.ndarray
    statements: np.ndarray
    side: np.ndarray


class _Reader:
    def __init__(
        self,
        parts: Sequence[Path],
        statements: ResidueStatements,
        training: np.ndarray,
        thresholds: np.ndarray,
    ) -> None:
        self.parts, self.statements = parts, statements
        self.training, self.thresholds = training, thresholds

    def count(self) -> tuple[np.ndarray, np.ndarray]:
        """Count the rows of both sides above each threshold by latent and statement.

        Returns:
            (T, 2, L, S) int32; and the rows that bear each pair of statements, (2, S, S).
        """
        from esm_sae.analysis.summary.label_kernels import count_statements

        levels, latents = self.thresholds.shape
        count = self.statements.count
        hits = np.zeros((levels, 2, latents, count), dtype=np.int32)
        pairs = np.zeros((1, 2, count, count), dtype=np.int32)
        everywhere = np.zeros((max(latents, count), count), dtype=bool)
        everywhere[:, 0] = True
        for part in self._read():
            level = (part.activation > self.thresholds[:, part.latent]).sum(axis=0) - 1
            rows = (part.starts, part.statements, part.side, everywhere)
            count_statements(part.row, part.latent, level, *rows, hits)
            row = np.repeat(np.arange(len(part.side)), np.diff(part.starts))
            count_statements(row, part.statements, np.zeros_like(row), *rows, pairs)
        return hits[::-1].cumsum(axis=0, dtype=np.int32)[::-1], pairs[0]

    def count_within(self, within: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Count by latent and statement the rows that bear a latent's statement too.

        Args:
            within: (L, S) bool, the statement of each latent.
            level: (L,), the number of its threshold.

        Returns:
            (2, L, S) int32.
        """
        from esm_sae.analysis.summary.label_kernels import count_statements

        own = self.thresholds[level, np.arange(len(level))]
        hits = np.zeros((1, 2, *within.shape), dtype=np.int32)
        for part in self._read():
            counted = (part.activation > own[part.latent]).astype(np.int64) - 1
            rows = (part.starts, part.statements, part.side, within)
            count_statements(part.row, part.latent, counted, *rows, hits)
        return hits[0]

    def _read(self) -> Iterator[_Part]:
        columns = ["row", "protein", "position", "latent", "activation"]
        for path in self.parts:
            entries = pl.read_parquet(path, columns=columns)
            known = self.statements.known[entries["protein"].to_numpy()]
            entries = entries if known.all() else entries.filter(known)
            rows = entries["row"].to_numpy()
            is_first = np.concatenate([[True], rows[1:] != rows[:-1]])[: len(rows)]
            protein, position = (
                entries[name].to_numpy()[is_first].astype(np.int64)
                for name in ("protein", "position")
            )
            yield _Part(
                np.cumsum(is_first) - 1,
                entries["latent"].to_numpy().astype(np.int64),
                entries["activation"].to_numpy(),
                *self.statements.of_rows(protein, position),
                np.where(self.training[protein], 0, 1),
            )
