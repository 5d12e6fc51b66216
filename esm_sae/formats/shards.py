"""The shard store: embedding matrices as plain ``.npy`` files, each with its rows and manifest.

In row tables ``length`` is the length of the whole protein and ``position`` the number of the
residue in it, counted from 1 as biologists do; it is null where a row is a protein.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import (
    MANIFEST_NAME,
    Manifest,
    Product,
    discard_unfinished,
    encode_manifest,
    fingerprint_of,
    read_manifest,
    unfinished_in,
)

ROW_SCHEMA = {
    "sequence_id": pl.String,
    "header": pl.String,
    "taxon": pl.String,
    "taxid": pl.Int64,
    "length": pl.Int32,
    "position": pl.Int32,
}
EMBEDDINGS, MEANS = "embeddings", "means"
# Of the manifest of a folder of shards, whose files are those of the shards' own manifests.
SHARDS_KIND = "embedding_manifest"

_COUNTS = ("proteins", "residues", "truncated", "windowed", "skipped", "unknown_letters")
_Numbers = TypeVar("_Numbers", int, np.ndarray)
_SHARD = re.compile(r"^(?P<prefix>.+)_(?P<index>\d+)-of-(?P<count>\d+)$")
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Provenance:
    """What the rows of an embedding matrix are.

    Attributes:
        encoder: name of the encoder.
        encoder_note: what a reader of any result must know of it, such as 'untrained'.
        weights_sha256: hash of the encoder's weights.
        layer: canonical layer number, 0..B.
        pooling: ``mean``, ``max``, ``last`` or ``bos``, or ``residue`` where a row is one residue.
        precision: arithmetic of the forward pass.
    """

    encoder: str = "unknown"
    encoder_note: str = ""
    weights_sha256: str = "unknown"
    layer: int | None = None
    pooling: str = "unknown"
    precision: str = "unknown"

    @property
    def known(self) -> bool:
        """Whether anything is known of the rows; not so for bare matrices."""
        return self.encoder != "unknown"

    def describe(self) -> str:
        """Say in a few words what a row is."""
        if not self.known:
            return "embeddings of unknown provenance"
        note = f" ({self.encoder_note})" if self.encoder_note else ""
        return f"{self.encoder}{note}, layer {self.layer}, {self.pooling} rows"


@dataclass(frozen=True)
class EmbeddingShards:
    """Memory-mapped embedding matrices that together form one of shape (N, D).

    Attributes:
        directory: where the shards are.
        paths: the matrices' files, in order.
        arrays: the memory-mapped matrices, float32 or float16, each (n, D).
        provenance: what the rows are.
        fingerprint: hash of all shards' contents.
        has_index: whether each matrix has its row table beside it.
    """

    directory: Path
    paths: list[Path]
    arrays: list[np.ndarray]
    provenance: Provenance
    fingerprint: str
    has_index: bool

    @property
    def rows(self) -> int:
        """N, the number of rows of all shards."""
        return sum(len(array) for array in self.arrays)

    @property
    def width(self) -> int:
        """D, the width of a row."""
        return int(self.arrays[0].shape[1])

    @property
    def index(self) -> pl.LazyFrame:
        """One row per matrix row: sequence_id, header, taxon, taxid, length, position.

        Bare matrices have ids ``file:row`` and nothing else.
        """
        if self.has_index:
            return pl.scan_parquet([path.with_suffix(".parquet") for path in self.paths])
        return pl.concat(
            [
                _bare_index(path, len(array))
                for path, array in zip(self.paths, self.arrays, strict=True)
            ]
        ).lazy()

    @property
    def proteins(self) -> int:
        """The number of proteins that the rows are of, as the row tables name them."""
        is_residues = self.provenance.pooling == "residue"
        paths = [means_path(path) if is_residues else path for path in self.paths]
        tables = [path.with_suffix(".parquet") for path in paths]
        return int(pl.scan_parquet(tables).select(pl.len()).collect().item())

    @property
    def offsets(self) -> np.ndarray:
        """First row of each shard and N at the end, shape (shards + 1,)."""
        return np.concatenate([[0], np.cumsum([len(array) for array in self.arrays])])

    def rows_at(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with the given numbers, in their order, as (n, D) float32.

        Ascending numbers are read fastest.

        Raises:
            IndexError: there is no row of such a number.
        """
        indices = np.asarray(indices)
        order = None if (indices[1:] >= indices[:-1]).all() else np.argsort(indices, kind="stable")
        ascending = indices if order is None else indices[order]
        out = np.empty((len(indices), self.width), dtype=np.float32)
        for shard, part, rows in self.by_shard(ascending):
            array = self.arrays[shard]
            if order is None and array.dtype == out.dtype:
                # Other modes of np.take copy once more. The numbers have been checked.
                np.take(array, rows, axis=0, out=out[part], mode="clip")
            else:
                out[part if order is None else order[part]] = array[rows]
        return out

    def by_shard(self, ascending: np.ndarray) -> Iterator[tuple[int, slice, np.ndarray]]:
        """Yield what ascending row numbers have in each shard: shard, part, rows of the shard.

        Raises:
            IndexError: there is no row of such a number.
        """
        offsets = self.offsets
        bounds = np.searchsorted(ascending, offsets)
        if len(ascending) and (bounds[0] > 0 or bounds[-1] < len(ascending)):
            raise IndexError(f"rows {ascending[0]} to {ascending[-1]} of {offsets[-1]}")
        for shard in np.flatnonzero(np.diff(bounds)).tolist():
            part = slice(int(bounds[shard]), int(bounds[shard + 1]))
            yield shard, part, ascending[part] - offsets[shard]

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(first row, (n, D) float32)`` in row order; the last batch may be short."""
        for start in range(0, self.rows, size):
            yield start, self.rows_at(np.arange(start, min(start + size, self.rows)))

    def means(self) -> "EmbeddingShards":
        """Return the matrices with one row per protein: these, or those beside residue rows.

        Raises:
            InputError: the rows are residues and the means are missing.
        """
        if self.provenance.pooling != "residue":
            return self
        paths = [means_path(path) for path in self.paths]
        return replace(
            self,
            paths=paths,
            arrays=[map_matrix(path) for path in paths],
            provenance=replace(self.provenance, pooling="mean"),
        )


def shard_name(index: int, count: int, prefix: str = EMBEDDINGS) -> str:
    """Return a shard's file name without suffix: ``embeddings_0007-of-0064``."""
    return f"{prefix}_{shard_key(index, count)}"


