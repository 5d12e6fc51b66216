"""What tests of faults share: runs to launch, processes to kill, a gate to hold steps at."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from dagster_dev import Ask
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import load_settings

START = ["uniref50_fasta", "uniref50_10M_sample", "uniref50_1M_sample"]
SHARDS = ("0000-of-0002", "0001-of-0002")
KS = ("2", "4")
GATED = "gated_definitions"

_SECONDS_TO_WAIT = 600

_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { id } }
    ... on PythonError { message }
  }
}"""
_RUN = """
query ($id: ID!) {
  runOrError(runId: $id) { ... on Run { status } }
  logsForRun(runId: $id) {
    ... on EventConnection { events { ... on MessageEvent { message } } }
  }
}"""
_POOLS = "{ instance { concurrencyLimits { activeSlotCount } } }"
_RELOAD = """
mutation ($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) {
    ... on WorkspaceLocationEntry { locationOrLoadError { __typename } }
  }
}"""


class Gate:
    """Where the steps of ``gated_definitions`` are held half way.

    Attributes:
        variables: what `dagster dev` needs in its environment for it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._closed = folder, folder / "closed"
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self.variables = {"GATE": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def close(self, work: str) -> None:
        """Hold the next step whose progress is described by something that contains ``work``."""
        for held in self._folder.glob("held.*"):
            held.unlink()
        self._closed.write_text(work)

    def open(self) -> None:
        """Let what is held go on."""
        self._closed.unlink()

    def held(self) -> int:
        """Wait until a step is held; return its process."""
        wait_until(lambda: any(self._folder.glob("held.*")), "no step came to the gate")
        (held,) = self._folder.glob("held.*")
        return int(held.suffix[1:])


class Run(NamedTuple):
    """A run as the instance has it: its status, and the lines of its log."""

    status: str
    log: list[str]

    @property
    def process(self) -> int:
        """The process of its run worker."""
        started = (
            re.search(r"Started process for run \(pid: ([0-9]+)\)", each) for each in self.log
        )
        return next(int(match[1]) for match in started if match)

    def says(self, text: str) -> bool:
        """Whether a line of its log contains a text."""
        return any(text in line for line in self.log)


def make_undisturbed(root: Path, environment: Mapping[str, str]) -> None:
    """Make the outputs of runs that nothing happens to, down to the autoencoders."""
    settings = load_settings(environment, data_root=str(root))
    defs = build_defs(settings)
    steps: list[tuple[list[str], str | None]] = [(START, None)]
    steps += [(["embedding_shards"], shard) for shard in SHARDS]
    steps += [(["embedding_manifest"], None)]
    steps += [(["sae_checkpoint"], k) for k in KS]
    with dg.DagsterInstance.ephemeral() as instance:
        for assets, partition in steps:
            dg.materialize(
                list(defs.assets or []),  # pyright: ignore[reportArgumentType]
                selection=assets,
                partition_key=partition,
                resources=dict(defs.resources or {}),
                instance=instance,
            )


def launch_job(ask: Ask, job: str, partition: str) -> str:
    """Launch a job for one partition; return the run's id."""
    selector = {
        "repositoryLocationName": GATED,
        "repositoryName": "__repository__",
        "jobName": job,
    }
    tags = {"tags": [{"key": "dagster/partition", "value": partition}]}
    launched = ask(_LAUNCH, params={"selector": selector, "executionMetadata": tags})["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return launched["run"]["id"]


def look_at(ask: Ask, run: str) -> Run:
    """Return a run as it is now."""
    found = ask(_RUN, id=run)
    events = found["logsForRun"]["events"]
    return Run(found["runOrError"]["status"], [event.get("message", "") for event in events])


def ended(ask: Ask, run: str) -> Run:
    """Wait for a run to end; return it."""
    wait_until(
        lambda: look_at(ask, run).status in ("SUCCESS", "FAILURE", "CANCELED"),
        "the run did not end",
    )
    return look_at(ask, run)


def taken_slots(ask: Ask) -> int:
    """Return how many slots of all pools are taken."""
    return sum(pool["activeSlotCount"] for pool in ask(_POOLS)["instance"]["concurrencyLimits"])


def reload_code(ask: Ask) -> None:
    """Start a code server in place of one that is gone: what "Reload" in the UI does."""

    def reloaded() -> bool:
        entry = ask(_RELOAD, name=GATED)["reloadRepositoryLocation"]
        return entry["locationOrLoadError"]["__typename"] == "RepositoryLocation"

    # The first time Dagster starts one and then fails to shut down the other.
    wait_until(reloaded, "the code was not loaded")


def parent_of(process: int) -> int:
    """Return the parent of a process."""
    return int(_ps("-o", "ppid=", "-p", str(process)))


def daemon_of(project: Path) -> int:
    """Return the daemon that runs the instance of a project folder."""
    lines = _ps("-axwwo", "pid=,command=").splitlines()
    (found,) = [line for line in lines if "dagster._daemon" in line and str(project) in line]
    return int(found.split()[0])


def is_running(process: int) -> bool:
    """Whether a process is there and is not just the remains of one."""
    return _ps("-o", "stat=", "-p", str(process)).strip()[:1] not in ("", "Z")


def kill(*processes: int) -> None:
    """Kill processes as ``kill -9`` does, and wait until they are gone."""
    for process in processes:
        # One may have ended with another.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, processes)), "a killed process goes on")


def wait_until(condition: Callable[[], Any], failure: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + _SECONDS_TO_WAIT
    while not condition():
        assert time.monotonic() < deadline, failure
        time.sleep(0.2)


def hashes_in(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _ps(*options: str) -> str:
    return subprocess.run(["ps", *options], capture_output=True, text=True).stdout
