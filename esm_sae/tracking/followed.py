"""The trackers of a training, of which none can end or change it."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from esm_sae.errors import one_line
from esm_sae.progress import LOGGER
from esm_sae.tracking.names import require_trackers
from esm_sae.url_secrets import without_secrets

Row = Mapping[str, Any]

_KEY = "WANDB_API_KEY"
_DEFAULT_PROJECT = "esm_sae"


class TrackedRun(NamedTuple):
    """What a tracker is told of a training before its first step.

    Attributes:
        name: such as ``L1024_k16``.
        project: name of the group of runs.
        fingerprint: of all that determines the training; one that goes on after a kill has the
            same.
        config: its options, and what it is trained on.
        rows: the rows of its record so far, each with its ``step``.
    """

    name: str
    project: str
    fingerprint: str
    config: Row
    rows: Sequence[Row]


class Tracker(Protocol):
    """Where the course of one training is shown. Its methods may raise anything."""

    def log(self, row: Row) -> None:
        """Show the figures of a row at its ``step``; those that are None were not measured."""
        ...

    def finish(self, summary: Row | None) -> None:
        """Show the figures at the end; None where the training ended early. Called once."""
        ...


class Trackers:
    """The trackers of one training: what fails is warned of once and told nothing more."""

    def __init__(self, run: str = "") -> None:
        self._run = run
        self._trackers: dict[str, Tracker] = {}

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_: object) -> None:
        self.finish(None)

    def add(self, name: str, open_tracker: Callable[[], Tracker]) -> bool:
        """Open a tracker; return whether that could be done."""
        return self._attempt(name, lambda: self._trackers.update({name: open_tracker()}))

    def log(self, row: Row) -> None:
        """Show a row in all of them."""
        for name, tracker in list(self._trackers.items()):
            if not self._attempt(name, lambda tracker=tracker: tracker.log(row)):
                del self._trackers[name]
                # What it holds; that it cannot end orderly is no news.
                self._attempt(name, lambda tracker=tracker: tracker.finish(None), warn=False)

    def finish(self, summary: Row | None) -> None:
        """End all of them; None where the training ended early."""
        trackers, self._trackers = self._trackers, {}
        for name, tracker in trackers.items():
            self._attempt(name, lambda tracker=tracker: tracker.finish(summary))

    def _attempt(self, name: str, action: Callable[[], None], *, warn: bool = True) -> bool:
        try:
            action()
        # Whatever a tracker comes upon, the training goes on.
        except Exception as error:
            if warn:
                LOGGER.warning(
                    f"{self._run}: no longer tracked by {name} ({_reason(error)}); the training "
                    "goes on"
                )
            return False
        return True


@dataclass
class Tracking:
    """Which trackers follow the trainings of a process, and where they keep their files.

    Attributes:
        names: of ``TRACKERS``.
        directory: folder of their files.
    """

    names: Sequence[str] = ()
    directory: Path = Path("tracking")
    _unavailable: set[str] = field(default_factory=set, repr=False)

    def require(self) -> None:
        """Check that the trackers can be had.

        Raises:
            InputError: as ``require_trackers``.
        """
        require_trackers(self.names)

    def follow(self, run: TrackedRun) -> Trackers:
        """Return the trackers of a training, as a context that ends them."""
        run = run._replace(project=_plain(run.project) or _DEFAULT_PROJECT, name=_plain(run.name))
        trackers = Trackers(run.name)
        for name in self.names:
            # One that cannot be reached is not waited for once per training.
            if name not in self._unavailable and not trackers.add(name, self._opener(name, run)):
                self._unavailable.add(name)
        return trackers

    def _opener(self, name: str, run: TrackedRun) -> Callable[[], Tracker]:
        def open_tracker() -> Tracker:
            if name == "tensorboard":
                from esm_sae.tracking.tensorboard_events import TensorBoardEvents

                return TensorBoardEvents(self.directory / name, run)
            from esm_sae.tracking.wandb_run import WandbRun

            return WandbRun(self.directory, run)

        return open_tracker


def _plain(name: str) -> str:
    """Return a name as a folder and a tracker's server take it."""
    return re.sub(r"[^\w. -]", "_", name).strip(" .")


def _reason(error: Exception) -> str:
    text = without_secrets(one_line(str(error)))
    if key := os.environ.get(_KEY):
        text = text.replace(key, "...")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
