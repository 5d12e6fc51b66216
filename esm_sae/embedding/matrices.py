"""``.npy`` matrices that are filled in place, so that memory stays bounded."""

import errno
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError

_NOT_SUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True)
class MatrixFile:
    """A matrix that is to be made.

    Attributes:
        path: where it is filled.
        final: the path it will have, for errors.
        rows: N.
        width: D.
        dtype: ``"float32"`` or ``"float16"``.
    """

    path: Path
    final: Path
    rows: int
    width: int
    dtype: str = "float32"

    def create(self) -> np.memmap:
        """Create the matrix, zeros, with all its space on the disk.

        Raises:
            InputError: the disk has no room for it; no file is left behind.
        """
        self.path.unlink(missing_ok=True)
        try:
            with self.path.open("wb", buffering=0) as file:
                header = self._header()
                file.write(header)
                _allocate(file.fileno(), len(header), len(header) + self._bytes)
        except OSError as error:
            self.path.unlink(missing_ok=True)
            free = shutil.disk_usage(self.path.parent).free
            if error.errno not in storage.DISK_FULL:
                raise
            raise InputError(
                f"{self.final}: needs {self._bytes:,} bytes, {free:,} are free on its disk "
                f"({error.strerror}); make room and run it again"
            ) from None
        return np.lib.format.open_memmap(self.path, mode="r+")

    def reopen(self) -> np.memmap | None:
        """Return the matrix as it was left, None where it is not there whole."""
        header = self._header()
        # NumPy would fill up a short file with zeros.
        if not self.path.is_file() or self.path.stat().st_size != len(header) + self._bytes:
            return None
        with self.path.open("rb") as file:
            if file.read(len(header)) != header:
                return None
        return np.lib.format.open_memmap(self.path, mode="r+")

    def _header(self) -> bytes:
        header = io.BytesIO()
        described = np.lib.format.dtype_to_descr(np.dtype(self.dtype))
        shape = (self.rows, self.width)
        np.lib.format.write_array_header_1_0(
            header, {"descr": described, "fortran_order": False, "shape": shape}
        )
        return header.getvalue()

    @property
    def _bytes(self) -> int:
        return self.rows * self.width * np.dtype(self.dtype).itemsize


def _allocate(descriptor: int, start: int, end: int) -> None:
    """Take a file's space on the disk: a hole would be filled only when it is too late."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, start, end - start)
            return
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
    while start < end:
        start += os.pwrite(descriptor, _ZEROS[: end - start], start)
