"""Compiling loops over arrays; a module that compiles is imported inside functions."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esm_sae import storage


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that compiles a function, kept on disk where there is a place for it.

    Args:
        options: of ``numba.njit``.
    """
    import numba

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compile_with = functools.partial(numba.njit, nogil=True, error_model="numpy", **options)
        try:
            kept: Any = compile_with(cache=True)(function)
        except RuntimeError:
            # There is no folder to keep compiled code in: every process compiles anew.
            return compile_with()(function)
        kept._cache = _locked_cache()(function)
        return kept

    return decorate


@functools.cache
def _locked_cache() -> type:
    from numba.core.caching import FunctionCache

    class LockedCache(FunctionCache):
        """A function's compiled code on disk, used by one process at a time.

        Numba numbers the files of a function's signatures without a lock: of two processes that
        compile two of them at once, both take the same number, and one loads the other's code
        under its own signature, which reads and writes any memory.
        """

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            with storage.locked(self._place):
                return super().load_overload(sig, target_context)

        def save_overload(self, sig: Any, data: Any) -> None:
            with storage.locked(self._place):
                super().save_overload(sig, data)

        @property
        def _place(self) -> Path:
            return Path(self.cache_path, self._py_func.__qualname__)

    return LockedCache
