"""Compiled loops of the stratified test; imported inside functions, as compiling needs numba."""

import numpy as np

from esm_sae.compiled import compiled

# Terms below the first are left out of a distribution. The mass that is lost with them is far
# below the second, so that a p-value that is no smaller is right to many digits.
_NEGLIGIBLE, _SMALLEST_P = 1e-30, 1e-25


@compiled()
def count_by_stratum(
    starts: np.ndarray, latents: np.ndarray, units: np.ndarray, strata: np.ndarray, out: np.ndarray
) -> None:
    """Add up in ``out``, (S, L), in how many of the units of each stratum each latent fires."""
    for unit in units:
        row = out[strata[unit]]
        for entry in range(starts[unit], starts[unit + 1]):
            row[latents[entry]] += 1


@compiled()
def count_in_draws(
    starts: np.ndarray, latents: np.ndarray, draws: np.ndarray, out: np.ndarray
) -> None:
    """Add up in ``out``, (B, L), in how many units of each draw, (B, n), each latent fires."""
    for draw in range(len(draws)):
        row = out[draw]
        for unit in draws[draw]:
            for entry in range(starts[unit], starts[unit + 1]):
                row[latents[entry]] += 1


@compiled()
def upper_tails(totals: np.ndarray, sizes: np.ndarray, firing: np.ndarray, out: np.ndarray) -> None:
    """Fill ``out`` with P(T >= t), T the sum of independent hypergeometric counts.

    Args:
        totals: units in each stratum, (S,) int64.
        sizes: those among them that are of the taxon, (S,) int64.
        firing: those among them on which each latent fires, (S, L) int64.
        out: (L, 1 + sum of sizes); p below 1e-25 are given as 1e-25.
    """
    longest = out.shape[1]
    one, sum_, other = np.empty(longest), np.empty(longest), np.empty(longest)
    for latent in range(len(out)):
        sum_[0], low, length = 1.0, 0, 1
        for stratum in range(len(totals)):
            first, terms = _hypergeometric(
                totals[stratum], sizes[stratum], firing[stratum, latent], one
            )
            other[: length + terms - 1] = 0.0
            for i in range(length):
                for j in range(terms):
                    other[i + j] += sum_[i] * one[j]
            skipped, length = _trimmed(other, length + terms - 1)
            low += first + skipped
            sum_[:length] = other[skipped : skipped + length]
        tail = 0.0
        for t in range(longest - 1, -1, -1):
            if low <= t < low + length:
                tail += sum_[t - low]
            out[latent, t] = 1.0 if t <= low else min(max(tail, _SMALLEST_P), 1.0)


@compiled()
def _hypergeometric(total: int, size: int, firing: int, out: np.ndarray) -> tuple[int, int]:
    """Write the probabilities of the counts into ``out``; return the first count, and how many."""
    least, most = max(0, size + firing - total), min(size, firing)
    mode = min(max((size + 1) * (firing + 1) // (total + 2), least), most)
    first, weight = mode, 1.0
    while first > least:
        weight *= first * (total - size - firing + first)
        weight /= (size - first + 1) * (firing - first + 1)
        if weight < _NEGLIGIBLE:
            break
        first -= 1
        out[mode - first] = weight
    # The terms below the mode were written in reverse.
    below = mode - first
    for i in range((below + 1) // 2):
        near, far = out[1 + i], out[below - i]
        out[1 + i], out[below - i] = far, near
    for i in range(below):
        out[i] = out[i + 1]
    out[below] = 1.0
    last, weight = mode, 1.0
    while last < most:
        weight *= (size - last) * (firing - last)
        weight /= (last + 1) * (total - size - firing + last + 1)
        if weight < _NEGLIGIBLE:
            break
        last += 1
        out[last - first] = weight
    terms = last - first + 1
    out[:terms] /= out[:terms].sum()
    return first, terms


@compiled()
def _trimmed(terms: np.ndarray, length: int) -> tuple[int, int]:
    """Return how many terms to skip and how many to keep, so that negligible ends are left out."""
    skipped = 0
    while terms[skipped] < _NEGLIGIBLE:
        skipped += 1
    while terms[length - 1] < _NEGLIGIBLE:
        length -= 1
    return skipped, length - skipped
