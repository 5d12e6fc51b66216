"""Checks: what a second look at an output finds. They inform; the library validated it before.

One module per group of assets. Each check is made in its asset's own step, is unpartitioned, and
covers every value of k that is in place, so that one that passes later hides no failure.
"""

from esm_sae_assets.checks.looking import (
    Check,
    Found,
    Outputs,
    at_each,
    look,
    look_at_each,
    specs_of,
)

__all__ = ["Check", "Found", "Outputs", "at_each", "look", "look_at_each", "specs_of"]
