"""Compressed files, read as what they hold: gzip (also of many members, and bgzip) and zstd."""

import contextlib
import gzip
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from esm_sae import storage
from esm_sae.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
# A frame of zstd, or one to be skipped, as some tools write first (RFC 8878, section 3.1).
_ZSTD_MAGIC = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
_MAGIC_BYTES = 4
# bgzip's field in the header of each member, and the empty member with which it ends a file.
_BGZIP = re.compile(rb"\x1f\x8b\x08\x04.{8}BC\x02\x00", re.DOTALL)
_BGZIP_HEADER_BYTES = 16
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def compression_of(source: storage.PathLike) -> str | None:
    """Return ``"gzip"`` or ``"zstd"`` by a file's first bytes, None where it is neither.

    Raises:
        InputError: the file is missing, a directory or may not be read.
    """
    with storage.open_binary(source) as file:
        return compression_at(file.read(_MAGIC_BYTES))


@contextlib.contextmanager
def decompressed(file: BinaryIO, source: storage.PathLike) -> Iterator[BinaryIO]:
    """Give an open file's content, decompressed where its first bytes say that it must be.

    Memory is bounded by the decompressor's window, which of zstd is at most 128 MiB.

    Args:
        file: standing at its start.
        source: its path, named in errors.

    Raises:
        InputError: the stream is truncated or damaged; raised where it is read.
    """
    compression = compression_at(file.read(_MAGIC_BYTES))
    file.seek(0)
    if compression is None:
        yield file
        return
    if _is_cut_bgzip(file):
        raise _damaged(source, "gzip", "bgzip's end marker is missing")
    opened, damage = _open(file, compression)
    with opened:
        try:
            yield cast(BinaryIO, opened)
        except damage as error:
            raise _damaged(source, compression, error) from None


def _open(file: Any, compression: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return the decompressing file and what it raises on a damaged stream."""
    if compression == "zstd":
        from backports import zstd

        return zstd.ZstdFile(file), (EOFError, zstd.ZstdError)
    from isal import igzip, isal_zlib

    damage = (EOFError, gzip.BadGzipFile, cast(type[Exception], isal_zlib.error))
    return igzip.IGzipFile(fileobj=file, mode="rb"), damage


def compression_at(start: bytes) -> str | None:
    """Return ``"gzip"`` or ``"zstd"`` by the first bytes of a content, None for another."""
    if start.startswith(_GZIP_MAGIC):
        return "gzip"
    return "zstd" if _ZSTD_MAGIC.match(start) else None


def _is_cut_bgzip(file: BinaryIO) -> bool:
    """Whether members are missing at the end: gzip itself cannot tell where the last one is."""
    is_bgzip = _BGZIP.match(file.read(_BGZIP_HEADER_BYTES)) is not None
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - len(_BGZIP_END), 0))
    is_cut = is_bgzip and file.read() != _BGZIP_END
    file.seek(0)
    return is_cut


def _damaged(source: storage.PathLike, compression: str, why: object) -> InputError:
    return InputError(
        f"{os.fspath(source)}: the {compression} stream is truncated or damaged ({why}); fetch "
        "the file again"
    )
