"""Launches runs on this machine, and notices when the process of one is gone."""

import re
import shutil
import subprocess
import time

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

# What Dagster writes into the log of every run.
_STARTED = re.compile(r"Started process for run \(pid: ([0-9]+)\)")
_ELAPSED = re.compile(r"(?:(?:([0-9]+)-)?([0-9]+):)?([0-9]+):([0-9]+)")
_ZOMBIE = "Z"
_CLOCK_ERROR = 10.0


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Dagster's launcher of runs on one machine, where no run outlives its process unnoticed.

    A run whose process and code server are both killed, as by a power cut, else stays in progress
    for ever, and its pool slots with it. Here run monitoring finds the process gone and fails the
    run. Daemon and code server must see each other's processes: not so in two containers.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether run monitoring may ask: where the system tells of its processes."""
        return shutil.which("ps") is not None

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Say whether the process that executes a run in progress is there."""
        found = self._process_of(run.run_id)
        if found is None or _runs_since(*found):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"process {found[0]} is gone")

    def _process_of(self, run_id: str) -> tuple[int, float] | None:
        """Return the id of a run's process and a time at which it ran; None where unknown."""
        for event in self._instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            if match := _STARTED.search(event.message):
                return int(match[1]), event.timestamp
        return None


def _runs_since(process: int, moment: float) -> bool:
    """Whether a process runs that ran at a moment; a later one may have been given its number."""
    answer = subprocess.run(
        ["ps", "-o", "stat=,etime=", "-p", str(process)], capture_output=True, text=True
    )
    if not answer.stdout.strip():
        return False
    state, elapsed = answer.stdout.split()
    return state[0] != _ZOMBIE and time.time() - _seconds(elapsed) <= moment + _CLOCK_ERROR


def _seconds(elapsed: str) -> int:
    """Return the seconds of a time as ps gives it: ``[[days-]hours:]minutes:seconds``."""
    found = _ELAPSED.fullmatch(elapsed)
    assert found, elapsed
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
