"""A damaged shard and a locked database, met by real runs."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from esm_sae_assets.demo import prepare_instance
from faults import SHARDS, hashes_in, make_undisturbed

pytestmark = pytest.mark.slow

SHARD = "embeddings_0001-of-0002.npy"

Outcome = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, small_environment: dict[str, str]
) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "data"
    make_undisturbed(root, small_environment)
    return root


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of an instance whose databases are there."""
    home = prepare_instance(tmp_path)
    with dg.DagsterInstance.from_config(str(home)):
        return home


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def start(
    home: Path, root: Path, small_environment: dict[str, str]
) -> Callable[..., "subprocess.Popen[str]"]:
    """Return a function that starts a run of an asset, or of one partition of it."""
    inherited = {name: value for name, value in os.environ.items() if name[:8] != "ESM_SAE_"}
    variables = {"ESM_SAE_DATA_ROOT": str(root), "DAGSTER_HOME": str(home)}

    def start(asset: str, partition: str | None = None) -> subprocess.Popen[str]:
        line = ["dagster", "asset", "materialize", "-m", "esm_sae_assets.definitions"]
        line += ["--select", asset, *(["--partition", partition] if partition else [])]
        return subprocess.Popen(
            [sys.executable, "-m", *line],
            # Where there is no .env, which would name another instance.
            cwd=home.parent,
            env=inherited | small_environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def test_a_flipped_byte_is_found_before_training_on_it(
    root: Path, undisturbed: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    shutil.copytree(undisturbed, root, ignore=shutil.ignore_patterns("L32_k*"))
    _flip_a_bit(root / "embeddings3" / SHARD)
    said = f"{SHARD}: its bytes differ from what its manifest records; embed this shard again"

    code, output = _ended(start("sae_checkpoint", "2"))
    assert code != 0
    assert said in output
    assert not list(root.glob("*L32_k2*"))

    line = ["--np_dir", str(root / "embeddings3"), "--project", "x", "--latent_dim", "32"]
    command = subprocess.run(
        [sys.executable, "-m", "esm_sae.train", *line, "--output", str(root / "L32_k2")],
        capture_output=True,
        text=True,
    )
    assert command.returncode == 2
    assert said in command.stderr.splitlines()[-1]

    for asset, partition in (("embedding_shards", SHARDS[1]), ("sae_checkpoint", "2")):
        code, output = _ended(start(asset, partition))
        assert code == 0, output
    expected = hashes_in(undisturbed)
    assert hashes_in(root).items() <= expected.items()
    assert "L32_k2/manifest.json" in hashes_in(root)


def test_runs_wait_for_a_database_that_is_locked_for_seconds(
    root: Path, home: Path, undisturbed: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    shutil.copytree(undisturbed, root, ignore=shutil.ignore_patterns("L32_k*", "embeddings3"))
    with _locked_again_and_again(home) as held:
        runs = [start("embedding_shards", shard) for shard in SHARDS]
        runs.append(start("uniref50_1M_sample"))
        for run in runs:
            code, output = _ended(run)
            assert code == 0, output
    assert min(held.values()) > 1
    expected = hashes_in(undisturbed)
    assert hashes_in(root).items() <= expected.items()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        made = instance.get_materialized_partitions(dg.AssetKey("embedding_shards"))
    assert made == set(SHARDS)


def test_a_database_that_stays_locked_fails_the_run_and_harms_nothing(
    root: Path, home: Path, undisturbed: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    shutil.copytree(undisturbed, root)
    before = hashes_in(root)
    with _lock(home / "history" / "runs.db"):
        code, output = _ended(start("uniref50_1M_sample"))
    assert code != 0
    assert "database is locked" in output
    assert hashes_in(root) == before
    code, output = _ended(start("uniref50_1M_sample"))
    assert code == 0, output
    assert hashes_in(root) == before


def _ended(run: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = run.communicate()
    return run.returncode, output


def _flip_a_bit(path: Path) -> None:
    """Change a file as a bad disk does, which leaves its size and time."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextlib.contextmanager
def _locked_again_and_again(home: Path) -> Iterator[dict[str, int]]:
    """Hold each database of an instance for seconds at a time; yield how often so far."""
    stop = threading.Event()
    # Dagster waits 5 s for the first two and 30 s for the last.
    seconds = {"history/runs.db": 2, "schedules/schedules.db": 2, "history/runs/index.db": 4}
    held = dict.fromkeys(seconds, 0)

    def hold(name: str) -> None:
        while not stop.is_set():
            with _lock(home / name):
                held[name] += 1
                stop.wait(seconds[name])
            stop.wait(1.5)

    threads = [threading.Thread(target=hold, args=[name]) for name in seconds]
    for thread in threads:
        thread.start()
    try:
        yield held
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def _lock(database: Path) -> Iterator[None]:
    """Hold the lock that writers of a database need."""
    with contextlib.closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")
        yield
        held.rollback()
