"""A second look at finished outputs, on the disk: files, tables and figures as they should be."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import MANIFEST_NAME, Product, manifest_beside, read_manifest

AGAIN = "make it again"

_MOST_HASHED = 1 << 28
_NAMED = 3

Schema = Mapping[str, Any]
Wrong = Mapping[str, pl.Expr]


def product_at(path: storage.PathLike) -> Product | None:
    """Return the output that is a folder, or a file with its manifest beside it; None if none is.

    Raises:
        InputError: its manifest is none.
    """
    target = Path(path)
    manifest_path = target / MANIFEST_NAME if target.is_dir() else manifest_beside(target)
    manifest = read_manifest(manifest_path)
    return None if manifest is None else Product(target, manifest, manifest_path, unchanged=True)


def require_files(product: Product) -> int:
    """Check that the files that a manifest names are there; return how many they are.

    Of all the size is compared; the smallest are hashed too, as long as they come to 256 MiB.

    Raises:
        InputError: one is missing, of another size or of other content.
    """
    files = product.manifest.files
    hashed = 0
    for name, entry in sorted(files.items(), key=lambda item: int(item[1]["bytes"])):
        path = product.manifest_path.parent / name
        if not path.is_file():
            raise InputError(f"{path}: is gone, the manifest names it; {AGAIN}")
        size, expected = path.stat().st_size, int(entry["bytes"])
        hashed += size
        if size != expected:
            raise InputError(f"{path}: has {size:,} bytes, the manifest says {expected:,}; {AGAIN}")
        if hashed <= _MOST_HASHED and storage.sha256_of(path) != entry["sha256"]:
            raise InputError(f"{path}: is not what was written (another sha256); {AGAIN}")
    return len(files)


def scan_table(path: Path, schema: Schema | Sequence[str]) -> pl.LazyFrame:
    """Return a parquet table, lazily, with the columns that it should have, and maybe others.

    Args:
        path: the table.
        schema: columns with their types, or their names alone.

    Raises:
        InputError: the file is missing or no such table.
    """
    with storage.open_binary(path):
        pass
    try:
        found = pl.scan_parquet(path).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable parquet table ({reason}); {AGAIN}") from None
    missing = [name for name in schema if name not in found]
    if missing:
        raise InputError(f"{path}: lacks the column {missing[0]}; {AGAIN}")
    if isinstance(schema, Mapping):
        for name, kind in schema.items():
            if found[name] != kind:
                raise InputError(f"{path}: column {name} is {found[name]}, not {kind}; {AGAIN}")
    return pl.scan_parquet(path)


def refuse_rows(path: Path, table: pl.LazyFrame, wrong: Wrong, *, named_by: Sequence[str]) -> int:
    """Check the rows of a table, in one pass; return how many there are.

    Args:
        path: the table's file, for the error.
        table: its rows, or some of them.
        wrong: what is said of rows, and when it is true; null counts as false.
        named_by: columns by which the first such rows are named.

    Raises:
        InputError: it is true of some rows.
    """
    tests = {what: test.fill_null(False) for what, test in wrong.items()}
    sums = [test.sum().alias(what) for what, test in tests.items()]
    counts = _collected(path, table.select(pl.len().alias("rows"), *sums)).row(0, named=True)
    for what, test in tests.items():
        if counts[what]:
            first = _collected(path, table.filter(test).select(named_by).head(_NAMED))
            named = "; ".join(
                ", ".join(f"{name} {value}" for name, value in row.items())
                for row in first.iter_rows(named=True)
            )
            raise InputError(
                f"{path}: {counts[what]:,} of {counts['rows']:,} rows {what}, such as {named}; "
                f"{AGAIN}"
            )
    return int(counts["rows"])


def outside(low: float, high: float, *names: str) -> dict[str, pl.Expr]:
    """Return what is wrong with rows in which one of the columns is not from ``low`` to ``high``.

    Null passes; NaN does not.
    """
    return {
        f"have a {name} outside {low:.3g} to {high:.3g}": ~pl.col(name).is_between(low, high)
        for name in names
    }


def not_finite(*names: str) -> dict[str, pl.Expr]:
    """Return what is wrong with rows in which one of the columns is NaN or infinite."""
    return {f"have a {name} that is not finite": ~pl.col(name).is_finite() for name in names}


def lacking(*names: str) -> dict[str, pl.Expr]:
    """Return what is wrong with rows in which one of the columns is null."""
    return {f"have no {name}": pl.col(name).is_null() for name in names}


def out_of_order(low: str, middle: str, high: str) -> dict[str, pl.Expr]:
    """Return what is wrong with rows in which a figure is not within its own interval."""
    slack = 1e-9
    inside = (pl.col(low) <= pl.col(middle) + slack) & (pl.col(middle) <= pl.col(high) + slack)
    return {f"have a {middle} outside {low} to {high}": ~inside}


def require_equal(path: Path, counts: Mapping[str, tuple[Any, Any]]) -> None:
    """Check what was found against what was expected, by name.

    Raises:
        InputError: the first pair that differs, with both values.
    """
    for what, (found, expected) in counts.items():
        if found != expected:
            raise InputError(
                f"{path}: {what}: found {_shown(found)}, expected {_shown(expected)}; {AGAIN}"
            )


def require_figures(
    path: Path, figures: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]
) -> None:
    """Check that figures are there, are numbers and lie within their bounds.

    Raises:
        InputError: one is missing, no number or outside.
    """
    for name, (low, high) in bounds.items():
        value = figures.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
            raise InputError(f"{path}: {name} is {value!r}, expected a number; {AGAIN}")
        if not low <= value <= high:
            raise InputError(f"{path}: {name} is {value:g}, expected {low:g} to {high:g}; {AGAIN}")


def row_count(path: Path) -> int:
    """Return the number of rows of a parquet table, from its footer.

    Raises:
        InputError: the file is missing or no such table.
    """
    return int(_collected(path, scan_table(path, ()).select(pl.len())).item())


def made_from(product: Product, name: str, version: str) -> bool:
    """Whether an output was made from the given version of an input, as its manifest records.

    Another one of its partitions may have been made from an older input, and then fits that.
    """
    return product.manifest.determinants.get(name) == version


def seeded_rows(rows: int, most: int) -> np.ndarray:
    """Return the numbers of at most ``most`` rows, ascending, drawn by a fixed seed."""
    return np.sort(np.random.default_rng(0).choice(rows, min(rows, most), replace=False))


def seeded_runs(table: pl.LazyFrame, rows: int, *, runs: int, length: int) -> pl.DataFrame:
    """Return some of a table's rows, in their order: runs of neighbours, drawn by a fixed seed.

    Of a large file only what holds these is read.
    """
    starts = seeded_rows(-(-rows // length), runs) * length
    return pl.concat([table.slice(int(start), length).collect() for start in starts])


def _collected(path: Path, table: pl.LazyFrame) -> pl.DataFrame:
    try:
        return table.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable parquet table ({reason}); {AGAIN}") from None


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
