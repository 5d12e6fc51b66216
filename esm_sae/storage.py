"""Reading, publishing and listing of files: the one place that writes final files.

A file is published by writing it under a temporary name in its own folder, syncing it and
renaming it over the final name, so that a killed process leaves the old file or the new one.
Local paths and fsspec URLs (``s3://...``) are read by the same functions.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from esm_sae.errors import InputError
from esm_sae.locks import hold
from esm_sae.url_secrets import require_no_secret

PathLike = str | os.PathLike[str]

_HASH_CHUNK = 1 << 22
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_TEMPORARY_SUFFIX = ".partial"


def open_binary(path: PathLike) -> BinaryIO:
    """Open a local file or an fsspec URL for reading bytes.

    Raises:
        InputError: there is no such file, it is a directory, or may not be read.
    """
    if is_url(path):
        return _open_url(os.fspath(path))
    local = Path(path)
    if local.is_dir():
        raise InputError(f"{local}: is a directory, expected a file")
    if local.exists() and not local.is_file():
        raise InputError(f"{local}: is no regular file; write what it gives to one, and name that")
    try:
        return local.open("rb")
    except FileNotFoundError:
        raise InputError(f"{local}: no such file") from None
    except PermissionError:
        raise InputError(f"{local}: may not be read (permission denied)") from None


def stem(path: PathLike) -> str:
    """Return a file's name without its type: ``x.fasta.gz`` -> ``x``, ``a.b.json`` -> ``a.b``."""
    return Path(Path(path).name.removesuffix(".gz").removesuffix(".zst")).stem


def read_bytes(path: PathLike) -> bytes:
    """Read a whole file."""
    with open_binary(path) as file:
        return file.read()


def read_json(path: PathLike) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, truncated or not JSON.
    """
    return parse_json(read_bytes(path), path)


def parse_json(content: bytes, path: PathLike) -> Any:
    """Parse what was read from a JSON file.

    Raises:
        InputError: it is truncated or not JSON.
    """
    try:
        value = json.loads(content)
        if b"\\u" in content:
            # An escape can spell half a character, which nothing made from it could write.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    # Also ValueError of a number with thousands of digits.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)}: not valid JSON ({error})") from None


def is_url(path: PathLike) -> bool:
    """Whether a path is an fsspec URL such as ``s3://bucket/key`` and not a local path."""
    return "://" in os.fspath(path)


def is_http_url(path: PathLike) -> bool:
    """Whether a path is the address of a file on a web server."""
    return os.fspath(path).lower().startswith(("http://", "https://"))


def is_hub_path(path: PathLike) -> bool:
    """Whether a path names something on the model hub, ``hf://org/name``.

    A ``Path`` of such a name has lost a slash and is meant too.
    """
    return os.fspath(path).startswith("hf:/")


def list_files(directory: PathLike, pattern: str = "*") -> list[Path]:
    """List the files of a local directory that match a glob pattern, sorted by name.

    Raises:
        InputError: there is no such directory, it is a file, or a match is a link to nothing.
    """
    folder = Path(directory)
    if not folder.exists():
        raise InputError(f"{folder}: no such directory")
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a directory")
    matches = sorted(folder.glob(pattern))
    for path in matches:
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{path}: links to {os.readlink(path)}, which is not there; restore that or remove "
                "the link"
            )
    return [path for path in matches if path.is_file()]


def sha256_of(path: PathLike) -> str:
    """Return the sha256 of a file's bytes as a hexadecimal string, reading it in chunks."""
    return digests_of(path, ["sha256"])["sha256"]


def digests_of(path: PathLike, algorithms: Iterable[str]) -> dict[str, str]:
    """Return hexadecimal hashes of a file's bytes by several algorithms, reading it once."""
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with open_binary(path) as file:
        while chunk := file.read(_HASH_CHUNK):
            for digest in digests.values():
                digest.update(chunk)
    return {name: digest.hexdigest() for name, digest in digests.items()}