def shard_paths(directory: Path, index: int, count: int, *, with_means: bool) -> list[Path]:
    """Return the files of a shard: matrix and row table, and of one with means theirs behind."""
    matrix = directory / f"{shard_name(index, count)}.npy"
    matrices = [matrix, means_path(matrix)] if with_means else [matrix]
    return [path for file in matrices for path in (file, file.with_suffix(".parquet"))]


def means_path(matrix: Path) -> Path:
    """Return the path of the means of the proteins whose residues a matrix holds."""
    return matrix.with_name(matrix.name.replace(EMBEDDINGS, MEANS, 1))


def shard_key(index: int, count: int) -> str:
    """Return a shard's partition key: ``0007-of-0064``."""
    return f"{index:04d}-of-{count:04d}"


def parse_shard_key(key: str) -> tuple[int, int]:
    """Return index and count of a partition key.

    Raises:
        InputError: the key has another form, or its index is not below its count.
    """
    match = _SHARD.match(f"x_{key}")
    if not match or int(match["index"]) >= int(match["count"]):
        raise InputError(f"shard '{key}': expected a key such as 0007-of-0064")
    return int(match["index"]), int(match["count"])


def shard_bounds(index: _Numbers, count: int, sequences: int) -> tuple[_Numbers, _Numbers]:
    """Return first and past-the-last sequence of a shard, or of several; sizes differ by 0 or 1."""
    return index * sequences // count, (index + 1) * sequences // count


def open_shards(directory: storage.PathLike, *, matrices: bool = True) -> EmbeddingShards:
    """Open a folder of embedding matrices, memory-mapped.

    Shards named ``-of-`` must be complete and of one origin. A folder of plain ``.npy`` matrices
    with nothing beside them is accepted with provenance ``unknown`` and one warning.

    Args:
        directory: the folder.
        matrices: whether the matrices are there. Where they are on object storage alone, the
            arrays have the shapes that the manifests record and are NaN.

    Raises:
        InputError: a shard is missing or has no manifest, shards differ in count, width, encoder
            or settings, or a file holds no float32 or float16 matrix.
    """
    folder = Path(directory)
    paths = sorted(storage.list_files(folder, _of_shards(matrices)), key=natural_order)
    sharded = [path.with_suffix(".npy") for path in paths if _is_shard(path)]
    if sharded:
        return _open_sharded(folder, sharded, matrices)
    if not paths:
        raise InputError(f"{folder}: holds no .npy embedding matrices")
    return _open_bare(folder, paths)


