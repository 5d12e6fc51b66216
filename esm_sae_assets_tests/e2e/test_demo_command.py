"""`python -m esm_sae_assets.demo`, which is what `make demo` runs, on a small input."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_the_demo_makes_everything_and_then_only_what_is_missing(tmp_path, small_environment):
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


def _demo(folder, environment):
    return subprocess.run(
        [sys.executable, "-m", "esm_sae_assets.demo"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
