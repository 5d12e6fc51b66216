"""What can be said of proteins, and what of it is best said of a latent that fires on them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from esm_sae.analysis.latent_blocks import LatentBlock
from esm_sae.analysis.summary.label_scores import (
    FEWEST_HITS,
    Counts,
    Draft,
    f1_of,
    lowest_of,
    skill_of,
)


class Statements(NamedTuple):
    """Statements of one kind about P proteins.

    Attributes:
        kind: what they speak of.
        texts: one line for each of the S statements.
        protein: numbers of proteins that bear a statement, one for each that they bear.
        statement: the number of that statement.
        universe: (P,) bool, the proteins of which it is known which statements they bear.
        allowed: keys latent x S + statement of those that may be drafted, sorted; None for all.
    """

    kind: str
    texts: list[str]
    protein: np.ndarray
    statement: np.ndarray
    universe: np.ndarray
    allowed: np.ndarray | None = None


class ProteinDrafts:
    """Finds for each latent the statement that best predicts on which proteins it fires.

    Memory: 12 bytes for each statement that a protein bears, and the pairs of a block's latents
    and the statements borne where they fire.

    Args:
        statements: what can be said.
        training: (P,) bool, the proteins that labels are drafted from; the others are held out.
    """

    def __init__(self, statements: Statements, training: np.ndarray) -> None:
        self._statements = statements
        self._training = _Side(statements, training)
        self._held_out = _Side(statements, ~training)

    def drafts(self, block: LatentBlock, thresholds: np.ndarray) -> Iterator[tuple[int, Draft]]:
        """Yield latents of a block with the statement and threshold of the highest skill.

        Only proteins of the universe count, and only statements that 5 training proteins bear on
        which the latent fires above the threshold. Of equal statements the first is taken.

        Args:
            block: the latents, n of them.
            thresholds: (T, n), the lowest first.
        """
        levels = [self._best(block, above) for above in thresholds]
        skills = np.stack([level.skill for level in levels])
        chosen = lowest_of(skills)
        for row in np.flatnonzero(np.isfinite(skills.max(axis=0))).tolist():
            level = levels[chosen[row]]
            draft = Draft(
                self._statements.kind,
                self._statements.texts[level.statement[row]],
                "protein",
                float(thresholds[chosen[row], row]),
                float(level.skill[row]),
                Counts(*level.held_out[row].tolist()),
            )
            yield block.latents[row], draft

    def _best(self, block: LatentBlock, above: np.ndarray) -> "_Best":
        """Choose each latent's statement of the highest F1 for a threshold."""
        fires = block.firing(len(self._statements.universe), above)
        hits: Any = (fires @ self._training.bearers).tocoo()
        firing = self._training.firing(fires)
        f1 = f1_of(hits.data, self._training.sizes[hits.col], firing[hits.row])
        candidate = (hits.data >= FEWEST_HITS) & self._allowed(block, hits.row, hits.col)
        latent, statement, f1 = (part[candidate] for part in (hits.row, hits.col, f1))
        order = np.lexsort((statement, -f1, latent))
        order = order[np.flatnonzero(np.diff(latent[order], prepend=-1))]
        latent, statement = latent[order], statement[order]
        best = _Best(
            np.full(len(above), -np.inf),
            np.zeros(len(above), dtype=np.int64),
            np.zeros((len(above), 4), dtype=np.int64),
        )
        best.skill[latent] = skill_of(f1[order], firing[latent], self._training.units)
        best.statement[latent] = statement
        held_out = self._held_out
        if not len(latent):
            return best
        best.held_out[latent, 0] = (fires @ held_out.bearers)[latent, statement]
        best.held_out[latent, 1] = held_out.sizes[statement]
        best.held_out[:, 2] = held_out.firing(fires)
        best.held_out[:, 3] = held_out.units
        return best

    def _allowed(
        self, block: LatentBlock, latent: np.ndarray, statement: np.ndarray
    ) -> np.ndarray | bool:
        if self._statements.allowed is None:
            return True
        keys = (latent.astype(np.int64) + block.latents.start) * len(self._statements.texts)
        return np.isin(keys + statement, self._statements.allowed)


class _Best(NamedTuple):
    """The statement chosen for each of n latents.

    Attributes:
        skill: (n,) of training, minus infinity where there is none.
        statement: (n,).
        held_out: (n, 4), hits, bearers, firing and units on held-out proteins.
    """

    skill: np.ndarray
    statement: np.ndarray
    held_out: np.ndarray


class _Side:
    """The training proteins or the held-out ones.

    Attributes:
        bearers: (P, S) sparse, 1 where a protein of this side bears a statement.
        sizes: (S,), how many bear each.
        units: how many proteins of the universe are of this side.
    """

    def __init__(self, statements: Statements, side: np.ndarray) -> None:
        from scipy.sparse import csr_array

        self._counted = statements.universe & side
        counted = self._counted[statements.protein]
        protein, statement = statements.protein[counted], statements.statement[counted]
        shape = (len(side), len(statements.texts))
        self.bearers: Any = csr_array((np.ones(len(protein)), (protein, statement)), shape=shape)
        # A statement that was given twice counts once.
        self.bearers.data[:] = 1
        self.sizes: np.ndarray = self.bearers.sum(axis=0)
        self.units = int(self._counted.sum())

    def firing(self, fires: Any) -> np.ndarray:
        """Return on how many proteins each latent fires; ``fires`` is (n, P)."""
        return fires @ self._counted.astype(np.float64)
