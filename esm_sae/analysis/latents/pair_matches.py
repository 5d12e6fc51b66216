"""The latents of two SAEs matched with each other."""

from dataclasses import dataclass

import numpy as np

from esm_sae.analysis.latents.correlation import LatentColumns, correlation_blocks

# Latents above it match, by the cosine of decoder rows or the correlation of activations.
MATCHED = 0.7


@dataclass(frozen=True)
class LiveLatents:
    """The live latents of an SAE.

    Attributes:
        sae: ``main`` or ``replicate``.
        k: of the SAE.
        silent: latents that fire on none of the rows used.
        rare: latents that fire on fewer of them than a live one.
        numbers: of the n live latents, ascending.
        directions: their decoder rows at unit length, (n, D) float32.
        columns: their activations on the rows used.
    """

    sae: str
    k: int
    silent: int
    rare: int
    numbers: np.ndarray
    directions: np.ndarray
    columns: LatentColumns


@dataclass(frozen=True)
class Best:
    """The nearest latent of another SAE for each of n latents.

    Attributes:
        place: of that latent among the other's live ones, (n,); of equally near ones the first.
        value: how near, (n,) float32.
        mutual: whether that latent's nearest is this one, (n,).
    """

    place: np.ndarray
    value: np.ndarray
    mutual: np.ndarray

    @classmethod
    def nothing(cls, count: int) -> "Best":
        """Return what ``count`` latents have where the other SAE has none: place -1, value NaN."""
        return cls(
            np.full(count, -1), np.full(count, np.nan, np.float32), np.zeros(count, dtype=bool)
        )

    @property
    def matched(self) -> np.ndarray:
        """Which of them are nearer than 0.7, (n,)."""
        return self.value > MATCHED


@dataclass(frozen=True)
class PairMatch:
    """The live latents of one SAE and the nearest ones of another.

    Attributes:
        one: the SAE whose n live latents are matched.
        other: the SAE they are matched with.
        cosine: the nearest by decoder row.
        correlation: the nearest by activations.
        cosine_chance: largest cosine of each with as many random directions, (n,).
        correlation_chance: largest correlation of each, the rows of one SAE permuted, (n,).
        nearest_of_other: for each live latent of the other SAE the nearest of these by activations.
    """

    one: LiveLatents
    other: LiveLatents
    cosine: Best
    correlation: Best
    cosine_chance: np.ndarray
    correlation_chance: np.ndarray
    nearest_of_other: Best


def match_pair(one: LiveLatents, other: LiveLatents, seed: int) -> tuple[PairMatch, PairMatch]:
    """Match the latents of two SAEs, both ways.

    Chance is judged by uniformly random directions in the place of the other's, and by one random
    order of the other's rows. Neighbouring residues are alike, so that the latter is a low bar.

    Memory: 4 bytes x n x m, and as ``correlation_blocks``.

    Args:
        one: an SAE.
        other: the other; over the same rows.
        seed: of directions and order.
    """
    counts = len(one.numbers), len(other.numbers)
    if not all(counts):
        first, second = (Best.nothing(count) for count in counts)
        return (
            PairMatch(one, other, first, first, first.value, first.value, second),
            PairMatch(other, one, second, second, second.value, second.value, first),
        )
    generator = np.random.default_rng([seed, one.k, other.k])
    cosine = match_by_cosine(one.directions, other.directions)
    near = match_by_correlation(one.columns, other.columns)
    random = match_by_correlation(one.columns, other.columns.with_rows_permuted(generator))
    chance = [
        _largest_cosines(directions, count, generator)
        for directions, count in zip((one.directions, other.directions), counts[::-1], strict=True)
    ]
    return (
        PairMatch(one, other, cosine[0], near[0], chance[0], random[0].value, near[1]),
        PairMatch(other, one, cosine[1], near[1], chance[1], random[1].value, near[0]),
    )


def match_by_cosine(one: np.ndarray, other: np.ndarray) -> tuple[Best, Best]:
    """Find for each of n directions the nearest of m others, both ways; neither is empty.

    Args:
        one: (n, D), of unit length.
        other: (m, D), of unit length.
    """
    cosines = np.clip(one @ other.T, -1.0, 1.0)
    to_other, to_one = cosines.argmax(axis=1), cosines.argmax(axis=0)
    return _both(to_other, cosines.max(axis=1), to_one, cosines.max(axis=0))


def match_by_correlation(one: LatentColumns, other: LatentColumns) -> tuple[Best, Best]:
    """Find the latent of the other SAE that correlates most with each, both ways.

    Neither is empty. Memory: as ``correlation_blocks``.
    """
    to_other, with_other = np.zeros(len(one.means), np.int64), np.zeros(len(one.means), np.float32)
    to_one = np.zeros(len(other.means), np.int64)
    with_one = np.full(len(other.means), -np.inf, np.float32)
    for block, correlations in correlation_blocks(one, other):
        to_other[block] = correlations.argmax(axis=1)
        with_other[block] = correlations.max(axis=1)
        highest = correlations.max(axis=0)
        higher = highest > with_one
        to_one[higher] = block.start + correlations.argmax(axis=0)[higher]
        with_one[higher] = highest[higher]
    return _both(to_other, with_other, to_one, with_one)


def _largest_cosines(
    directions: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    random = generator.standard_normal((count, directions.shape[1]), dtype=np.float32)
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    return (directions @ random.T).max(axis=1)


def _both(
    to_other: np.ndarray, with_other: np.ndarray, to_one: np.ndarray, with_one: np.ndarray
) -> tuple[Best, Best]:
    return (
        Best(to_other, with_other, to_one[to_other] == np.arange(len(to_other))),
        Best(to_one, with_one, to_other[to_one] == np.arange(len(to_one))),
    )
