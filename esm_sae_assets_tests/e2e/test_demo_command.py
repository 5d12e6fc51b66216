"""`python -m esm_sae_assets.demo`, which is what `make demo` runs, on a small input."""

import os
import subprocess
import sys
import time

import dagster as dg
import pytest

pytestmark = pytest.mark.slow


def test_after_a_kill_it_makes_everything_and_then_only_what_is_missing(
    tmp_path, small_environment
):
    _kill_in_embedding(tmp_path, small_environment)
    first = _demo(tmp_path, small_environment)
    assert first.returncode == 0, first.stderr
    assert "FVU held out" in first.stdout
    assert "a small demonstration model" in first.stdout
    assert "data/analysis/L32_k2/report.html" in first.stdout
    second = _demo(tmp_path, small_environment)
    assert "0 materialised" in second.stdout
    (tmp_path / "data/analysis/L32_k2/report.html.manifest.json").unlink()
    third = _demo(tmp_path, small_environment)
    assert "1 materialised" in third.stdout


def test_a_source_that_is_missing_is_one_line(tmp_path, small_environment):
    failed = _demo(tmp_path, small_environment | {"ESM_SAE_SOURCE": "/no/such.fasta"})
    assert failed.returncode != 0
    assert "error: /no/such.fasta: no such file" in failed.stderr
    assert "Traceback" not in failed.stderr


COMMAND = [sys.executable, "-m", "esm_sae_assets.demo"]


def _demo(folder, environment):
    return subprocess.run(
        COMMAND, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )


def _kill_in_embedding(folder, environment):
    """Kill the command while its step holds the one slot of the pool gpu."""
    with (folder / "log").open("w") as log:
        demo = subprocess.Popen(COMMAND, cwd=folder, env=os.environ | environment, stderr=log)
    tries = iter(range(3_000))
    while "embedding_shards" not in (folder / "log").read_text() or not _slots_taken(folder):
        assert demo.poll() is None, (folder / "log").read_text()
        assert next(tries, None) is not None
        time.sleep(0.1)
    demo.kill()
    demo.wait()
    assert _slots_taken(folder) == 1


def _slots_taken(folder):
    with dg.DagsterInstance.from_config(str(folder / ".dagster")) as instance:
        return instance.event_log_storage.get_concurrency_info("gpu").active_slot_count
