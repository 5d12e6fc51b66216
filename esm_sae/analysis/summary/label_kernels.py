"""The compiled loop of residues' labels; imported inside functions: Numba is slow to load."""

import numpy as np

from esm_sae.compiled import compiled


@compiled()
def count_statements(
    row: np.ndarray,
    latent: np.ndarray,
    level: np.ndarray,
    starts: np.ndarray,
    statements: np.ndarray,
    side: np.ndarray,
    within: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Count the rows on which a latent fires that bear each statement, in place.

    Args:
        row: (E,), the row of each activation.
        latent: (E,), its latent.
        level: (E,), how strong it is, 0 and up; one below 0 does not count.
        starts: (N + 1,), where each row's statements start.
        statements: the statements that rows bear.
        side: (N,), 0 for a row of training, 1 for a held-out one.
        within: (L, S) bool; a row counts for a latent if it bears one of these.
        counts: (levels, 2, L, S) int32, added to.
    """
    for entry in range(len(row)):
        at, number, strength = row[entry], latent[entry], level[entry]
        borne = statements[starts[at] : starts[at + 1]]
        if strength < 0:
            continue
        for statement in borne:
            if within[number, statement]:
                for counted in borne:
                    counts[strength, side[at], number, counted] += 1
                break
