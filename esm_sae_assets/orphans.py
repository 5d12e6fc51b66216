"""A step that runs in a process of its own does not outlive the process of its run."""

import multiprocessing
import os
import re
import threading

import dagster as dg

from esm_sae.progress import LOGGER

# What Dagster's multiprocess executor writes into the log of a run.
_PARENT = re.compile(r"multiprocess executor: parent process \(pid: ([0-9]+)\)")


def end_with_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """End this process, that of a step, as soon as that of the run which started it is gone.

    A killed run is failed and gives back its pool slots. A step that it left would go on beside
    the one which gets the slot, and at its end wait for ever to report, with its memory.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid not in _parents_of_steps(instance, run_id):
        return

    def end() -> None:
        parent.join()
        try:
            LOGGER.error("process %s of the run is gone; its step ends here", parent.pid)
        finally:
            os._exit(1)

    threading.Thread(target=end, name="end_with_run", daemon=True).start()


def _parents_of_steps(instance: dg.DagsterInstance, run_id: str) -> list[int]:
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    found = (_PARENT.search(event.message) for event in events)
    return [int(match[1]) for match in found if match]
