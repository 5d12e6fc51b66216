"""Locks among the processes of a machine, which end with the process that holds them."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from esm_sae.errors import one_line
from esm_sae.progress import LOGGER

_SECONDS_IN_SILENCE = 2.0


@contextlib.contextmanager
def hold(target: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a target, a file beside it; ``storage.locked`` makes its folder too.

    Yields whether it is held: not so where another process holds it and ``wait`` is false.
    """
    lock = target.parent / f".{target.name}.lock"
    descriptor = _acquire(target, lock, wait)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(target: Path, lock: Path, wait: bool) -> int | None:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                os.close(descriptor)
                return None
            _wait_for(target, descriptor)
        # The holder before us unlinks the file on release: what we locked may no longer be what
        # the name means.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                _sign(descriptor)
                return descriptor
        os.close(descriptor)


def _wait_for(target: Path, descriptor: int) -> None:
    """Acquire a lock that another holds; after some seconds say who does."""
    saying = threading.Timer(_SECONDS_IN_SILENCE, _say_who_holds, (target, descriptor))
    saying.start()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        saying.cancel()
        saying.join()


def _sign(descriptor: int) -> None:
    """Write into a lock's file who holds it; where the disk is full, nobody is told."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)


def _say_who_holds(target: Path, descriptor: int) -> None:
    holder = os.pread(descriptor, 1_000, 0).decode(errors="replace") or "another process"
    LOGGER.warning("%s: %s is writing it; waiting until that is done", target, one_line(holder))
