"""How well a statement about proteins or residues predicts where a latent fires."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Level = Literal["protein", "residue"]

# A draft that fewer units of training bear out is a coincidence.
FEWEST_HITS = 5
_FEWEST_HELD_OUT: dict[Level, int] = {"protein": 5, "residue": 25}

_SHARES_OF_MAXIMUM = (0.0, 0.25, 0.5)
_THRESHOLD_GAIN = 0.05


class Counts(NamedTuple):
    """How a statement and the firing of a latent, above a threshold, agree.

    Attributes:
        hits: units that bear the statement and on which the latent fires.
        bearers: units that bear the statement.
        firing: units on which the latent fires.
        units: proteins or residues in all.
    """

    hits: int
    bearers: int
    firing: int
    units: int

    @property
    def f1(self) -> float:
        """F1 of 'the latent fires where the statement holds'."""
        return float(f1_of(*(np.array(count) for count in self[:3])))

    @property
    def precision(self) -> float:
        """Share of the bearers on which the latent fires, 0 where there is none."""
        return self.hits / max(self.bearers, 1)

    @property
    def recall(self) -> float:
        """Share of the firing units that bear the statement, 0 where there is none."""
        return self.hits / max(self.firing, 1)

    @property
    def baseline(self) -> float:
        """F1 of 'the latent fires everywhere': that of a statement that says nothing."""
        return float(f1_of(*(np.array(n) for n in (self.firing, self.units, self.firing))))


@dataclass(frozen=True)
class Draft:
    """A label drafted from training proteins.

    Attributes:
        kind: what the label speaks of: family, concept, taxon, residue or position.
        text: one line.
        level: whether it speaks of proteins or of residues.
        threshold: the activation above which the label says that the latent is.
        skill: of training, see ``skill_of``.
        held_out: its counts on held-out proteins.
    """

    kind: str
    text: str
    level: Level
    threshold: float
    skill: float
    held_out: Counts

    @property
    def score(self) -> float | None:
        """F1 on held-out units; None where fewer than 5 proteins or 25 residues bear the label.

        Of a taxon too: what calls a latent taxonomic has seen the held-out proteins.
        """
        enough = self.held_out.bearers >= _FEWEST_HELD_OUT[self.level]
        return self.held_out.f1 if enough and self.kind != "taxon" else None


def f1_of(hits: np.ndarray, bearers: np.ndarray, firing: np.ndarray) -> np.ndarray:
    """Return F1 = 2 hits / (bearers + firing), 0 where both are 0."""
    return 2 * hits / np.maximum(bearers + firing, 1)


def skill_of(f1: np.ndarray, firing: np.ndarray, units: np.ndarray | int) -> np.ndarray:
    """Return (F1 - B) / (1 - B), B the F1 of a statement that holds of all units.

    F1 rises with the share of the units on which a latent fires, whatever a statement says:
    B is 0.67 for a latent that fires on half of them. Skill is 0 for that statement and 1 for a
    perfect one, so that statements about proteins and about residues can be compared.
    """
    baseline = f1_of(firing, np.asarray(units), firing)
    return (f1 - baseline) / np.maximum(1 - baseline, np.finfo(np.float64).eps)


def lowest_of(skills: np.ndarray) -> np.ndarray:
    """Return for each latent which threshold to take: a higher one has to add 0.05 to skill.

    Args:
        skills: (T, L), the lowest threshold first.

    Returns:
        (L,) numbers of thresholds.
    """
    handicap = _THRESHOLD_GAIN * np.arange(len(skills))
    return (skills - handicap[:, None]).argmax(axis=0)


def thresholds_of(maxima: np.ndarray) -> np.ndarray:
    """Return the thresholds that are tried, 0, a quarter and a half of the maximum, (T, L).

    Many latents fire weakly on much and strongly on what they are for.

    Args:
        maxima: (L,), the highest activation in training.
    """
    return np.outer(_SHARES_OF_MAXIMUM, maxima).astype(np.float32)
