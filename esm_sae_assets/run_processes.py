"""Runs in progress whose process is gone."""

import re
import shutil
import socket
import subprocess
import time

import dagster as dg
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin

from esm_sae_assets.progress.attempts import LAUNCHED_BY_TAG

HOST_TAG = "esm_sae/host"
"""Of a run that no code server started: the machine it is on."""

# What Dagster writes into the log of every run: that of a server, of no server, or of `demo`.
_PROCESS = re.compile(
    r"(?:Started process for run|Executing steps in process|executor: parent process)"
    r" \(pid: ([0-9]+)\)"
)
_IN_PROGRESS = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_ELAPSED = re.compile(r"(?:(?:([0-9]+)-)?([0-9]+):)?([0-9]+):([0-9]+)")
_ZOMBIE = "Z"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_CLOCK_ERROR = 10.0
_CLOCKS_AT_START = time.time() - time.monotonic()


def gone_process(run: dg.DagsterRun, instance: dg.DagsterInstance) -> int | None:
    """Return the id of the process that executed a run and is gone; None where it may be there."""
    if not can_be_known() or not _is_here(run):
        return None
    for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        if match := _PROCESS.search(event.message):
            process = int(match[1])
            return None if _runs_since(process, event.timestamp) else process
    return None


def can_be_known() -> bool:
    """Whether the system tells of its processes."""
    return shutil.which("ps") is not None


def fail_abandoned_runs(launched_by: str, instance: dg.DagsterInstance) -> None:
    """Fail the runs of a launcher whose process is gone, and free their slots of the pools."""
    chosen = dg.RunsFilter(statuses=_IN_PROGRESS, tags={LAUNCHED_BY_TAG: launched_by})
    for run in instance.get_runs(chosen):
        if process := gone_process(run, instance):
            instance.report_run_failed(run, f"process {process} is gone")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _is_here(run: dg.DagsterRun) -> bool:
    """Whether the process of a run is on this machine, if it is anywhere."""
    if run.remote_job_origin is None:
        return run.tags.get(HOST_TAG) == socket.gethostname()
    server = run.remote_job_origin.repository_origin.code_location_origin
    return not isinstance(server, GrpcServerCodeLocationOrigin) or server.host in _LOOPBACK


def _runs_since(process: int, moment: float) -> bool:
    """Whether a process runs that ran at a moment; a later one may have been given its number."""
    answer = subprocess.run(
        ["ps", "-o", "stat=,etime=", "-p", str(process)], capture_output=True, text=True
    )
    if not answer.stdout.strip():
        return False
    state, elapsed = answer.stdout.split()
    # If in doubt it is that one: a clock that is set while this process runs moves the moments.
    error = _CLOCK_ERROR + abs(time.time() - time.monotonic() - _CLOCKS_AT_START)
    return state[0] != _ZOMBIE and time.time() - _seconds(elapsed) <= moment + error


def _seconds(elapsed: str) -> int:
    """Return the seconds of a time as ps gives it: ``[[days-]hours:]minutes:seconds``."""
    found = _ELAPSED.fullmatch(elapsed)
    assert found, elapsed
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