@contextlib.contextmanager
def publish(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path``, atomically.

    If the body raises, the temporary file is removed and an older ``path`` stays as it was.

    Raises:
        InputError: ``path`` is a directory, or its folder cannot be made.
    """
    target = Path(path)
    require_writable_file(target)
    make_folder(target.parent)
    temporary = temporary_beside(target)
    try:
        yield temporary
        replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def publish_bytes(path: PathLike, data: bytes) -> None:
    """Publish bytes as a file."""
    with publish(path) as temporary:
        temporary.write_bytes(data)


def publish_text(path: PathLike, text: str) -> None:
    """Publish text as a UTF-8 file."""
    publish_bytes(path, text.encode())


def publish_json(path: PathLike, value: Any) -> None:
    """Publish a value as JSON with sorted keys, so that equal values give equal bytes."""
    publish_bytes(path, encode_json(value))


def encode_json(value: Any, *, sort_keys: bool = True) -> bytes:
    """Encode a value as readable JSON; NaN and infinity are errors."""
    text = json.dumps(value, sort_keys=sort_keys, indent=2, allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def require_writable_file(path: Path) -> None:
    """Refuse to write where something stands that is no file.

    Raises:
        InputError: the path is a folder, a device or a pipe, or names no file.
    """
    if path.is_dir() or not path.name:
        raise InputError(f"{path}: is a directory, expected a file to write")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no regular file, expected a file to write")


def local_path(path: PathLike) -> Path | None:
    """Return the local path that a path or a ``file://`` URL means, None for another URL."""
    text = os.fspath(path)
    if text.startswith(("file://", "local://")):
        return Path(text.partition("://")[2])
    return None if is_url(path) else Path(path)


def state_of(path: PathLike) -> tuple[int, ...]:
    """Return what changes when a local file is written to or replaced."""
    local = local_path(path)
    if local is None or not local.is_file():
        return ()
    state = local.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


@contextlib.contextmanager
def naming_full_disk(target: Path, kind: type[InputError] = InputError) -> Iterator[None]:
    """Say which output a full disk, or a limit on the size of files, stopped.

    Raises:
        InputError: of the given kind, in place of the system's error, or a library's, which
            names nothing.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = _full_disk_reason(error)
        if reason is None:
            raise
        free = shutil.disk_usage(target.parent).free
        raise kind(
            f"{target}: cannot be written ({reason}; {free:,} bytes are free on its disk); make "
            "room and run it again"
        ) from None


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        InputError: a file stands in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder}: is a file, expected a directory") from None


def temporary_beside(target: Path) -> Path:
    """Return a unique hidden name in the folder of ``target``."""
    return target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}{_TEMPORARY_SUFFIX}"


def replace(temporary: Path, target: Path) -> None:
    """Sync a finished file and rename it over ``target``."""
    sync(temporary)
    os.replace(temporary, target)
    sync(target.parent)


def swap_folder(finished: Path, target: Path) -> None:
    """Put a finished folder in place of ``target``, atomically where the system can.

    Linux and macOS exchange two folders in one system call. Where the file system cannot, the
    old folder is moved aside first, and a kill between the two renames leaves no folder, which
    reads as 'not made yet'; never a mixture.
    """
    for path in sorted(finished.rglob("*")):
        sync(path)
    sync(finished)
    if not target.exists():
        os.replace(finished, target)
    else:
        # Under its own name the folder would, after a kill behind the exchange, hold the old
        # files where the next build looks for its own.
        ready = temporary_beside(target)
        os.replace(finished, ready)
        finished = ready
        if not _exchange(finished, target):
            aside = temporary_beside(target)
            os.replace(target, aside)
            os.replace(finished, target)
            finished = aside
        sync(target.parent)
        shutil.rmtree(finished)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(target: PathLike, *, wait: bool = True) -> Iterator[bool]:
    """Hold the exclusive lock on a target among the processes of this machine.

    A second process waits until the first is done. The lock dies with its process, so that a
    killed one never leaves it behind. Yields whether the lock is held: not so where another
    process holds it and ``wait`` is false.
    """
    path = Path(target)
    make_folder(path.parent)
    with hold(path, wait=wait) as held:
        yield held


def _open_url(url: str) -> BinaryIO:
    import fsspec

    require_no_secret(
        url,
        "leave it to the environment (AWS_... with S3, fsspec's configuration), or fetch the file "
        "with python -m esm_sae.download and name that",
    )

    try:
        return cast(BinaryIO, cast(Any, fsspec.open(url, "rb")).open())
    except FileNotFoundError:
        raise InputError(f"{url}: no such file") from None
    except (ImportError, TypeError, ValueError) as error:
        raise InputError(f"{url}: cannot be opened ({error})") from None


def _full_disk_reason(error: Exception) -> str | None:
    """Return what an error says of a full disk, None if it is about something else."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror if error.errno in DISK_FULL else None
    text = str(error)
    # Libraries in Rust give the system's number in their message only, NumPy not even there.
    if number := re.search(r"\(os error ([0-9]+)\)", text):
        code = int(number[1])
        return os.strerror(code) if code in DISK_FULL else None
    is_cut = re.fullmatch("[0-9]+ requested and [0-9]+ written", text)
    return text if isinstance(error, OSError) and is_cut else None


def _exchange(one: Path, other: Path) -> bool:
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        rename_swap = 2
        status = library.renamex_np(first, second, rename_swap)
    elif hasattr(library, "renameat2"):
        at_working_directory, rename_exchange = -100, 2
        status = library.renameat2(
            at_working_directory, first, at_working_directory, second, rename_exchange
        )
    else:
        return False
    if status == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), os.fspath(other))
