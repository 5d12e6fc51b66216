"""How far a killed build has come, so that the next one goes on from there."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from esm_sae import storage
from esm_sae.embedding.passes import State
from esm_sae.errors import InputError

_NAME = "journal.json"
_SECONDS_BETWEEN_ENTRIES = 5.0


class Journal:
    """The record, in a work folder, of how far passes have come.

    An entry is written after the rows of all batches that it counts have reached the disk.
    """

    def __init__(self, folder: Path, matrices: Sequence[np.memmap]) -> None:
        """Start to keep the record.

        Args:
            folder: the work folder.
            matrices: what the passes fill.
        """
        self._path = folder / _NAME
        self._matrices = matrices
        self._last = time.monotonic()

    def note(self, state: State) -> None:
        """Record a state, where the last entry is some seconds old."""
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_ENTRIES:
            self.write(state)

    def write(self, state: State) -> None:
        """Record a state; where the disk is full, the last entry stays instead."""
        try:
            for matrix in self._matrices:
                matrix.flush()
            storage.publish_json(self._path, state._asdict())
        except OSError as error:
            if error.errno not in storage.DISK_FULL:
                raise
        self._last = time.monotonic()


def read_journal(folder: Path) -> State | None:
    """Return the last recorded state, None where there is none that can be one."""
    path = folder / _NAME
    if not path.is_file():
        return None
    try:
        state = State(**storage.read_json(path))
    except (InputError, TypeError):
        return None
    least = State(pieces=1, batch_tokens=1, tokens=1)
    usable = all(
        type(value) is int and value >= bound for value, bound in zip(state, least, strict=True)
    )
    return state if usable else None


def remove_journal(folder: Path) -> None:
    """Forget what was recorded: what it counts is no longer there."""
    (folder / _NAME).unlink(missing_ok=True)
