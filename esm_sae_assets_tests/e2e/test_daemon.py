"""The whole graph as a backfill through a real `dagster dev`: code server, webserver, daemon."""

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

import pytest

from esm_sae_assets.demo import prepare_instance

pytestmark = pytest.mark.slow

DAGSTER_DEV = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1"]
DAGSTER_DEV += ["-m", "esm_sae_assets.definitions"]
SECONDS_TO_ANSWER = 120
SECONDS_TO_FINISH = 900

LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""
STATUS = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status error { message } }
  }
}"""
MATERIALISED = """
{ assetNodes { assetKey { path } assetMaterializations(limit: 100) { partition } } }"""


@pytest.fixture
def project(tmp_path, small_environment):
    """A project folder with an instance of its own and the graph made small."""
    prepare_instance(tmp_path)
    settings = small_environment | {
        "ESM_SAE_DATA_ROOT": str(tmp_path / "data"),
        # A run takes the daemon seconds: second seeds and the untrained encoder are left out here.
        "ESM_SAE_SAE_REPLICATE": "false",
        "ESM_SAE_SAE_UNTRAINED_BASELINE": "false",
    }
    lines = (f"{name}={value}" for name, value in settings.items())
    with (tmp_path / ".env").open("a") as file:
        file.write("\n".join(lines) + "\n")
    return tmp_path


def test_a_backfill_over_all_assets_materialises_the_whole_graph(project):
    with _dagster_dev(project) as ask:
        nodes = ask("{ assetNodes { assetKey { path } partitionKeys } }")["assetNodes"]
        assert len(nodes) == 23
        launched = ask(
            LAUNCH,
            params={
                "assetSelection": [node["assetKey"] for node in nodes],
                "allPartitions": True,
            },
        )["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        status = _wait_for_backfill(ask, launched["backfillId"])
        assert status == "COMPLETED_SUCCESS"
        for node in ask(MATERIALISED)["assetNodes"]:
            wanted = next(n for n in nodes if n["assetKey"] == node["assetKey"])["partitionKeys"]
            made = {event["partition"] for event in node["assetMaterializations"]}
            assert made == (set(wanted) or {None}), node["assetKey"]
    assert (project / "data/analysis/L32_k4/report.html").is_file()
    assert (project / "data/embedding_clusters.html").is_file()


@contextlib.contextmanager
def _dagster_dev(project):
    port = _free_port()
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith("ESM_SAE_")
    }
    variables.pop("DAGSTER_HOME", None)
    with (project / "dagster.log").open("wb") as log:
        process = subprocess.Popen(
            [*DAGSTER_DEV, "-p", str(port)],
            cwd=project,
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield _wait_for_answer(f"http://127.0.0.1:{port}/graphql", process, project)
        finally:
            _stop(process)


def _wait_for_answer(url, process, project):
    def ask(query, **variables):
        request = urllib.request.Request(
            url,
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    deadline = time.monotonic() + SECONDS_TO_ANSWER
    while time.monotonic() < deadline:
        assert process.poll() is None, (project / "dagster.log").read_text()
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            ask("{ version }")
            return ask
        time.sleep(0.5)
    raise AssertionError((project / "dagster.log").read_text())


def _wait_for_backfill(ask, backfill):
    deadline = time.monotonic() + SECONDS_TO_FINISH
    while time.monotonic() < deadline:
        status = ask(STATUS, id=backfill)["partitionBackfillOrError"]["status"]
        if status not in ("REQUESTED", "CANCELING"):
            return status
        time.sleep(2)
    raise AssertionError("the backfill did not finish in time")


def _stop(process):
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
