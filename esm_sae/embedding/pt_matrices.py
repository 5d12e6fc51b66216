"""Converting .pt files to plain .npy matrices."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esm_sae import storage
from esm_sae.embedding.matrices import MatrixFile
from esm_sae.embedding.pt_files import PtFile, open_pt_folder
from esm_sae.embedding.pt_order import trouble_with
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product, identity_of, produce_files
from esm_sae.formats.shards import natural_order
from esm_sae.progress import progress

_ALGORITHM = "pt to npy 1"
_MANIFEST = "pt_to_npy.manifest.json"


@dataclass(frozen=True)
class ConversionReport:
    """Matrices that were made or found.

    Attributes:
        product: the first matrix and the manifest of all.
        files: number of matrices.
        rows: rows of all.
    """

    product: Product
    files: int
    rows: int


def convert_pt(input_dir: storage.PathLike, output_dir: storage.PathLike) -> ConversionReport:
    """Convert every ``.pt`` file of a folder to a plain ``.npy`` matrix of the same name.

    A file holds a tensor (N, D), or a dictionary with such a tensor under ``embeddings`` beside
    ``start_idx`` and ``end_idx``. float16 stays float16; float32 and bfloat16 become float32.
    Either all files are converted or none is. Memory is bounded by some tens of MiB, or by the
    largest file where that is of the form that torch before 1.6 wrote.

    Warns where the files' numbers overlap, leave gaps or are in another order than the names,
    by which the matrices are read.

    Raises:
        InputError: there is no ``.pt`` file, one holds anything else or values that are not
            finite (it is named), or the disk is full.
    """
    files = open_pt_folder(input_dir)
    _warn_of_order(files)
    folder = Path(output_dir)
    targets = [folder / f"{file.path.stem}.npy" for file in files]

    def build(temporaries: list[Path]) -> dict[str, Any]:
        rows = sum(file.rows for file in files)
        with progress(rows, unit="rows", description="converting") as shown:
            for file, temporary, target in zip(files, temporaries, targets, strict=True):
                matrix = MatrixFile(temporary, target, file.rows, file.width, file.dtype.name)
                chunks = file.chunks()
                with appending(matrix) as append:
                    for (first, _), chunk in zip(chunks, file.read(chunks), strict=True):
                        _require_finite(chunk, file, first)
                        append(chunk)
                        shown.update(len(chunk))
        return {"files": len(files), "rows": rows}

    product = produce_files(
        targets,
        manifest=folder / _MANIFEST,
        kind="pt_to_npy",
        determinants={
            "files": {file.path.name: identity_of(file.path) for file in files},
            "algorithm": _ALGORITHM,
        },
        build=build,
    )
    return ConversionReport(product, len(files), sum(file.rows for file in files))


@contextlib.contextmanager
def appending(matrix: MatrixFile) -> Iterator[Callable[[np.ndarray], None]]:
    """Create a matrix and yield a function that writes its next rows.

    The rows go through a file, not through a map of it, so that memory stays flat.

    Raises:
        InputError: the disk has no room for it.
    """
    start = matrix.create().offset
    dtype = np.dtype(matrix.dtype)
    with storage.naming_full_disk(matrix.final), matrix.path.open("r+b") as file:
        file.seek(start)

        def append(rows: np.ndarray) -> None:
            file.write(np.ascontiguousarray(rows, dtype=dtype).data)

        yield append


def _require_finite(rows: np.ndarray, file: PtFile, first: int) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = first + int(np.argmin(finite))
        raise InputError(
            f"{file.path}: row {row} holds values that are not finite; embed its sequence again"
        )


def _warn_of_order(files: list[PtFile]) -> None:
    trouble = trouble_with(files, [file.rows for file in files], first=None)
    by_name = sorted(files, key=lambda file: natural_order(file.path))
    if trouble is None and by_name != files:
        trouble = f"{files[0].path}: comes first by its number, but not by its name"
    if trouble is not None:
        warnings.warn(f"{trouble}; the rows may not be in the order of the sequences", stacklevel=3)
