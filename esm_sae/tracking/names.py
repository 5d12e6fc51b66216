"""Which trackers there are, and whether their packages are."""

import importlib.util
from collections.abc import Sequence

from esm_sae.errors import InputError

TRACKERS = ("tensorboard", "wandb")
"""Names of the trackers, which are those of their packages and of the extras that bring them."""


def require_trackers(names: Sequence[str]) -> None:
    """Check that trackers can be had, without importing them.

    Raises:
        InputError: no such tracker, or its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"tracker '{name}': expected one of {', '.join(TRACKERS)}")
        found = importlib.util.find_spec(name)
        # A plain folder of that name, such as wandb makes for its runs, has no origin.
        if found is None or found.origin is None:
            raise InputError(
                f"tracker '{name}': its package is not installed; pip install 'esm-sae[{name}]'"
            )
