"""Encoders of somebody's own code, named by where Python finds it: ``package.module:function``."""

import importlib
import re
import traceback
from collections.abc import Callable
from typing import Any

from esm_sae.errors import InputError

_NAME = re.compile(r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:[^\W\d]\w*")


def is_imported_name(name: str) -> bool:
    """Whether a name is that of code to import.

    Only who runs a command or sets up a deployment may give one: what a file records is never
    imported.
    """
    return _NAME.fullmatch(name) is not None


def import_builder(name: str) -> Callable[..., Any]:
    """Import what builds an encoder: a function, or a class, of the path of weights and a device.

    Raises:
        InputError: the module cannot be imported, or has nothing of that name to call.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failure(name, f"cannot import {module_name}", error) from error
        raise InputError(
            f"encoder '{name}': there is no module {error.name}; start in its folder or name that "
            "in PYTHONPATH"
        ) from None
    # Whatever somebody's module comes upon.
    except Exception as error:
        raise _failure(name, f"cannot import {module_name}", error) from error
    build = getattr(module, attribute, None)
    if not callable(build):
        what = "has no" if build is None else "has something that cannot be called as its"
        raise InputError(
            f"encoder '{name}': {module_name} {what} {attribute}; expected a function of the path "
            "of its weights, or None, and a device (docs/encoders.md)"
        )

    def build_or_tell(*arguments: Any) -> Any:
        try:
            return build(*arguments)
        except InputError:
            raise
        except Exception as error:
            raise _failure(name, "cannot be built", error) from error

    return build_or_tell


def _failure(name: str, what: str, error: Exception) -> InputError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    lines = str(error).strip().splitlines() or [""]
    # Some say the reason below a heading.
    told = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    reason = ": ".join(filter(None, [type(error).__name__, told]))
    return InputError(
        f"encoder '{name}': {what} ({reason}, at {frame.filename}:{frame.lineno}); correct that"
    )
