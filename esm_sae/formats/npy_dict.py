"""A restricted reader of NumPy-saved dictionaries.

``np.save`` of a dictionary pickles it. Unpickling runs whatever code the file names, so this
reader allows the few names that arrays and plain containers need, and nothing else.
"""

import os
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from esm_sae import storage
from esm_sae.errors import InputError

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


def load_npy_dict(path: storage.PathLike) -> dict[str, Any]:
    """Read a dictionary of arrays that ``np.save`` wrote.

    Raises:
        InputError: the file is not such a dictionary, or names anything but NumPy arrays and
            plain containers.
    """
    name = os.fspath(path)
    with storage.open_binary(path) as file:
        try:
            version = npy_format.read_magic(file)
            read_header = (
                npy_format.read_array_header_1_0
                if version == (1, 0)
                else npy_format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
        # A damaged header makes NumPy raise whatever it leads its parser to.
        except Exception as error:
            raise InputError(f"{name}: not a .npy file ({error})") from None
        if not dtype.hasobject or shape != ():
            raise InputError(f"{name}: holds a plain array, expected a dictionary of arrays")
        value = _unpickle(file, name)
    content = value.item() if isinstance(value, np.ndarray) and value.shape == () else value
    if not isinstance(content, dict):
        raise InputError(f"{name}: holds a {type(content).__name__}, expected a dictionary")
    return content


def _unpickle(file: Any, name: str) -> Any:
    try:
        return _ArraysOnly(file).load()
    except _Refused as refused:
        raise InputError(
            f"{name}: refused, its pickle names {refused}; only NumPy arrays and plain containers "
            "are read"
        ) from None
    except Exception as error:
        # A damaged pickle can raise nearly anything from inside the unpickler.
        raise InputError(f"{name}: damaged, it cannot be read ({error})") from None


class _Refused(Exception):
    pass


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return super().find_class(module, name)
