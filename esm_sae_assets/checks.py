"""Checks: what a second look at an output finds. They inform; the library validated it before."""

from collections.abc import Callable
from typing import Any, NamedTuple

import dagster as dg

from esm_sae.errors import InputError


def look_again(name: str, verify: Callable[[], NamedTuple], **which: Any) -> dg.AssetCheckResult:
    """Verify an output as it is on the disk, and show its figures or what is wrong with it.

    Args:
        name: of the check.
        verify: returns the figures, or raises InputError where the output does not pass.
        which: says which output it is, where there are several.
    """
    try:
        figures = verify()._asdict()
    except InputError as error:
        return dg.AssetCheckResult(
            check_name=name, passed=False, description=str(error), metadata=which
        )
    return dg.AssetCheckResult(check_name=name, passed=True, metadata=which | figures)
