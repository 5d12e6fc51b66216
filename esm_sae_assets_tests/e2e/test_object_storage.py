"""The whole graph with its data root on a real S3-compatible server, on several machines."""

import os
import subprocess
import sys

import dagster as dg
import pytest

from esm_sae import storage
from esm_sae_assets.demo import run_graph
from esm_sae_assets.settings import load_settings
from esm_sae_assets.summary import summarise
from s3_server import CREDENTIALS, s3_server

pytestmark = pytest.mark.slow

BUCKET = "proteins"
PLACES = ("path", "manifest")

EMBED = """
import dagster as dg
from esm_sae_assets.definitions import build_defs

defs = build_defs()
names = ["uniref50_fasta", "uniref50_10M_sample", "uniref50_1M_sample"]
steps = [(name, None) for name in names]
steps += [("embedding_shards", f"000{shard}-of-0002") for shard in range(2)]
with dg.DagsterInstance.ephemeral() as instance:
    for name, partition in steps:
        dg.materialize(
            list(defs.assets), selection=[name], partition_key=partition,
            resources=dict(defs.resources), instance=instance,
        )
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    for package in ("s3fs", "moto"):
        pytest.importorskip(package, reason="needs the extra: make test-all EXTRAS=dev,deploy")
    with s3_server(tmp_path, BUCKET) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def test_the_graph_on_object_storage_over_several_machines(server, tmp_path, small_environment):
    environment = small_environment | {"ESM_SAE_SAE_KS": "2"}

    def machine(name):
        there = {"ESM_SAE_DATA_ROOT": f"s3://{BUCKET}/run", "ESM_SAE_CACHE": str(tmp_path / name)}
        return environment | there

    # Two machines make the same shards at once, a third goes on.
    in_processes(EMBED, [machine("one"), machine("two")])
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        run_graph(load_settings(machine("three")), instance)
        shown = metadata_in(instance)
        assert all(each["unchanged"] for each in shown["embedding_shards"])
        places = [each[name] for made in shown.values() for each in made for name in PLACES]
        assert [place for place in places if not place.startswith(f"s3://{BUCKET}/run")] == []
        assert run_graph(load_settings(machine("four")), instance).materialised == 0

    # To another Dagster instance nothing is known: every step finds its output on the store.
    before = server.written()
    with dg.DagsterInstance.ephemeral() as instance:
        run_graph(load_settings(machine("five")), instance)
        made = [each for made in metadata_in(instance).values() for each in made]
        assert all(each["unchanged"] for each in made)
        assert "FVU held out" in summarise(load_settings(machine("five")))
    assert server.written() == before

    with dg.DagsterInstance.ephemeral() as instance:
        settings = load_settings(environment | {"ESM_SAE_DATA_ROOT": str(tmp_path / "local")})
        run_graph(settings, instance)
    local = files_in(tmp_path / "local")
    assert {"embeddings3/embeddings_0001-of-0002.npy", "L32_k2/config.json"} < local.keys()
    assert files_in(tmp_path / "five" / "s3" / BUCKET / "run") == local
    for root in ("instance", "three", "five"):
        for path in (tmp_path / root).rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert not [value for value in CREDENTIALS.values() if value.encode() in content], path


def in_processes(code, environments):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors


def metadata_in(instance):
    """Return what each materialisation of each asset that a step makes shows, by asset."""
    found = {}
    for key in instance.all_asset_keys():
        records = instance.fetch_materializations(key, limit=10).records
        shown = [
            {name: entry.value for name, entry in record.asset_materialization.metadata.items()}
            for record in records
        ]
        found[key.to_user_string()] = [each for each in shown if "manifest" in each]
    return found


def files_in(root):
    """Return the hashes of the data files, which are a function of what they are made from."""
    return {
        path.relative_to(root).as_posix(): storage.sha256_of(path)
        for path in root.rglob("*")
        if path.is_file()
        and ".store" not in path.parts
        and path.name != "run.json"
        and not path.name.endswith("manifest.json")
    }
