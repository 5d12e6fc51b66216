"""The columns of an output's tables: name, type, what it is, and where it comes from."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from esm_sae.formats.columns import describe_columns, tables_among
from esm_sae.formats.manifest import Product

if TYPE_CHECKING:
    import polars as pl


def table_schema(
    product: Product, table: Path, lineage: dg.TableColumnLineage | None = None
) -> dg.TableSchema:
    """Describe the columns of a table of an output.

    Where a column comes from is said with it, too: Dagster's UI shows column lineage in Dagster+
    only.
    """
    import polars as pl

    name = table.relative_to(product.manifest_path.parent).as_posix()
    described = describe_columns(product.manifest.kind, name)
    sources = lineage.deps_by_column if lineage else {}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column, _type_name(dtype), _with_sources(described[column], sources.get(column, ()))
            )
            for column, dtype in pl.read_parquet_schema(table).items()
        ]
    )


def other_schemas(product: Product, table: Path | None) -> dict[str, dg.TableSchema]:
    """Describe the tables of an output beside the main one, by name; only those at hand."""
    folder = product.manifest_path.parent
    tables = tables_among(product.manifest.kind, product.manifest.files)
    return {
        f"columns: {_short(name)}": table_schema(product, folder / file)
        for name, file in tables.items()
        if folder / file != table and (folder / file).is_file()
    }


def _short(table: str) -> str:
    """Return what sets a table apart from the others: ``x.residues.parquet`` -> ``residues``."""
    return table.removesuffix(".parquet").rpartition(".")[2]


def _with_sources(description: str, sources: Sequence[dg.TableColumnDep]) -> str:
    if not sources:
        return description
    named = ", ".join(f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in sources)
    return f"{description} From {named}."


def _type_name(dtype: "pl.DataType") -> str:
    """Return a type's name without the fields of structs, which push all else off the page."""
    import polars as pl

    if isinstance(dtype, pl.List):
        return f"List({_type_name(dtype.inner)})"  # pyright: ignore[reportArgumentType]
    return "Struct" if isinstance(dtype, pl.Struct) else str(dtype)
