"""A real `dagster dev`, driven over GraphQL: code server, webserver and daemon."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Ask = Callable[..., dict[str, Any]]

_DAGSTER_DEV = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1"]
_SECONDS_TO_ANSWER = 600
_SECONDS_TO_FINISH = 900

_LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""
_STATUS = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status error { message } }
  }
}"""


@contextlib.contextmanager
def dagster_dev(
    project: Path, module: str = "esm_sae_assets.definitions", **variables: str
) -> Iterator[Ask]:
    """Run `dagster dev` in a project folder; yield a function that asks its GraphQL.

    Variables named ``ESM_SAE_*`` and ``DAGSTER_HOME`` are not inherited: the folder's ``.env`` is
    read. What it prints goes to ``dagster.log`` in the folder.
    """
    port = free_port()
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("ESM_SAE_")
    }
    inherited.pop("DAGSTER_HOME", None)
    with (project / "dagster.log").open("ab") as log:
        process = subprocess.Popen(
            [*_DAGSTER_DEV, "-m", module, "-p", str(port)],
            cwd=project,
            env=inherited | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield _wait_for_answer(f"http://127.0.0.1:{port}/graphql", process, project)
        finally:
            _stop(process)


def launch_backfill(ask: Ask, assets: list[str], partitions: list[str] | None = None) -> str:
    """Launch a backfill of assets over all or some of their partitions; return its id."""
    over = {"partitionNames": partitions} if partitions else {"allPartitions": True}
    selection = [{"path": [name]} for name in assets]
    launched = ask(_LAUNCH, params={"assetSelection": selection, **over})
    launched = launched["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return launched["backfillId"]


def wait_for_backfill(ask: Ask, backfill: str) -> str:
    """Wait until a backfill has ended; return its status."""
    deadline = time.monotonic() + _SECONDS_TO_FINISH
    while time.monotonic() < deadline:
        status = ask(_STATUS, id=backfill)["partitionBackfillOrError"]["status"]
        if status not in ("REQUESTED", "CANCELING"):
            return status
        time.sleep(2)
    raise AssertionError("the backfill did not finish in time")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for_answer(url: str, process: subprocess.Popen[bytes], project: Path) -> Ask:
    def ask(query: str, **variables: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            url,
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    deadline = time.monotonic() + _SECONDS_TO_ANSWER
    while time.monotonic() < deadline:
        assert process.poll() is None, (project / "dagster.log").read_text()
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            ask("{ version }")
            return ask
        time.sleep(0.5)
    raise AssertionError((project / "dagster.log").read_text())


def _stop(process: subprocess.Popen[bytes]) -> None:
    # A test may have killed all of them.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
