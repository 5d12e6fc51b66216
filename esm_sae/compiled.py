"""Compiling loops over arrays; a module that compiles is imported inside functions."""

import functools
from collections.abc import Callable
from typing import Any


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that compiles a function, kept on disk where there is a place for it.

    Args:
        options: of ``numba.njit``.
    """
    import numba

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compile_with = functools.partial(numba.njit, nogil=True, error_model="numpy", **options)
        try:
            return compile_with(cache=True)(function)
        except RuntimeError:
            # There is no folder to keep compiled code in: every process compiles anew.
            return compile_with()(function)

    return decorate
