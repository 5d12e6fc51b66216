"""What every asset shows: counts, sizes, time and memory, plots and small tables."""

import contextlib
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from esm_sae.errors import InputError, one_line
from esm_sae.formats.manifest import Product
from esm_sae_assets.catalogue.shown_values import Metadata, in_order, page, plot
from esm_sae_assets.catalogue.table_schemas import other_schemas, table_schema
from esm_sae_assets.resources import DataRoot

if TYPE_CHECKING:
    import torch

__all__ = ["MANIFEST_KEY", "Clock", "materializing", "page", "peak_device_memory", "plot", "result"]

MANIFEST_KEY = "manifest"

_BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024


class Clock:
    """Seconds since a step began, and where its outputs go."""

    def __init__(self, data: DataRoot) -> None:
        self.data = data
        self._started = time.monotonic()

    def restart(self) -> None:
        """Count from now on: a step makes its next output."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started


@contextlib.contextmanager
def materializing(data: DataRoot) -> Iterator[Clock]:
    """Time a step, and fail it in one clear line where its input cannot be used.

    What the library warns of is in the log of the run, too.
    """
    try:
        with data.step(), _warnings_in_log():
            yield Clock(data)
    except InputError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
    except OSError as error:
        what = error.strerror or str(error)
        named = f"{error.filename}: {what}" if error.filename else what
        raise dg.Failure(description=named) from error


@contextlib.contextmanager
def _warnings_in_log() -> Iterator[None]:
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            # Libraries' go by their categories.
            if category is UserWarning:
                dg.get_dagster_logger("esm_sae").warning(one_line(str(message)))
            shown(message, category, *where)

        warnings.showwarning = show
        yield


def result(
    product: Product,
    clock: Clock,
    *,
    rows: int | None = None,
    table: Path | None = None,
    lineage: dg.TableColumnLineage | None = None,
    checks: Sequence[dg.AssetCheckResult] = (),
    **looked_at: Any,
) -> dg.MaterializeResult:
    """Publish an output, and describe it to Dagster: its data version and what there is to see.

    What people look at comes first: plots, then figures and tables, then the bookkeeping.

    Args:
        product: the output.
        clock: started with the step.
        rows: number of rows, of what the asset's description calls a row.
        table: a parquet table that shows its columns, and its rows where ``rows`` is not given.
        lineage: from which columns that table's are.
        checks: what a second look at the output found.
        looked_at: plots and figures of the asset's own; they go before those of the manifest.
    """
    clock.data.publish(product)
    shape: Metadata = {}
    if table is not None:
        shape["dagster/column_schema"] = table_schema(product, table, lineage)
        rows = _row_count(table) if rows is None else rows
    if lineage is not None:
        shape["dagster/column_lineage"] = lineage
    if rows is not None:
        shape["dagster/row_count"] = rows
    return dg.MaterializeResult(
        data_version=dg.DataVersion(product.manifest.data_version),
        check_results=checks,
        metadata={
            # Once more at the end: its own values are those shown.
            **in_order({**looked_at, **product.manifest.summary, **looked_at}),
            **shape,
            **_bookkeeping(product, clock),
            **other_schemas(product, table),
        },
    )


def _bookkeeping(product: Product, clock: Clock) -> Metadata:
    size = sum(int(entry["bytes"]) for entry in product.manifest.files.values())
    return {
        "seconds": round(clock.seconds, 2),
        "peak_memory_mb": _megabytes(peak_memory_bytes()),
        "size_mb": _megabytes(size),
        "unchanged": product.unchanged,
        "path": dg.MetadataValue.path(clock.data.address(product)),
        MANIFEST_KEY: dg.MetadataValue.path(clock.data.manifest_address(product)),
        "fingerprint": product.manifest.fingerprint[:16],
    }


def peak_memory_bytes() -> int:
    """Return the most memory this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _BYTES_PER_MAXRSS


def peak_device_memory(device: "torch.device") -> Metadata:
    """Return the most memory torch has held on a GPU so far; nothing on another device."""
    if device.type != "cuda":
        return {}
    import torch

    return {"peak_device_memory_mb": _megabytes(torch.cuda.max_memory_allocated(device))}


def _row_count(parquet: Path) -> int:
    """Return the number of rows of a parquet table, from its footer."""
    import polars as pl

    return int(pl.scan_parquet(parquet).select(pl.len()).collect().item())


def _megabytes(count: int) -> float:
    return float(f"{count / 1e6:.4g}")
