"""What every asset shows: counts, sizes, time and memory, plots and small tables."""

import base64
import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product

if TYPE_CHECKING:
    import torch

Metadata = dict[str, Any]

MANIFEST_KEY = "manifest"

_BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024


class Clock:
    """Seconds since a step began."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started


@contextlib.contextmanager
def materializing() -> Iterator[Clock]:
    """Time a step, and fail it in one clear line where its input cannot be used."""
    try:
        yield Clock()
    except InputError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
    except OSError as error:
        what = error.strerror or str(error)
        named = f"{error.filename}: {what}" if error.filename else what
        raise dg.Failure(description=named) from error


def result(
    product: Product,
    clock: Clock,
    *,
    rows: int | None = None,
    table: Path | None = None,
    checks: Sequence[dg.AssetCheckResult] = (),
    **looked_at: Any,
) -> dg.MaterializeResult:
    """Describe an output to Dagster: its data version and what there is to see of it.

    What people look at comes first: plots, then figures, then the bookkeeping.

    Args:
        product: the output.
        clock: started with the step.
        rows: number of rows, of what the asset's description calls a row.
        table: a parquet table that shows its columns, and its rows where ``rows`` is not given.
        checks: what a second look at the output found.
        looked_at: plots and figures of the asset's own.
    """
    summary = {name: _value(value) for name, value in _flattened(product.manifest.summary).items()}
    shape: Metadata = {}
    if table is not None:
        shape["dagster/column_schema"] = _column_schema(table)
        rows = _row_count(table) if rows is None else rows
    if rows is not None:
        shape["dagster/row_count"] = rows
    return dg.MaterializeResult(
        data_version=dg.DataVersion(product.manifest.data_version),
        check_results=checks,
        metadata=looked_at | summary | shape | _bookkeeping(product, clock),
    )


def _bookkeeping(product: Product, clock: Clock) -> Metadata:
    files = product.manifest.files
    return {
        "path": dg.MetadataValue.path(str(product.path)),
        "files": len(files),
        "size_bytes": sum(int(entry["bytes"]) for entry in files.values()),
        "seconds": round(clock.seconds, 2),
        "peak_memory_bytes": peak_memory_bytes(),
        "unchanged": product.unchanged,
        "fingerprint": product.manifest.fingerprint[:16],
        MANIFEST_KEY: dg.MetadataValue.path(str(product.manifest_path)),
    }


def peak_memory_bytes() -> int:
    """Return the most memory this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _BYTES_PER_MAXRSS


def peak_device_memory(device: "torch.device") -> Metadata:
    """Return the most memory torch has held on a GPU so far; nothing on another device."""
    if device.type != "cuda":
        return {}
    import torch

    return {"peak_device_memory_bytes": torch.cuda.max_memory_allocated(device)}


def plot(source: Path | bytes, title: str = "") -> dg.MarkdownMetadataValue:
    """Show a PNG in the metadata; it is small, so it is put inline."""
    png = source.read_bytes() if isinstance(source, Path) else source
    encoded = base64.b64encode(png).decode()
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{encoded})")


def _table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """Show a few rows as a table."""
    if not rows:
        return dg.MetadataValue.md("(none)")
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def _column_schema(parquet: Path) -> dg.TableSchema:
    """Return the columns of a parquet table."""
    import polars as pl

    return dg.TableSchema(
        columns=[
            dg.TableColumn(name, str(dtype))
            for name, dtype in pl.read_parquet_schema(parquet).items()
        ]
    )


def _row_count(parquet: Path) -> int:
    """Return the number of rows of a parquet table, from its footer."""
    import polars as pl

    return int(pl.scan_parquet(parquet).select(pl.len()).collect().item())


def _flattened(summary: Mapping[str, Any]) -> Metadata:
    """Give each count of a dictionary of counts a line of its own, which Dagster can plot."""
    flat: Metadata = {}
    for name, value in summary.items():
        if isinstance(value, Mapping) and value and all(type(n) is int for n in value.values()):
            flat |= {f"{name}: {key}": count for key, count in value.items()}
        else:
            flat[name] = value
    return flat


def _value(value: Any) -> Any:
    if value is None:
        return "none"
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return _table(value)
    return dg.MetadataValue.json(value)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
