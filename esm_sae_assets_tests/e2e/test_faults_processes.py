"""Processes are killed half way through a step; a rerun ends with an undisturbed run's bytes."""

import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from dagster_dev import Ask, dagster_dev
from esm_sae.formats.manifest import unfinished_in
from esm_sae_assets.demo import prepare_instance
from faults import (
    GATED,
    KS,
    SHARDS,
    Gate,
    daemon_of,
    ended,
    hashes_in,
    is_running,
    kill,
    launch_job,
    look_at,
    make_undisturbed,
    parent_of,
    reload_code,
    taken_slots,
    wait_until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("ps") is None, reason="needs ps: on Debian, apt install procps"
    ),
]

QUEUE = """
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
"""


class Stage(NamedTuple):
    """A partitioned asset: its job, its two partitions, and what its progress says of one."""

    job: str
    partitions: tuple[str, str]
    progress: str
    folder: str


STAGES = {
    "embedding": Stage("embed_shards", SHARDS, "shard {}", "embeddings3"),
    "training": Stage("train_autoencoders", KS, "k={}", "."),
}


@pytest.fixture(params=[pytest.param("embedding", marks=pytest.mark.long), "training"])
def stage(request: pytest.FixtureRequest) -> Stage:
    return STAGES[request.param]


@pytest.fixture
def environment(small_environment: dict[str, str]) -> dict[str, str]:
    """The small graph, each step of which comes half way long before its end."""
    return small_environment | {
        "ESM_SAE_EMBEDDING_BATCH_TOKENS": "512",
        "ESM_SAE_SAE_NUM_EPOCHS": "2",
        "ESM_SAE_SAE_CHECKPOINT_EVERY": "1",
        "ESM_SAE_SAE_REPLICATE": "false",
        "ESM_SAE_SAE_UNTRAINED_BASELINE": "false",
    }


@pytest.fixture
def undisturbed(tmp_path: Path, environment: dict[str, str]) -> Path:
    root = tmp_path / "undisturbed"
    make_undisturbed(root, environment)
    return root


@pytest.fixture
def project(tmp_path: Path, environment: dict[str, str], undisturbed: Path, stage: Stage) -> Path:
    """A project folder with all that comes before the stage, whose instance looks often."""
    folder = tmp_path / "project"
    folder.mkdir()
    file = prepare_instance(folder) / "dagster.yaml"
    template = file.read_text()
    for slow, quick in (
        ("poll_interval_seconds: 30", "poll_interval_seconds: 2"),
        ("free_slots_after_run_end_seconds: 60", "free_slots_after_run_end_seconds: 2"),
    ):
        assert slow in template
        template = template.replace(slow, quick)
    file.write_text(template + QUEUE)
    settings = environment | {"ESM_SAE_DATA_ROOT": str(folder / "data")}
    with (folder / ".env").open("a") as lines:
        lines.writelines(f"{name}={value}\n" for name, value in settings.items())
    of_stage = "embeddings3" if stage is STAGES["embedding"] else "L32_k*"
    shutil.copytree(undisturbed, folder / "data", ignore=shutil.ignore_patterns(of_stage))
    return folder


def test_whatever_is_killed_half_way_a_rerun_completes_with_the_same_bytes(
    stage: Stage, project: Path, undisturbed: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    output = project / "data" / stage.folder
    first, second = stage.partitions
    with dagster_dev(project, GATED, **gate.variables) as ask:
        _kill_the_step(ask, gate, stage, first)
        assert unfinished_in(output)
        failed, writer = _kill_the_run_worker_of_a_step_that_hangs(ask, gate, stage, first)
        _kill_the_code_server_while_a_second_writer_waits(ask, gate, stage, first, writer)
        assert look_at(ask, failed).says("its step ends here")
        reload_code(ask)
        killed = _kill_the_daemon_and_all_else(ask, gate, stage, second, project)
        assert unfinished_in(output)
    gate.open()
    with dagster_dev(project, GATED, **gate.variables) as ask:
        assert ended(ask, killed).status == "FAILURE"
        assert look_at(ask, killed).says("is gone")
        wait_until(lambda: taken_slots(ask) == 0, "the slot of a run without process stayed taken")
        assert ended(ask, launch_job(ask, stage.job, second)).status == "SUCCESS"
    expected = hashes_in(undisturbed)
    if stage is STAGES["embedding"]:
        del expected["embeddings3/manifest.json"]
    assert hashes_in(project / "data") == expected


def _kill_the_step(ask: Ask, gate: Gate, stage: Stage, partition: str) -> None:
    run, step = _hold(ask, gate, stage, partition)
    assert taken_slots(ask) == 1
    kill(step)
    failed = ended(ask, run)
    assert failed.status == "FAILURE"
    assert failed.says("was terminated by signal 9 (SIGKILL)")
    wait_until(lambda: taken_slots(ask) == 0, "the slot of a killed step stayed taken")


def _kill_the_run_worker_of_a_step_that_hangs(
    ask: Ask, gate: Gate, stage: Stage, partition: str
) -> tuple[str, int]:
    """Return the run, which fails, and the step, which keeps its output locked meanwhile."""
    run, step = _hold(ask, gate, stage, partition)
    # Stopped, it cannot end with its run.
    os.kill(step, signal.SIGSTOP)
    kill(parent_of(step))
    failed = ended(ask, run)
    assert failed.status == "FAILURE"
    # The code server and run monitoring both notice.
    assert failed.says("was terminated by signal 9 (SIGKILL)") or failed.says("is gone")
    wait_until(lambda: taken_slots(ask) == 0, "the slot of a killed run stayed taken")
    assert is_running(step)
    return run, step


def _kill_the_code_server_while_a_second_writer_waits(
    ask: Ask, gate: Gate, stage: Stage, partition: str, first_writer: int
) -> None:
    run = launch_job(ask, stage.job, partition)
    waits = f"process {first_writer} on "
    wait_until(lambda: look_at(ask, run).says(waits), "the second writer did not wait")
    kill(parent_of(look_at(ask, run).process))
    os.kill(first_writer, signal.SIGCONT)
    wait_until(lambda: not is_running(first_writer), "a step outlived its run")
    gate.open()
    assert ended(ask, run).status == "SUCCESS"


def _kill_the_daemon_and_all_else(
    ask: Ask, gate: Gate, stage: Stage, partition: str, project: Path
) -> str:
    """Return the run that this leaves in progress, with no process."""
    run, step = _hold(ask, gate, stage, partition)
    worker = parent_of(step)
    server = parent_of(worker)
    kill(daemon_of(project))
    assert is_running(step)
    assert is_running(worker)
    # The code server first: it would tell of the run worker.
    kill(server)
    kill(worker, step)
    return run


def _hold(ask: Ask, gate: Gate, stage: Stage, partition: str) -> tuple[str, int]:
    """Launch a partition and hold it half way; return the run and the step's process."""
    gate.close(stage.progress.format(partition))
    run = launch_job(ask, stage.job, partition)
    step = gate.held()
    assert look_at(ask, run).status == "STARTED"
    return run, step