def publish_manifest(
    directory: storage.PathLike, *, count: int | None = None, matrices: bool = True
) -> Product:
    """Check that a folder's shards are complete and publish their common manifest.

    Its data version is the hash of the shards' hashes. With ``count``, once those shards are all
    there, the shards of another split of the folder are removed, and what was left unfinished of
    one: they are what these replace.

    Raises:
        InputError: as ``open_shards``, or there are not ``count`` shards.
    """
    if count is not None:
        _remove_other_splits(Path(directory), count, matrices)
    shards = open_shards(directory, matrices=matrices)
    if count is not None and len(shards.paths) != count:
        raise InputError(
            f"{shards.directory}: holds {len(shards.paths)} shards, expected {count}; "
            "embed again into an empty folder"
        )
    manifests = {path.stem: _manifest_of(path, matrices) for path in shards.paths}
    determinants = {
        "shards": {name: manifest.fingerprint for name, manifest in manifests.items()},
        "provenance": asdict(shards.provenance),
    }
    files = {
        name: entry for manifest in manifests.values() for name, entry in manifest.files.items()
    }
    summary = {
        "shards": len(shards.paths),
        "rows": shards.rows,
        "width": shards.width,
        **_totals([manifest.summary for manifest in manifests.values()]),
        "provenance": asdict(shards.provenance),
    }
    fingerprint = fingerprint_of(SHARDS_KIND, determinants)
    new = Manifest(SHARDS_KIND, fingerprint, determinants, files, summary)
    path = shards.directory / MANIFEST_NAME
    old = read_manifest(path)
    unchanged = old == new
    if not unchanged:
        storage.publish_bytes(path, encode_manifest(new))
    return Product(shards.directory, new, path, unchanged)


def provenance_of(determinants: Mapping[str, Any]) -> Provenance:
    """Read the provenance out of a shard manifest's determinants.

    Raises:
        InputError: they hold none, or one of another shape.
    """
    try:
        return Provenance(**determinants["provenance"])
    except (KeyError, TypeError):
        raise InputError("a manifest does not say what the rows are; embed again") from None


def _of_shards(matrices: bool) -> str:
    """Return the pattern of the files by which shards are found."""
    return "*.npy" if matrices else "*.json"


def _remove_other_splits(folder: Path, count: int, matrices: bool) -> None:
    shards = [path for path in storage.list_files(folder, _of_shards(matrices)) if _is_shard(path)]
    wanted = {shard_name(index, count) for index in range(count)}
    if not wanted <= {path.stem for path in shards if read_manifest(path.with_suffix(".json"))}:
        return
    for path in shards:
        manifest = read_manifest(path.with_suffix(".json"))
        if path.stem not in wanted and manifest is not None:
            path.with_suffix(".json").unlink()
            for name in manifest.files:
                (folder / name).unlink(missing_ok=True)
    for path in unfinished_in(folder):
        if _is_shard(path) and path.stem not in wanted:
            discard_unfinished(path)


def _totals(summaries: list[dict[str, Any]]) -> dict[str, int]:
    return {
        count: sum(summary[count] for summary in summaries)
        for count in _COUNTS
        if all(count in summary for summary in summaries)
    }


def _open_sharded(folder: Path, paths: list[Path], matrices: bool) -> EmbeddingShards:
    _require_complete(folder, paths)
    manifests = [_manifest_of(path, matrices) for path in paths]
    first = manifests[0]
    for path, manifest in zip(paths[1:], manifests[1:], strict=True):
        _require_same_origin(folder, paths[0], first, path, manifest)
    arrays = [
        map_matrix(path) if matrices else _recorded_matrix(manifest)
        for path, manifest in zip(paths, manifests, strict=True)
    ]
    _require_one_width(paths, arrays)
    versions = {
        path.stem: manifest.data_version for path, manifest in zip(paths, manifests, strict=True)
    }
    return EmbeddingShards(
        folder,
        paths,
        arrays,
        provenance_of(first.determinants),
        fingerprint_of("embeddings", versions),
        has_index=True,
    )


def _open_bare(folder: Path, paths: list[Path]) -> EmbeddingShards:
    arrays = [map_matrix(path) for path in paths]
    _require_one_width(paths, arrays)
    warnings.warn(
        f"{folder}: plain matrices with nothing beside them; encoder, layer and pooling are "
        "unknown and rows are named file:row",
        stacklevel=3,
    )
    hashes = {path.name: storage.sha256_of(path) for path in paths}
    return EmbeddingShards(
        folder, paths, arrays, Provenance(), fingerprint_of("embeddings", hashes), has_index=False
    )


