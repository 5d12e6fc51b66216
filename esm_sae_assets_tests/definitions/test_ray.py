"""deploy/ray as dagster-ray understands it; the cluster itself is in e2e/test_ray.py."""

import runpy
from pathlib import Path

import pytest
import yaml

from esm_sae.errors import InputError

pytest.importorskip("dagster_ray", reason="needs make test-all EXTRAS=dev,deploy")

DEFINITIONS = Path(__file__).resolve().parents[2] / "deploy" / "ray" / "definitions.py"


@pytest.fixture
def load(monkeypatch):
    """Return a function that loads the code location with given variables."""

    def load_with(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(DEFINITIONS))["defs"]

    return load_with


def test_every_step_gets_cores_and_settings_and_only_the_pool_gpu_gpus(load):
    defs = load(
        ESM_SAE_DATA_ROOT="/shared",
        ESM_SAE_STEPS_CPUS="4",
        ESM_SAE_STEPS_MEMORY_GB="16",
        AWS_SECRET_ACCESS_KEY="secret",
    )
    given = _executor_config(defs)
    assert (given["num_cpus"], given["memory"]) == (4, 16_000_000_000)
    assert {"ESM_SAE_DATA_ROOT", "ESM_SAE_STEPS_CPUS"} <= set(given["env_vars"])
    assert all(name.startswith("ESM_SAE_") for name in given["env_vars"])
    # A number of GPUs here would be that of every step.
    assert not given.get("num_gpus")
    assert _gpus(defs) == {True: {1}, False: {0}}


def test_a_cluster_without_gpus_is_a_setting(load):
    defs = load(ESM_SAE_DATA_ROOT="/shared", ESM_SAE_STEPS_GPUS="0")
    assert "memory" not in _executor_config(defs)
    assert _gpus(defs) == {True: {0}, False: {0}}


def test_what_steps_ask_for_makes_nothing_stale(load):
    assert _code_versions(load(ESM_SAE_DATA_ROOT="/shared")) == _code_versions(
        load(ESM_SAE_STEPS_GPUS="0", ESM_SAE_STEPS_CPUS="8", ESM_SAE_STEPS_MEMORY_GB="4")
    )


def test_the_instance_is_that_of_postgres_with_more_slots_and_logs_left_to_ray():
    deployed = yaml.safe_load((DEFINITIONS.parent / "dagster.yaml").read_text())
    other = yaml.safe_load((DEFINITIONS.parents[1] / "postgres" / "dagster.yaml").read_text())
    assert deployed.pop("compute_logs")["class"] == "NoOpComputeLogManager"
    assert deployed["concurrency"]["pools"].pop("default_limit") == 2
    assert other["concurrency"]["pools"].pop("default_limit") == 1
    assert deployed == other


def test_every_job_is_on_ray(load):
    defs = load(ESM_SAE_DATA_ROOT="/shared")
    assert {defs.resolve_job_def(job.name).executor_def.name for job in defs.jobs} == {"ray"}
    assert defs.resolve_implicit_global_asset_job_def().executor_def.name == "ray"


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ESM_SAE_DATA_ROOT", "data_root"),
        ("ESM_SAE_SOURCE", "source"),
        ("ESM_SAE_SIMILARITY_CLUSTERS", "similarity_clusters"),
        ("ESM_SAE_EMBEDDING_WEIGHTS", "embedding.weights"),
        ("ESM_SAE_CLUSTERS_TAXONOMY", "clusters.taxonomy"),
        ("ESM_SAE_ANALYSIS_ANNOTATIONS", "analysis.annotations"),
    ],
)
def test_a_path_that_each_machine_would_read_differently_is_refused(load, variable, name):
    variables = {"ESM_SAE_DATA_ROOT": "/shared"} | {variable: "some/file"}
    with pytest.raises(InputError, match=f"settings: {name} = 'some/file' is relative; on Ray"):
        load(**variables)


def test_urls_are_as_good_as_absolute_paths(load):
    load(ESM_SAE_DATA_ROOT="s3://bucket/data", ESM_SAE_SOURCE="https://example.org/a.fasta.gz")


def _executor_config(defs):
    config = defs.executor.apply_config_mapping({"config": {}})
    assert config.success, config.errors
    return {name: value for name, value in config.value["config"]["ray"].items() if value}


def _code_versions(defs):
    graph = defs.resolve_asset_graph()
    return {key: graph.get(key).code_version for key in graph.materializable_asset_keys}


def _gpus(defs):
    """The numbers of GPUs that steps in the pool gpu ask for, and those that others do."""
    from dagster_ray.configs import RayExecutionConfig

    graph = defs.resolve_asset_graph()
    asked = {True: set(), False: set()}
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        tags = node.assets_def.op.tags
        asked["gpu" in node.pools].add(RayExecutionConfig.from_tags(tags).num_gpus or 0)
    return asked
