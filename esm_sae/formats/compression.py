"""Compressed files, read as what they hold: gzip (also of many members, and bgzip) and zstd."""

import contextlib
import gzip
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from esm_sae import storage
from esm_sae.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def compression_of(source: storage.PathLike) -> str | None:
    """Return ``"gzip"`` or ``"zstd"`` by a file's first bytes, None where it is neither.

    Raises:
        InputError: the file is missing, a directory or may not be read.
    """
    with storage.open_binary(source) as file:
        return _compression(file.read(len(_ZSTD_MAGIC)))


@contextlib.contextmanager
def decompressed(file: BinaryIO, source: storage.PathLike) -> Iterator[BinaryIO]:
    """Give an open file's content, decompressed where its first bytes say that it must be.

    Memory is bounded by the decompressor's window: at most 8 MiB for what ``zstd`` writes without
    ``--long``.

    Args:
        file: standing at its start.
        source: its path, named in errors.

    Raises:
        InputError: the stream is truncated or damaged; raised where it is read.
    """
    compression = _compression(file.read(len(_ZSTD_MAGIC)))
    file.seek(0)
    if compression is None:
        yield file
        return
    opened, damage = _open(file, compression)
    with opened:
        try:
            yield cast(BinaryIO, opened)
        except damage as error:
            raise InputError(
                f"{os.fspath(source)}: the {compression} stream is truncated or damaged "
                f"({error}); fetch the file again"
            ) from None


def _open(file: Any, compression: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return the decompressing file and what it raises on a damaged stream."""
    if compression == "zstd":
        from backports import zstd

        return zstd.ZstdFile(file), (EOFError, zstd.ZstdError)
    from isal import igzip, isal_zlib

    damage = (EOFError, gzip.BadGzipFile, cast(type[Exception], isal_zlib.error))
    return igzip.IGzipFile(fileobj=file, mode="rb"), damage


def _compression(start: bytes) -> str | None:
    if start.startswith(_GZIP_MAGIC):
        return "gzip"
    return "zstd" if start == _ZSTD_MAGIC else None