def _require_complete(folder: Path, paths: list[Path]) -> None:
    keys = [parse_shard_key(path.stem.removeprefix(f"{EMBEDDINGS}_")) for path in paths]
    counts = sorted({count for _, count in keys})
    if len(counts) > 1:
        raise InputError(
            f"{folder}: shards of a split into {counts[0]} beside shards of a split into "
            f"{counts[1]}; remove those that are no longer wanted"
        )
    missing = sorted(set(range(counts[0])) - {index for index, _ in keys})
    if missing:
        names = ", ".join(shard_name(index, counts[0]) for index in missing[:3])
        raise InputError(
            f"{folder}: {len(missing)} of {counts[0]} shards missing ({names}); embed them first"
        )


def _require_same_origin(
    folder: Path, path: Path, manifest: Manifest, other_path: Path, other: Manifest
) -> None:
    ours, theirs = _flat(manifest.determinants), _flat(other.determinants)
    for field in sorted(set(ours) | set(theirs)):
        one, two = ours.get(field), theirs.get(field)
        if field == "shard" or one == two:
            continue
        raise InputError(
            f"{folder}: {path.name} and {other_path.name} differ in {field} ({one} and {two}); "
            "embed the folder again with one setting"
        )


def _flat(determinants: Mapping[str, Any]) -> dict[str, Any]:
    """Name the fields of inner mappings ``outer.inner``, so that an error can quote one."""
    flat: dict[str, Any] = {}
    for name, value in determinants.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": entry for inner, entry in value.items()}
        else:
            flat[name] = value
    return flat


def _require_one_width(paths: list[Path], arrays: list[np.ndarray]) -> None:
    for path, array in zip(paths, arrays, strict=True):
        if array.shape[1] != arrays[0].shape[1]:
            raise InputError(
                f"{path}: rows are {array.shape[1]} wide, those of {paths[0].name} are "
                f"{arrays[0].shape[1]}; keep embeddings of one width in a folder"
            )


def _recorded_matrix(manifest: Manifest) -> np.ndarray:
    """Return a matrix of a shard's shape that takes no memory and can't be taken for rows."""
    shape = manifest.summary["rows"], manifest.summary["width"]
    return np.broadcast_to(np.float32(np.nan), shape)


def _manifest_of(path: Path, matrices: bool) -> Manifest:
    manifest = read_manifest(path.with_suffix(".json"))
    if manifest is None or not path.with_suffix(".parquet").is_file():
        raise InputError(
            f"{path}: incomplete, its manifest or row table is missing; embed this shard again"
        )
    for file in ([path] if matrices else []) + [path.with_suffix(".parquet")]:
        entry = manifest.files.get(file.name)
        if entry is None or file.stat().st_size != entry["bytes"]:
            raise InputError(f"{file}: not the file its manifest records; embed this shard again")
    return manifest


def map_matrix(path: Path) -> np.ndarray:
    """Map a plain ``.npy`` matrix of float32 or float16 rows into memory.

    Raises:
        InputError: the file is missing, damaged or holds anything else.
    """
    try:
        # Not np.load, which opens archives and pickles too.
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: missing; embed this shard again") from None
    # A damaged header makes NumPy raise whatever it leads its parser to.
    except Exception as error:
        raise InputError(
            f"{path}: not a plain .npy matrix ({error}); convert .pt files with "
            "python -m esm_sae.pt_to_npy"
        ) from None
    if array.ndim != 2 or array.dtype not in (np.float32, np.float16) or 0 in array.shape:
        raise InputError(
            f"{path}: holds {array.dtype} of shape {array.shape}, expected a float32 or float16 "
            "matrix of shape (N, D)"
        )
    return array


def _bare_index(path: Path, rows: int) -> pl.DataFrame:
    ids = [f"{path.stem}:{row}" for row in range(rows)]
    empty = {name: [None] * rows for name in ROW_SCHEMA if name != "sequence_id"}
    return pl.DataFrame({"sequence_id": ids, **empty}, schema=ROW_SCHEMA)


def _is_shard(path: Path) -> bool:
    match = _SHARD.match(path.stem)
    return match is not None and match["prefix"] == EMBEDDINGS


def natural_order(path: Path) -> list[str | int]:
    """Return a key that sorts ``x_2`` before ``x_10``."""
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(path.name)]
