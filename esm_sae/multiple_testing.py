"""Adjusting p-values for the number of tests."""

import numpy as np


def benjamini_hochberg(p: np.ndarray, tests: int) -> np.ndarray:
    """Return q-values: the least false discovery rate at which each test is a discovery.

    Benjamini & Hochberg (1995, J. R. Stat. Soc. B 57:289): the least over the equal and larger
    p-values of p m / rank, at most 1. It holds for independent tests and for those that depend
    on each other positively (Benjamini & Yekutieli 2001, theorem 1.2).

    Args:
        p: p-values, (P,).
        tests: m, the number of all tests, at least P; those that are not in ``p`` have p = 1.
    """
    order = np.argsort(p, kind="stable")
    steps = p[order] * tests / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return q


def benjamini_yekutieli(p: np.ndarray, tests: int) -> np.ndarray:
    """Return q-values that hold however the tests depend on each other.

    Benjamini & Yekutieli (2001, Ann. Stat. 29:1165, theorem 1.3): those of Benjamini and Hochberg
    times 1 + 1/2 + ... + 1/m.

    Args:
        p: p-values, (P,).
        tests: m, the number of all tests, at least P; those that are not in ``p`` have p = 1.
    """
    harmonic = float(np.sum(1.0 / np.arange(1, tests + 1)))
    return benjamini_hochberg(np.asarray(p) * harmonic, tests)
