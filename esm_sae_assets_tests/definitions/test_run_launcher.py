"""The launcher notices that a run's process is gone, and takes no other for it."""

import os
import shutil
import subprocess
import sys
import time

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus

from esm_sae_assets.demo import prepare_instance
from esm_sae_assets.run_launcher import WatchedRunLauncher, _runs_since, _seconds

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


def run_started_by(instance, process):
    job = dg.define_asset_job("job").resolve(asset_graph=dg.Definitions().resolve_asset_graph())
    run = instance.create_run_for_job(job)
    if process is not None:
        instance.report_engine_event(f"Started process for run (pid: {process}).", run)
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
