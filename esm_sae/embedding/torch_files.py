"""Reading files that torch.save wrote, without running what they hold."""

import pickle
from typing import Any

import torch

from esm_sae import storage
from esm_sae.errors import InputError


def read_torch_file(path: storage.PathLike) -> Any:
    """Return what a ``.pt`` or ``.pth`` file holds, on the CPU.

    Nothing but tensors and plain containers is ever unpickled.

    Raises:
        InputError: the file is missing, damaged, or holds anything else.
    """
    with storage.open_binary(path) as file:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # torch's own message advises to load such a file unsafely.
            raise InputError(
                f"{path}: not a file of tensors that may be read; it is damaged or holds other "
                "objects, which are never unpickled"
            ) from None
        # Damaged bytes make the unpickler raise whatever they lead it to.
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{path}: not a file of tensors that may be read ({reason})") from None
