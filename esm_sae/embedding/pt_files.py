"""The matrices of .pt files, such as the original scripts saved embeddings in."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.shards import natural_order

if TYPE_CHECKING:
    import torch

    from esm_sae.embedding.torch_files import StoredMatrix

_EMBEDDINGS, _START, _END = "embeddings", "start_idx", "end_idx"
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class PtFile:
    """A .pt file that holds a matrix, which is read when it is asked for.

    Attributes:
        path: the file.
        rows: N, the number of rows.
        width: D, the width of a row.
        dtype: type of the rows as they are read: float32 or float16.
        start: number of the first row among those of all files, as the file says; None where it
            says nothing.
        end: likewise the number behind the last row.
    """

    path: Path
    rows: int
    width: int
    dtype: np.dtype
    start: int | None
    end: int | None

    @property
    def rows_per_chunk(self) -> int:
        """Rows that take 16 MiB of float32, so that memory stays flat."""
        return max(1, _CHUNK_BYTES // (4 * self.width))

    def chunks(self) -> list[tuple[int, int]]:
        """Return the first and past-the-last row of each chunk."""
        firsts = range(0, self.rows, self.rows_per_chunk)
        return [(first, min(first + self.rows_per_chunk, self.rows)) for first in firsts]

    def read(self, bounds: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """Yield the rows of each run from its first to before its end, (end - first, D).

        Raises:
            InputError: the file is another than when it was opened.
        """
        matrix, _ = _content_of(self.path)
        if (matrix.shape, matrix.dtype) != ((self.rows, self.width), self.dtype):
            raise InputError(f"{self.path}: changed while it was read; run it again")
        for first, end in bounds:
            yield matrix.read(first, end)


def open_pt_folder(folder: storage.PathLike) -> list[PtFile]:
    """Open the ``.pt`` files of a folder, in the order of their numbers, else of their names.

    They are ordered by ``start_idx`` where all have one, else by ``end_idx``, else by name, where
    ``x_2.pt`` comes before ``x_10.pt``.

    Raises:
        InputError: there are none, or as ``open_pt``.
    """
    paths = sorted(storage.list_files(folder, "*.pt"), key=natural_order)
    if not paths:
        raise InputError(f"{folder}: holds no .pt files")
    files = [open_pt(path) for path in paths]
    for name in ("start", "end"):
        numbers = {file.path: getattr(file, name) for file in files}
        if None not in numbers.values():
            return sorted(files, key=lambda file: numbers[file.path])
    return files


def open_pt(path: Path) -> PtFile:
    """Open a ``.pt`` file that holds a matrix.

    It holds a tensor (N, D), float32, float16 or bfloat16, or a dictionary with such a tensor
    under ``embeddings`` and, beside it, the numbers ``start_idx`` and ``end_idx`` or neither.

    Raises:
        InputError: it holds anything else, or cannot be read.
    """
    matrix, numbers = _content_of(path)
    rows, width = matrix.shape
    return PtFile(path, rows, width, matrix.dtype, numbers.get(_START), numbers.get(_END))


def _content_of(path: Path) -> tuple["StoredMatrix", dict[str, int]]:
    from esm_sae.embedding.torch_files import StoredMatrix, outline_of

    content = outline_of(path)
    numbers: dict[str, Any] = {}
    if isinstance(content, dict) and _EMBEDDINGS in content:
        if content.keys() - {_EMBEDDINGS, _START, _END}:
            raise _unexpected(path, content)
        numbers = {name: content[name] for name in (_START, _END) if name in content}
        content = content[_EMBEDDINGS]
    matrix = StoredMatrix(path, _tensor_of_rows(path, content))
    for name, number in numbers.items():
        if type(number) is not int or number < 0:
            held = number if type(number) is int else f"a {type(number).__name__}"
            raise InputError(f"{path}: {name} is {held}, expected a number from 0")
    return matrix, numbers


def _tensor_of_rows(path: Path, content: object) -> "torch.Tensor":
    import torch

    if not isinstance(content, torch.Tensor):
        raise _unexpected(path, content)
    if content.is_nested or content.layout != torch.strided:
        raise InputError(f"{path}: holds a nested or sparse tensor, expected a dense one (N, D)")
    if content.ndim != 2 or 0 in content.shape:
        raise InputError(f"{path}: holds a tensor of shape {tuple(content.shape)}, expected (N, D)")
    if content.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise InputError(f"{path}: holds {content.dtype}, expected float32, float16 or bfloat16")
    return content


def _unexpected(path: Path, content: object) -> InputError:
    if isinstance(content, dict):
        keys = ", ".join(sorted(map(str, content))[:5])
        held = f"a dictionary with the keys {keys or 'none'}"
    else:
        held = f"a {type(content).__name__}"
    return InputError(
        f"{path}: holds {held}, expected a tensor or a dictionary of embeddings, start_idx and "
        "end_idx"
    )
