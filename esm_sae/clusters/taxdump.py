"""The files of an NCBI taxdump, from a folder or from an archive that is not unpacked to disk."""

import contextlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.compression import decompressed
from esm_sae.formats.manifest import identity_of
from esm_sae.url_secrets import without_secrets

NODES, NAMES, MERGED, DELETED = "nodes.dmp", "names.dmp", "merged.dmp", "delnodes.dmp"

_REQUIRED = (NODES, NAMES)
# The fields that are read: name and place. Lines have fields that are not read behind these.
_FIELDS = {
    NODES: {"taxid": 0, "parent": 1, "rank": 2},
    NAMES: {"taxid": 0, "name": 1, "class": 3},
    MERGED: {"old": 0, "new": 1},
    DELETED: {"old": 0},
}
_TEXT = ("rank", "name", "class")
_ZIP_MAGIC = b"PK\x03\x04"
# What the standard library raises of archives: OSError of one that sends it to no place in the
# file, RuntimeError of one with a password.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
)
_FETCH = "fetch taxdump.tar.gz of NCBI's taxonomy again"


def read_taxdump(source: storage.PathLike) -> dict[str, pl.DataFrame]:
    """Read the tables of a taxdump: a folder, or a .tar, .tar.gz, .tar.zst or .zip, also by URL.

    Memory is bounded by the largest file (names.dmp, 230 MB in 2025) and the tables made of it.

    Returns:
        Tables by file name, with the row of line n at n - 1: nodes.dmp (taxid, parent, rank),
        names.dmp (taxid, name, class), merged.dmp (old, new) and delnodes.dmp (old); the last
        two are empty where the dump lacks them.

    Raises:
        InputError: the source is an HTTP URL, is no taxdump, is damaged, or has a line that is
            not of its file's form (file and line are named).
    """
    _require_fetched(source)
    tables: dict[str, pl.DataFrame] = {}
    for name, content in _contents(source):
        if name in tables:
            raise InputError(f"{os.fspath(source)}: holds two files {name}; {_FETCH}")
        tables[name] = _parse(content, name, source)
    for name in _FIELDS:
        if name in tables and not (tables[name].is_empty() and name in _REQUIRED):
            continue
        if name in _REQUIRED:
            raise InputError(
                f"{os.fspath(source)}: holds no {name}, or an empty one; expected NCBI's taxdump, "
                "a folder or an archive with nodes.dmp and names.dmp"
            )
        tables[name] = pl.DataFrame(schema=_schema(name))
    return tables


def identity_of_taxdump(source: storage.PathLike) -> str | dict[str, str]:
    """Return the content hash of an archive, or that of each file read from a folder.

    Raises:
        InputError: as ``read_taxdump``, where it can be told without reading the tables.
    """
    _require_fetched(source)
    if files := _files(source):
        return {path.name: identity_of(path) for path in files}
    with storage.open_binary(source):
        return identity_of(source)


def line_of(source: storage.PathLike, name: str, row: int) -> str:
    """Say where a row of a table stands, for an error."""
    return f"{os.fspath(source)}: {name}, line {row + 1}"


def _require_fetched(source: storage.PathLike) -> None:
    if storage.is_http_url(source):
        raise InputError(
            f"{without_secrets(os.fspath(source))}: fetch it first with python -m "
            "esm_sae.download, and name the file that this writes"
        )


def _files(source: storage.PathLike) -> list[Path]:
    """Return the files of a taxdump in a folder, none where the source is a file."""
    local = storage.local_path(source)
    if local is None or not local.is_dir():
        return []
    files = [local / name for name in _FIELDS if (local / name).is_file()]
    lacking = [name for name in _REQUIRED if local / name not in files]
    if lacking:
        raise InputError(
            f"{local}: holds no {lacking[0]}; expected the folder of an unpacked NCBI taxdump"
        )
    return files


def _contents(source: storage.PathLike) -> Iterator[tuple[str, bytes]]:
    if files := _files(source):
        for path in files:
            yield path.name, storage.read_bytes(path)
        return
    with storage.open_binary(source) as file:
        start = file.read(len(_ZIP_MAGIC))
        file.seek(0)
        with _naming_damage(source):
            yield from _zipped(file) if start == _ZIP_MAGIC else _tarred(file, source)


def _zipped(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename).name
            if name in _FIELDS:
                yield name, archive.read(entry)


def _tarred(file: BinaryIO, source: storage.PathLike) -> Iterator[tuple[str, bytes]]:
    with (
        decompressed(file, source) as plain,
        # Read as a stream: going back in a compressed file means to decompress it again.
        tarfile.open(fileobj=plain, mode="r|") as archive,
    ):
        for entry in archive:
            name = PurePosixPath(entry.name).name
            if name in _FIELDS and entry.isfile():
                yield name, cast(BinaryIO, archive.extractfile(entry)).read()


@contextlib.contextmanager
def _naming_damage(source: storage.PathLike) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise InputError(
            f"{os.fspath(source)}: is no taxdump archive, or is truncated or damaged ({error}); "
            f"{_FETCH}"
        ) from None


def _schema(name: str) -> dict[str, type[pl.DataType]]:
    return {field: pl.String if field in _TEXT else pl.Int64 for field in _FIELDS[name]}


def _parse(content: bytes, name: str, source: storage.PathLike) -> pl.DataFrame:
    """Read lines of fields that end with a tab and a bar, the last with the line."""
    fields = _FIELDS[name]
    columns: dict[str, type[pl.DataType]] = {}
    for place in range(max(fields.values()) + 1):
        columns |= {f"field {place}": pl.String, f"bar {place}": pl.String}
    columns |= {
        f"field {fields[field]}": kind for field, kind in _schema(name).items() if kind != pl.String
    }
    try:
        table = pl.read_csv(
            content,
            has_header=False,
            separator="\t",
            # Names hold quotes that mean nothing.
            quote_char=None,
            schema=columns,
            extra_columns="ignore",
            missing_columns="insert",
            empty_string_is_null=False,
            ignore_errors=True,
        )
    except pl.exceptions.PolarsError:
        raise InputError(f"{_first_undecodable(content, name, source)}; {_FETCH}") from None
    good = [pl.col(column).eq_missing("|") for column in columns if column.startswith("bar")]
    for field, kind in _schema(name).items():
        column = pl.col(f"field {fields[field]}")
        good.append(column.is_not_null() if kind == pl.String else column.ge(0).fill_null(False))
    row = table.select(pl.all_horizontal(good).not_().arg_true().first()).item()
    if row is not None:
        raise InputError(
            f"{line_of(source, name, row)}: not of the form of this file "
            f"('{_line(content, row)}'); {_FETCH}"
        )
    return table.select(pl.col(f"field {place}").alias(field) for field, place in fields.items())


def _line(content: bytes, row: int) -> str:
    return content.split(b"\n", row + 1)[row][:60].decode(errors="replace")


def _first_undecodable(content: bytes, name: str, source: storage.PathLike) -> str:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start)
        return f"{line_of(source, name, row)}: is not UTF-8"
    return f"{os.fspath(source)}: {name} cannot be read"
