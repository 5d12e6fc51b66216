"""Outputs of the small graph, damaged by hand, whose manifests say that they are whole."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.formats.manifest import MANIFEST_NAME, Product, manifest_beside, read_manifest


@dataclass(frozen=True)
class Output:
    """A copy of an output, to be damaged.

    Attributes:
        path: its folder or file.
        manifest_path: its manifest.
    """

    path: Path
    manifest_path: Path

    @property
    def product(self) -> Product:
        """The output as its step returns it."""
        manifest = read_manifest(self.manifest_path)
        assert manifest is not None
        return Product(self.path, manifest, self.manifest_path, unchanged=True)

    def file(self, name: str) -> Path:
        """Return a file of the output, itself where it is one and has no name."""
        if not name:
            return self.path
        return self.path / name if self.path.is_dir() else self.path.with_name(name)

    def change_rows(self, name: str = "", **columns: pl.Expr) -> None:
        """Change columns of a table."""
        path = self.file(name)
        schema = pl.read_parquet_schema(path)
        table = pl.read_parquet(path).with_columns(
            expression.cast(schema[column]).alias(column) for column, expression in columns.items()
        )
        self.replace(table, name)

    def drop_rows(self, name: str = "", *, keep: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        """Keep some rows of a table."""
        self.replace(keep(pl.read_parquet(self.file(name))), name)

    def replace(self, table: pl.DataFrame, name: str = "") -> None:
        """Write a table in the place of one."""
        table.write_parquet(self.file(name))
        self.record_again()

    def change_json(self, name: str, change: Callable[[Any], Any]) -> None:
        """Change a JSON in place, or put what the function returns in its place."""
        path = self.file(name)
        content = json.loads(path.read_bytes())
        returned = change(content)
        path.write_bytes(storage.encode_json(content if returned is None else returned))
        self.record_again()

    def change_text(self, name: str, old: str, new: str) -> None:
        """Replace text that occurs in a file."""
        path = self.file(name)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        self.record_again()

    def change_summary(self, **figures: Any) -> None:
        """Change figures of the manifest's summary."""
        content = json.loads(self.manifest_path.read_bytes())
        assert figures.keys() <= content["summary"].keys()
        content["summary"] |= figures
        self.manifest_path.write_bytes(storage.encode_json(content))

    def record_again(self) -> None:
        """Record the files as they are: what is wrong with them is then not their hash."""
        content = json.loads(self.manifest_path.read_bytes())
        for name, entry in content["files"].items():
            path = self.manifest_path.parent / name
            entry |= {"sha256": storage.sha256_of(path), "bytes": path.stat().st_size}
        self.manifest_path.write_bytes(storage.encode_json(content))


Damage = Callable[[Output], object]

AS_RECORDED = r"is not what was written \(another sha256\); make it again"


@dataclass(frozen=True)
class Case:
    """A damage, the check that finds it, and a pattern of its message."""

    asset: str
    check: str
    damage: Damage
    message: str


def first(column: str, value: object) -> pl.Expr:
    """The column, with another value in its first row."""
    return pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(value)).otherwise(pl.col(column))


def set_rows(name: str, column: str, value: object) -> Damage:
    """Set the first row of a column."""
    return lambda output: output.change_rows(name, **{column: first(column, value)})


def drop_first(name: str = "") -> Damage:
    """Drop the first row of a table."""
    return lambda output: output.drop_rows(name, keep=lambda table: table[1:])


def summarise(**figures: object) -> Damage:
    """Set figures of the manifest's summary."""
    return lambda output: output.change_summary(**figures)


def set_json(name: str, **values: object) -> Damage:
    """Set entries of a JSON."""
    return lambda output: output.change_json(name, lambda content: content.update(values))


def change_matrix(name: str, change: Callable[[np.ndarray], object]) -> Damage:
    """Change a matrix in place."""

    def damage(output: Output) -> None:
        path = output.file(name)
        matrix = np.load(path)
        change(matrix)
        np.save(path, matrix)
        output.record_again()

    return damage


def put_nan(matrix: np.ndarray) -> None:
    matrix[5, 3] = np.nan


def put_zero(matrix: np.ndarray) -> None:
    matrix[5] = 0


def cut_off(output: Output) -> None:
    output.path.write_text(output.path.read_text()[:-30])
    output.record_again()


def flip_bit(path: Path, at: int = -1) -> None:
    """Flip one bit of a file, its size kept."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def copy_of(output: Path, target: Path) -> Output:
    """Copy an output of a graph, a folder or a file with those beside it, to damage the copy."""
    if output.is_dir():
        shutil.copytree(output, target)
        return Output(target, target / MANIFEST_NAME)
    target.parent.mkdir(parents=True, exist_ok=True)
    manifest_path = _manifest_of(output)
    manifest = read_manifest(manifest_path)
    assert manifest is not None
    for name in [*manifest.files, manifest_path.name]:
        shutil.copy2(output.parent / name, target.parent / name)
    return Output(target, target.parent / manifest_path.name)


def _manifest_of(output: Path) -> Path:
    """Return the manifest of a file: a shard's has its name, the source's that of no file."""
    beside = manifest_beside(output)
    own = output.with_suffix(".json") if output.suffix == ".npy" else beside
    return own if own.is_file() else output.with_name("uniref50.manifest.json")
