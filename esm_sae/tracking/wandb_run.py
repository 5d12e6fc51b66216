"""A training as a run of Weights & Biases."""

import os
import shutil
from pathlib import Path

from esm_sae.progress import LOGGER
from esm_sae.tracking.followed import Row, TrackedRun

# wandb would report its own troubles to its makers. It reads this when it is imported.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
import wandb

_SECONDS_TO_OPEN, _SECONDS_TO_FINISH = 30, 60
_OFFLINE = ("offline", "dryrun")


class WandbRun:
    """A run whose id comes from the training's fingerprint: one that goes on, goes on in it.

    Where a server has the run, it is told the rows that it lacks. Offline a killed process leaves a
    folder with an unknown part of its rows: a new one takes its place, with the whole record.
    """

    def __init__(self, directory: Path, run: TrackedRun) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        offline = wandb.setup().settings.mode in _OFFLINE
        identifier = run.fingerprint[:32]
        if offline:
            _remove_unsent(directory, identifier)
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=identifier,
            config=dict(run.config),
            dir=str(directory),
            # Offline there is nothing to resume, which would be warned of.
            resume=None if offline else "allow",
            reinit="create_new",
            settings=wandb.Settings(
                # Nothing of the machine but its load: no output, code, paths or user's name.
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
                silent=True,
                init_timeout=_SECONDS_TO_OPEN,
                finish_timeout=_SECONDS_TO_FINISH,
                finish_timeout_raises=True,
            ),
        )
        place = f"offline in {self._run.settings.sync_dir}" if offline else f"at {self._run.url}"
        LOGGER.info(f"{run.name}: tracked by wandb {place}")
        for row in run.rows:
            self.log(row)

    def log(self, row: Row) -> None:
        """Send a row, unless the server has a later one."""
        step = row["step"]
        if step < self._run.step:
            return
        figures = {name: value for name, value in row.items() if value is not None}
        del figures["step"]
        self._run.log(figures, step=step, commit=True)

    def finish(self, summary: Row | None) -> None:
        """Send the summary and wait until all is sent, for a minute at most."""
        if summary is not None:
            self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if summary is not None else 1)


def _remove_unsent(directory: Path, identifier: str) -> None:
    for folder in sorted((directory / "wandb").glob(f"offline-run-*-{identifier}")):
        # Sent ones are no longer in anyone's way.
        if not list(folder.glob("*.synced")):
            shutil.rmtree(folder)
