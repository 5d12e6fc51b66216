"""Reading files that torch.save wrote, without running what they hold."""

import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esm_sae import storage
from esm_sae.errors import InputError

# NumPy has no bfloat16: its bits are the upper half of a float32's.
_RAW = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.uint16}

_FLOATING = {*_RAW, torch.float64}

_LOCAL_HEADER = struct.Struct("<26x2H")


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix (N, D) of a file that torch.save wrote, whose rows are read when asked for.

    Attributes:
        path: the file.
        tensor: the matrix, float32, float16 or bfloat16, as ``outline_of`` found it.
    """

    path: Path
    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""
        rows, width = self.tensor.shape
        return rows, width

    @property
    def dtype(self) -> np.dtype:
        """Type of the rows that are read: float16 as it is; bfloat16 becomes float32."""
        return np.dtype(np.float16 if self.tensor.dtype == torch.float16 else np.float32)

    def read(self, first: int, end: int) -> np.ndarray:
        """Return the rows from ``first`` to before ``end`` as (end - first, D), C-contiguous.

        Only they are mapped, so that memory stays flat for a file larger than memory.
        """
        if not self.tensor.is_meta:
            rows = self.tensor[first:end].detach().resolve_neg().to(_torch_type(self.dtype))
            return np.ascontiguousarray(rows.numpy())
        raw = np.dtype(_RAW[self.tensor.dtype])
        width = self.shape[1]
        per_row, per_column = self.tensor.stride()
        start = int(self.tensor.storage_offset()) + first * per_row
        mapped = np.memmap(
            self.path,
            dtype=raw,
            mode="r",
            offset=_place_of(self.tensor) + start * raw.itemsize,
            shape=((end - first - 1) * per_row + (width - 1) * per_column + 1,),
        )
        strides = per_row * raw.itemsize, per_column * raw.itemsize
        rows = np.lib.stride_tricks.as_strided(mapped, (end - first, width), strides)
        if self.tensor.dtype == torch.bfloat16:
            return (rows.astype(np.uint32, order="C") << 16).view(np.float32)
        return np.array(rows, order="C")


def read_torch_file(path: storage.PathLike) -> Any:
    """Return what a ``.pt`` or ``.pth`` file holds, on the CPU.

    Nothing but tensors and plain containers is ever unpickled.

    Raises:
        InputError: the file is missing, damaged, or holds anything else.
    """
    return _load(path, "cpu")


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of plain floating-point values: not sparse, nested, meta, quantised."""
    is_strided = tensor.layout == torch.strided and not tensor.is_nested
    return is_strided and not tensor.is_meta and tensor.dtype in _FLOATING


def outline_of(path: Path) -> Any:
    """As ``read_torch_file``, but the values of tensors stay in the file where they can.

    Such tensors are on the meta device. torch's own way to leave them there (``mmap=True``)
    reserves memory for the whole file and fails where it is larger than memory. Files are read
    whole that torch before 1.6 wrote, or a machine of another byte order, and by a torch that
    does not tell where tensors lie.

    Raises:
        InputError: as ``read_torch_file``.
    """
    storage.open_binary(path).close()
    records = _records(path)
    if records is None:
        return _read_whole(path)
    content = _load(path, "meta")
    tensors = [tensor for tensor in _tensors(content) if tensor.layout == torch.strided]
    if any(_place_of(tensor) < 0 or tensor.is_neg() for tensor in tensors):
        return _read_whole(path)
    if any(_bytes_used(tensor) > records.get(_place_of(tensor), 0) for tensor in tensors):
        raise _unreadable(path, "values are missing")
    return content


def _read_whole(path: Path) -> Any:
    content = read_torch_file(path)
    if any(tensor.is_meta for tensor in _tensors(content)):
        raise _unreadable(path, "a tensor was saved from the meta device, without values")
    return content


def _load(path: storage.PathLike, device: str) -> Any:
    with storage.open_binary(path) as file:
        try:
            return torch.load(file, map_location=device, weights_only=True)
        except pickle.UnpicklingError:
            # torch's own message advises to load such a file unsafely.
            raise InputError(
                f"{path}: not a file of tensors that may be read; it is damaged or holds other "
                "objects, which are never unpickled"
            ) from None
        # Damaged bytes make the unpickler raise whatever they lead it to.
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            # The first sentence: torch goes on with all that it is made of.
            raise _unreadable(path, reason.partition(". ")[0]) from None


def _records(path: Path) -> dict[int, int] | None:
    """Return the size of each record of a file by the place where its bytes begin.

    None where the file is not of torch's zip form, or its records are compressed or in another
    byte order than this machine's.
    """
    sizes = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED:
                    return None
                is_order = record.filename.endswith("/byteorder")
                if is_order and archive.read(record) != sys.byteorder.encode():
                    return None
                file.seek(record.header_offset)
                name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                begin = file.tell() + name + extra
                sizes[begin] = min(record.file_size, path.stat().st_size - begin)
    # Damaged bytes make the reader of archives raise whatever they lead it to.
    except Exception:
        return None
    return sizes


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    values = content.values() if isinstance(content, dict) else [content]
    return (value for value in values if isinstance(value, torch.Tensor))


def _place_of(tensor: torch.Tensor) -> int:
    """Return where in its file a tensor's storage begins; -1 where torch does not tell."""
    place = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    return -1 if place is None else place


def _bytes_used(tensor: torch.Tensor) -> int:
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = int(tensor.storage_offset()) + sum((size - 1) * step for size, step in steps)
    return (last + 1) * tensor.element_size()


def _torch_type(dtype: np.dtype) -> torch.dtype:
    return torch.float16 if dtype == np.float16 else torch.float32


def _unreadable(path: storage.PathLike, reason: str) -> InputError:
    return InputError(f"{path}: not a file of tensors that may be read ({reason})")
