"""The README's shell lines, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_pipeline_of_commands_runs(tmp_path):
    (tmp_path / "esm_sae").symlink_to(REPOSITORY / "esm_sae")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", _shell_lines()],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "data/by_hand"
    assert (out / "analysis/report.html").is_file()
    assert len(pl.read_parquet(out / "analysis/feature_summary.parquet")) == 512
    assert (out / "embedding_clusters.json").is_file()
    assert (out / "my_proteins/report.html").is_file()


def _shell_lines():
    text = (REPOSITORY / "README.md").read_text()
    marked = re.search(r"<!-- A test runs these lines. -->\n```sh\n(.*?)```", text, re.DOTALL)
    return marked[1]
