"""What each column of each table of the graph is, units included: the texts of ``columns.toml``."""

import fnmatch
import functools
import importlib.resources
import tomllib
from collections.abc import Iterable, Mapping

_COMMON = "common"


def describe_columns(kind: str, table: str) -> dict[str, str]:
    """Return what the columns of a table are, and of those that many tables have.

    Args:
        kind: of the output that the table belongs to, as its manifest says.
        table: the table's name in the manifest, such as ``by_row/00000.parquet``.
    """
    for pattern, columns in _tables_of(kind).items():
        if fnmatch.fnmatchcase(table, pattern):
            return {**_content()[_COMMON], **columns}
    return dict(_content()[_COMMON])


def tables_among(kind: str, files: Iterable[str]) -> dict[str, str]:
    """Return one file of each table that an output consists of, by the table's name.

    The name is the file's, or the pattern of those that a table is in.
    """
    of_table: dict[str, list[str]] = {}
    patterns = list(_tables_of(kind))
    for file in sorted(name for name in files if name.endswith(".parquet")):
        names = (pattern for pattern in patterns if fnmatch.fnmatchcase(file, pattern))
        of_table.setdefault(next(names, file), []).append(file)
    return {table if len(parts) > 1 else parts[0]: parts[0] for table, parts in of_table.items()}


def _tables_of(kind: str) -> Mapping[str, Mapping[str, str]]:
    return _content().get(kind, {})


@functools.cache
def _content() -> dict[str, dict]:
    file = importlib.resources.files("esm_sae.formats") / "columns.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))
