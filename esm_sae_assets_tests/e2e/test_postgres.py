"""Dagster's records in a real PostgreSQL server: a backfill through a real `dagster dev`."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import pytest

from dagster_dev import Ask, dagster_dev, launch_backfill, wait_for_backfill
from esm_sae import storage
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import load_settings
from postgres_server import PostgresServer, postgres_binaries, postgres_server

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "deploy" / "postgres" / "dagster.yaml"

# With what has a meaning in a URL.
PASSWORD = "s3cr@t w/rd:#%?&"
SHARDS = ["0000-of-0002", "0001-of-0002"]
START = ["uniref50_fasta", "uniref50_10M_sample", "uniref50_1M_sample"]
SECONDS_TO_START = 180

RUNS = "{ runsOrError { ... on Runs { results { status } } } }"
EVENTS = """
{ assetNodes { assetKey { path } assetMaterializations(limit: 10) {
    partition metadataEntries { label ... on BoolMetadataEntry { boolValue } } } } }"""
INSTANCE = "{ instance { info } }"


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg2", reason="needs the extra: make test-all EXTRAS=dev,deploy")
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("needs a PostgreSQL server, such as Debian's package postgresql")
    with postgres_server(binaries, password=PASSWORD) as server:
        yield server


def test_a_backfill_on_postgres(small_project, small_environment, postgres):
    _use_postgres(small_project)
    data = small_project / "data"
    _materialise_start(small_environment, data)
    with dagster_dev(small_project, **_variables(postgres)) as ask:
        # The lock of its writer keeps the first run from ending before another begins.
        with storage.locked(data / "embeddings3" / "embeddings_0000-of-0002.npy"):
            backfills = [launch_backfill(ask, ["embedding_shards"], [key]) for key in SHARDS]
            backfills.append(launch_backfill(ask, START))
            _wait_for_runs_at_once(ask, 2)
            commands, listening = _processes_in(small_project)
        for backfill in backfills:
            assert wait_for_backfill(ask, backfill) == "COMPLETED_SUCCESS"
        # What another instance made is found to be there.
        assert [_unchanged(ask, name) for name in START] == [[True]] * 3
        assert _unchanged(ask, "embedding_shards") == [False, False]
        shown = ask(INSTANCE)["instance"]["info"]

    assert postgres.query("SELECT DISTINCT status FROM runs") == [("SUCCESS",)]
    made = postgres.query(
        "SELECT DISTINCT asset_key, partition FROM event_logs "
        "WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
    )
    assert set(made) >= {(f'["{name}"]', None) for name in START} | {
        ('["embedding_shards"]', key) for key in SHARDS
    }
    assert not [*small_project.rglob("*.db*")]

    # Dagster's other servers listen on sockets of the file system.
    assert set(listening) == {"127.0.0.1"}
    dump = postgres.dump()
    assert SHARDS[1] in dump
    assert "telemetry" in shown
    assert any("dagster" in command for command in commands)
    files = (path.read_bytes().decode("latin-1") for path in _files_of(small_project))
    for text in (dump, shown, *commands, *files):
        assert PASSWORD not in text
        assert quote(PASSWORD) not in text


def _use_postgres(project: Path) -> None:
    shutil.copy(CONFIG, project / ".dagster" / "dagster.yaml")


def _variables(postgres: PostgresServer) -> dict[str, str]:
    return {
        "DAGSTER_POSTGRES_HOST": "127.0.0.1",
        "DAGSTER_POSTGRES_PORT": str(postgres.port),
        "DAGSTER_POSTGRES_USER": postgres.user,
        "DAGSTER_POSTGRES_PASSWORD": postgres.password,
        "DAGSTER_POSTGRES_DB": postgres.database,
    }


def _materialise_start(environment: dict[str, str], data: Path) -> None:
    """Make the first assets with an instance that is not the server's."""
    defs = build_defs(load_settings(environment, data_root=str(data)))
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(
            list(defs.assets or []),
            selection=START,
            resources=dict(defs.resources or {}),
            instance=instance,
        )


def _unchanged(ask: Ask, asset: str) -> list[bool]:
    nodes = {node["assetKey"]["path"][0]: node for node in ask(EVENTS)["assetNodes"]}
    return [
        entry["boolValue"]
        for event in nodes[asset]["assetMaterializations"]
        for entry in event["metadataEntries"]
        if entry["label"] == "unchanged"
    ]


def _wait_for_runs_at_once(ask: Ask, count: int) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        statuses = [run["status"] for run in ask(RUNS)["runsOrError"]["results"]]
        if statuses.count("STARTED") >= count:
            return
        time.sleep(1)
    raise AssertionError(f"expected {count} runs at once, there are {statuses}")


def _processes_in(folder: Path) -> tuple[list[str], list[str]]:
    """Return the command lines of the processes at work in a folder, and where they listen."""
    import psutil

    commands, addresses = [], []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) != folder or process.pid == os.getpid():
                continue
            commands.append(" ".join(process.cmdline()))
            addresses += [
                connection.laddr.ip
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            ]
        except psutil.Error:
            continue
    return commands, addresses


def _files_of(project: Path) -> Iterator[Path]:
    for path in project.rglob("*"):
        if path.is_file() and not path.is_socket():
            yield path
