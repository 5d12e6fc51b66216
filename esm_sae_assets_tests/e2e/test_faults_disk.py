"""The disk is full: one line says so, the old output stays, and a rerun with room completes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esm_sae import embed_uniref, sample_fasta, train
from faults import hashes_in

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).resolve().parents[1] / "support"
SCRIPT = SUPPORT / "small_disk.py"

# A tmpfs of the size that ends with the process that mounted it; no rights are needed.
MOUNT = 'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@"'
DISK = "32m"


@pytest.fixture(params=["sampling", "embedding", "training"])
def case(
    request: pytest.FixtureRequest, small_source: Path, make_shards: Callable[..., Any]
) -> tuple[Any, list[str], int, str]:
    """A command, its options, the room that is too little for it, and its output."""
    if request.param == "sampling":
        return sample_fasta, ["--fasta", str(small_source), "--n", "300"], 24_000, "sample.fasta"
    if request.param == "embedding":
        options = ["--fasta", str(small_source), "--model", "esmc_demo", "--max_len", "64"]
        options += ["--pooling", "residue", "--residues_per_protein", "4"]
        return embed_uniref, options, 24_000, "embeddings3"
    shards, _ = make_shards(proteins=100, width=64)
    options = ["--np_dir", str(shards), "--project", "x", "--latent_dim", "128", "--topk", "4"]
    options += ["--num_epochs", "2"]
    return train, options, 48_000, "L128_k4"


def test_a_full_disk_is_named_and_harms_nothing(
    case: tuple[Any, list[str], int, str], tmp_path: Path
) -> None:
    command, options, room, output = case
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    script = [sys.executable, str(SCRIPT), str(disk), str(room), command.__name__, *options]
    done = subprocess.run(
        [*_small_disk(disk), *script, "--output", str(disk / output)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["codes"] == [0, 2, 0]
    (line,) = found["said"].splitlines()
    assert line.startswith(f"error: {disk}/")
    assert line.endswith("make room and run it again")
    assert found["after"] == found["before"]
    assert command.main([*options, "--output", str(elsewhere / output), "--seed", "1"]) == 0
    assert found["in_the_end"] == hashes_in(elsewhere)
    assert found["in_the_end"] != found["before"]


def _small_disk(folder: Path) -> list[str]:
    """Return what to put before a command for which the folder is to be a disk of its own.

    Nothing where that cannot be had: not on Linux, or in a container that forbids it.
    """
    prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, DISK, str(folder)]
    try:
        possible = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    return prefix if possible else []
