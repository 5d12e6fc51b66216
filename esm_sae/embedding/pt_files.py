"""Converting the .pt files of the original scripts to plain .npy matrices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product, identity_of, produce_files
from esm_sae.progress import progress

_ALGORITHM = "pt to npy 1"
_MANIFEST = "pt_to_npy.manifest.json"
_KEYS = {"embeddings", "start_idx", "end_idx"}


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
    Either all files are converted or none is.

    Raises:
        InputError: there is no ``.pt`` file, or one holds anything else; it is named.
    """
    sources = storage.list_files(input_dir, "*.pt")
    if not sources:
        raise InputError(f"{input_dir}: holds no .pt files")
    folder = Path(output_dir)

    def build(targets: list[Path]) -> dict[str, Any]:
        rows = 0
        with progress(len(sources), unit="files", description="converting") as shown:
            for source, target in zip(sources, targets, strict=True):
                matrix = read_pt(source)
                with target.open("wb") as file:
                    np.save(file, matrix, allow_pickle=False)
                rows += len(matrix)
                shown.update(1)
        return {"files": len(sources), "rows": rows}

    product = produce_files(
        [folder / f"{source.stem}.npy" for source in sources],
        manifest=folder / _MANIFEST,
        kind="pt_to_npy",
        determinants={
            "files": {source.name: identity_of(source) for source in sources},
            "algorithm": _ALGORITHM,
        },
        build=build,
    )
    summary = product.manifest.summary
    return ConversionReport(product, summary["files"], summary["rows"])


def read_pt(path: Path) -> np.ndarray:
    """Read the matrix of a ``.pt`` file, (N, D), float32 or float16.

    Raises:
        InputError: the file holds anything else.
    """
    import torch

    from esm_sae.embedding.torch_files import read_torch_file

    content = read_torch_file(path)
    if isinstance(content, dict) and "embeddings" in content and set(content) <= _KEYS:
        content = content["embeddings"]
    if not isinstance(content, torch.Tensor):
        raise InputError(
            f"{path}: holds {_describe(content)}, expected a tensor or a dictionary of "
            "embeddings, start_idx and end_idx"
        )
    if (
        content.ndim != 2
        or 0 in content.shape
        or content.layout != torch.strided
        or content.is_meta
    ):
        raise InputError(f"{path}: holds a tensor of shape {tuple(content.shape)}, expected (N, D)")
    if content.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise InputError(f"{path}: holds {content.dtype}, expected float32, float16 or bfloat16")
    if content.dtype == torch.bfloat16:
        content = content.float()
    if not torch.isfinite(content).all():
        raise InputError(f"{path}: holds values that are not finite; embed its sequences again")
    return np.ascontiguousarray(content.detach().numpy())


def _describe(content: object) -> str:
    if isinstance(content, dict):
        keys = ", ".join(sorted(map(str, content))[:5])
        return f"a dictionary with the keys {keys or 'none'}"
    return f"a {type(content).__name__}"
