"""Launches runs on this machine, and notices when the process of one is gone."""

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

from esm_sae_assets.run_processes import can_be_known, gone_process


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Dagster's launcher of runs on one machine, where no run outlives its process unnoticed.

    A run whose process and code server are both killed, as by a power cut, else stays in progress
    for ever, and its pool slots with it. Here run monitoring finds the process gone and fails the
    run. Runs of a code server on another machine are let be. Daemon and code server must see each
    other's processes: not so in two containers that share the address of one machine.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether run monitoring may ask: where the system tells of its processes."""
        return can_be_known()

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Say whether the process that executes a run in progress is there."""
        process = gone_process(run, self._instance)
        if process is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"process {process} is gone")
