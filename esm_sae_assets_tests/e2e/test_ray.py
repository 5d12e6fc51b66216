"""The shards of one backfill on two Ray nodes, through deploy/ray and a real `dagster dev`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import load_settings
from faults import SHARDS, START, hashes_in

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
SUPPORT = REPOSITORY / "esm_sae_assets_tests" / "support"
IN_A_NAMESPACE = ["unshare", "--map-root-user", "--net"]


@pytest.fixture
def namespace() -> list[str]:
    """The command that runs another in a network namespace with nothing but loopback."""
    for package in ("ray", "dagster_ray"):
        pytest.importorskip(package, reason="needs make test-all EXTRAS=dev,deploy")
    if shutil.which("unshare") is None:
        pytest.skip("needs Linux: only a network namespace keeps Ray from the network")
    tried = subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"needs root, or user namespaces for all: {tried.stderr.strip()}")
    return IN_A_NAMESPACE


def test_shards_of_one_backfill_run_on_two_nodes(namespace, small_project, small_environment):
    reference = small_project / "reference"
    _run_locally(small_environment, reference)
    data = small_project / "data"
    shutil.copytree(reference, data, ignore=shutil.ignore_patterns("embeddings3"))
    _use_instance_of_deploy(small_project)

    outcome = _backfill_on_ray(namespace, small_project)

    assert outcome["status"] == "COMPLETED_SUCCESS"
    [(first, one_node), (second, other_node)] = outcome["steps"]
    assert first == second == "embedding_shards"
    assert one_node != other_node
    assert hashes_in(data / "embeddings3") == hashes_in(reference / "embeddings3")


def _run_locally(environment: dict[str, str], root: Path) -> None:
    """Make the samples and the shards in this process, on no cluster."""
    defs = build_defs(load_settings(environment, data_root=str(root)))
    with dg.DagsterInstance.ephemeral() as instance:

        def materialise(assets: list[str], partition: str | None = None) -> None:
            dg.materialize(
                list(defs.assets or []),
                selection=assets,
                partition_key=partition,
                resources=dict(defs.resources or {}),
                instance=instance,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )

        materialise(START)
        for shard in SHARDS:
            materialise(["embedding_shards"], shard)


def _use_instance_of_deploy(project: Path) -> None:
    """Put the instance file of deploy/ray in place, with its records in SQLite."""
    config = yaml.safe_load((REPOSITORY / "deploy" / "ray" / "dagster.yaml").read_text())
    assert config["concurrency"]["pools"]["default_limit"] == 2
    del config["storage"]
    (project / ".dagster" / "dagster.yaml").write_text(yaml.safe_dump(config))
    with (project / ".env").open("a") as file:
        file.write("ESM_SAE_SCHEDULES_SHARDS_PER_RUN=1\n")


def _backfill_on_ray(namespace: list[str], project: Path) -> dict[str, Any]:
    meeting = project / "meeting"
    meeting.mkdir()
    paths = [str(REPOSITORY), str(SUPPORT), os.environ.get("PYTHONPATH", "")]
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "MEETING": str(meeting),
    }
    with subprocess.Popen(
        [*namespace, sys.executable, str(SUPPORT / "ray_backfill.py"), str(project)],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            printed, said = process.communicate()
        finally:
            # Asked to end it stops the cluster; killed it would leave it behind.
            process.terminate()
    assert process.returncode == 0, said
    return json.loads(printed)
