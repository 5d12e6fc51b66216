"""The launcher notices that a run's process is gone, and takes no other for it."""

import os
import shutil
import socket
import subprocess
import sys
import time

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RegisteredCodeLocationOrigin,
    RemoteRepositoryOrigin,
)

from esm_sae_assets.demo import prepare_instance
from esm_sae_assets.run_launcher import WatchedRunLauncher
from esm_sae_assets.run_processes import (
    _CLOCKS_AT_START,
    HOST_TAG,
    _runs_since,
    _seconds,
    fail_abandoned_runs,
)

pytestmark = pytest.mark.skipif(
    shutil.which("ps") is None, reason="needs ps: on Debian, apt install procps"
)


@pytest.fixture
def instance(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", "")
    with dg.DagsterInstance.from_config(str(prepare_instance(tmp_path))) as instance:
        yield instance


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def run_started_by(instance, process, *, server=None, host=None, said="Started process for run"):
    """Record a run of a code server, or else of the machine ``host``."""
    job = dg.define_asset_job("job").resolve(asset_graph=dg.Definitions().resolve_asset_graph())
    origin = None
    if host is None:
        server = server or RegisteredCodeLocationOrigin("esm_sae")
        origin = RemoteRepositoryOrigin(server, "__repository__").get_job_origin("job")
    run = instance.create_run_for_job(
        job,
        status=dg.DagsterRunStatus.STARTED,
        remote_job_origin=origin,
        tags={"esm_sae/launched_by": "demo"} | ({HOST_TAG: host} if host else {}),
    )
    if process is not None:
        instance.report_engine_event(f"{said} (pid: {process}).", run)
    return run


def test_run_monitoring_asks_the_launcher_of_the_template(instance):
    assert isinstance(instance.run_launcher, WatchedRunLauncher)
    assert instance.run_monitoring_enabled
    assert instance.run_launcher.supports_check_run_worker_health


def test_where_nobody_tells_of_processes_run_monitoring_does_not_ask(instance, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert not instance.run_launcher.supports_check_run_worker_health


def test_a_run_whose_process_is_gone_is_not_found(instance, gone):
    run = run_started_by(instance, gone)
    found = instance.run_launcher.check_run_worker_health(run)
    assert found == (WorkerStatus.NOT_FOUND, f"process {gone} is gone", None, None)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", WorkerStatus.NOT_FOUND),
        ("localhost", WorkerStatus.NOT_FOUND),
        ("gpu-2.example.org", WorkerStatus.RUNNING),
    ],
)
def test_processes_of_other_machines_are_let_be(instance, gone, host, status):
    server = GrpcServerCodeLocationOrigin(host, 4000)
    run = run_started_by(instance, gone, server=server)
    assert instance.run_launcher.check_run_worker_health(run).status == status


@pytest.mark.parametrize(
    "said", ["Executing steps in process", "multiprocess executor: parent process"]
)
def test_a_run_of_no_server_is_known_by_its_machine(instance, gone, said):
    here = run_started_by(instance, gone, host=socket.gethostname(), said=said)
    there = run_started_by(instance, gone, host="gpu-2", said=said)
    alive = run_started_by(instance, os.getpid(), host=socket.gethostname(), said=said)
    fail_abandoned_runs("another", instance)
    assert instance.get_run_by_id(here.run_id).status == dg.DagsterRunStatus.STARTED
    fail_abandoned_runs("demo", instance)
    states = [instance.get_run_by_id(run.run_id).status.value for run in (here, there, alive)]
    assert states == ["FAILURE", "STARTED", "STARTED"]


@pytest.mark.parametrize("step", [3_600, -3_600])
def test_a_clock_that_is_set_makes_no_process_another(monkeypatch, step):
    moment, now = time.time(), time.time
    monkeypatch.setattr(time, "time", lambda: now() + step)
    assert _runs_since(os.getpid(), moment)
    assert abs(now() - time.monotonic() - _CLOCKS_AT_START) < 60


@pytest.mark.parametrize("known", [True, False])
def test_a_run_whose_process_is_there_or_not_yet_known_is_let_be(instance, known):
    run = run_started_by(instance, os.getpid() if known else None)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING


def test_a_later_process_of_the_same_number_is_another():
    assert _runs_since(os.getpid(), time.time())
    assert not _runs_since(os.getpid(), time.time() - 1e9)


def test_the_remains_of_a_process_are_none():
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.read()
        tries = iter(range(6_000))
        while _runs_since(process.pid, time.time()):
            assert next(tries, None) is not None
            time.sleep(0.01)
        assert process.returncode is None


@pytest.mark.parametrize(
    ("elapsed", "seconds"), [("00:07", 7), ("01:02:03", 3_723), ("12-01:00:05", 1_040_405)]
)
def test_elapsed_time_is_read_in_all_its_forms(elapsed, seconds):
    assert _seconds(elapsed) == seconds
