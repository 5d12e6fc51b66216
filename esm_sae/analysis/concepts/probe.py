"""Logistic regression of many concepts at once: what a dense probe reads from embeddings."""

from collections.abc import Callable, Iterator

import numpy as np

PENALTIES = (10_000.0, 1_000.0, 100.0, 10.0)

_STEPS = 100
_TOLERANCE = 1e-3


class Standardised:
    """Brings vectors to the mean 0 and the standard deviation 1 of those of training."""

    def __init__(self, train: np.ndarray) -> None:
        """Measure the vectors of training, (N, D) float32."""
        self._mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = train.std(axis=0, dtype=np.float64)
        # A dimension that never changes in training can tell nothing.
        self._factor = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return (N, D + 1) float32 of (N, D); the last column is 1, for the intercept."""
        out = np.ones((len(vectors), vectors.shape[1] + 1), dtype=np.float32)
        np.multiply(vectors - self._mean, self._factor, out=out[:, :-1], casting="same_kind")
        return out


def fit_probes(x: np.ndarray, bears: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the weights of logistic regressions, one per concept, for each of ``PENALTIES``.

    Each minimises, over the proteins that count for its concept, the sum of the log-losses and
    ``penalty / 2 |w|^2``, the intercept not penalised. ``X'X / 4 + penalty`` bounds the curvature
    of all of them (Boehning & Lindsay 1988, doi:10.1007/BF00049423): factorised once a penalty,
    it makes a step two matrix products and a solution for all concepts together, with Nesterov's
    momentum, restarted where it leads uphill (O'Donoghue & Candes 2015, arXiv 1204.3982). A
    penalty ends when the largest step of a weight is below 0.001, or after 100 steps: more of them
    change no ranking that matters. The next, weaker one starts from its weights.

    Memory: three float32 arrays of (N, C).

    Args:
        x: (N, D + 1) float32 by ``Standardised``.
        bears: which protein bears which concept, (N, C) float32 of 0 and 1.
        counts: which protein counts for which concept, (N, C) float32 of 0 and 1.

    Yields:
        (D + 1, C) float32.
    """
    from scipy.linalg import cho_factor, cho_solve

    curvature = (x.T @ x).astype(np.float64) / 4
    weights = np.zeros((x.shape[1], bears.shape[1]))
    weights[-1] = _logit_of_share(bears, counts)
    for penalty in PENALTIES:
        ridge = np.full(len(weights), penalty)
        # Of the intercept just enough to factorise where a column repeats it.
        ridge[-1] = 1e-6 * len(x)
        factor = cho_factor(curvature + np.diag(ridge), lower=True)
        ridge[-1] = 0
        weights = _descend(
            x,
            bears,
            counts,
            weights,
            ridge,
            lambda gradient, factor=factor: cho_solve(factor, gradient),
        )
        yield weights.astype(np.float32)


def _descend(
    x: np.ndarray,
    bears: np.ndarray,
    counts: np.ndarray,
    weights: np.ndarray,
    ridge: np.ndarray,
    solve: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    ahead, momentum = weights, np.ones(weights.shape[1])
    for _ in range(_STEPS):
        odds = x @ ahead.astype(np.float32)
        error = (1 / (1 + np.exp(-odds)) - bears) * counts
        step = solve((x.T @ error).astype(np.float64) + ridge[:, None] * ahead)
        following = ahead - step
        uphill = (step * (following - weights)).sum(axis=0) < 0
        grown = np.where(uphill, 1.0, (1 + np.sqrt(1 + 4 * momentum**2)) / 2)
        ahead = following + np.where(uphill, 0.0, (momentum - 1) / grown) * (following - weights)
        moved = np.abs(following - weights).max()
        weights, momentum = following, grown
        if moved < _TOLERANCE:
            break
    return weights


def _logit_of_share(bears: np.ndarray, counts: np.ndarray) -> np.ndarray:
    positives = (bears * counts).sum(axis=0, dtype=np.float64) + 0.5
    return np.log(positives / (counts.sum(axis=0, dtype=np.float64) + 1 - positives))
