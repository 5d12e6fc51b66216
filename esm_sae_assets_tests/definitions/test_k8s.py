"""deploy/k8s against what dagster-k8s itself parses and builds; no cluster is needed."""

import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._config import process_config

pytest.importorskip("dagster_k8s", reason="needs make test-all EXTRAS=dev,deploy")

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy" / "k8s"
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def values():
    return yaml.load((DEPLOY / "values.yaml").read_text(), _NoKeyTwice)


@pytest.fixture(scope="module")
def code_location(values):
    [deployment] = values["dagster-user-deployments"]["deployments"]
    return deployment


@pytest.fixture
def build_defs(monkeypatch, code_location):
    """Return a function that builds the definitions with the variables of the values."""

    def build(**variables):
        for entry in code_location["env"]:
            monkeypatch.setenv(entry["name"], entry["value"])
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(DEPLOY / "definitions.py"))["defs"]

    return build


@pytest.fixture
def launcher(values, monkeypatch):
    """The run launcher, from the part of dagster.yaml that the chart makes of the values."""
    import kubernetes
    from dagster_k8s import K8sRunLauncher

    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    raw = given["runK8sConfig"]
    assert given.keys() == {"imagePullPolicy", "runK8sConfig"}
    assert raw.keys() == {"containerConfig", "podSpecConfig", "jobSpecConfig"}
    config = {
        "image_pull_policy": given["imagePullPolicy"],
        "job_namespace": "operations",
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "run_k8s_config": {
            "container_config": raw["containerConfig"],
            "pod_spec_config": raw["podSpecConfig"],
            "job_spec_config": raw["jobSpecConfig"],
        },
    }
    parsed = process_config(K8sRunLauncher.config_type(), config)
    assert parsed.success, parsed.errors
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", lambda **_: None)
    return K8sRunLauncher(**parsed.value)


@pytest.fixture
def step_jobs(build_defs, launcher, code_location):
    """Return a function that builds the Kubernetes job of every asset's step."""
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import (
        UserDefinedDagsterK8sConfig,
        construct_dagster_k8s_job,
        get_user_defined_k8s_config,
    )

    def step_job(common, tags):
        asked = K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(tags))
        context = common.merge(asked)
        return construct_dagster_k8s_job(
            context.get_k8s_job_config("image:1", launcher),
            args=["dagster", "api", "execute_step"],
            job_name="step",
            user_defined_k8s_config=context.run_k8s_config,
        )

    def build(**variables):
        defs = build_defs(**variables)
        config = defs.executor.apply_config_mapping({"config": {}})
        assert config.success, config.errors
        of_steps = UserDefinedDagsterK8sConfig.from_dict(config.value["config"]["step_k8s_config"])
        run = dg.DagsterRun(job_name="job", run_id="1")
        common = (
            K8sContainerContext.create_for_run(run, launcher, include_run_tags=False)
            .merge(K8sContainerContext.create_from_config(_container_context(code_location)))
            .merge(K8sContainerContext(run_k8s_config=of_steps))
        )
        graph = defs.resolve_asset_graph()
        nodes = [graph.get(key) for key in graph.materializable_asset_keys]
        return {
            node.key.to_user_string(): (node, step_job(common, node.assets_def.op.tags))
            for node in nodes
        }

    return build


def test_steps_of_the_pool_gpu_get_one_gpu_and_no_others_get_any(step_jobs):
    for name, (node, job) in step_jobs().items():
        pod = job.spec.template.spec
        on_gpu = "gpu" in node.pools
        assert (pod.containers[0].resources.limits.get(GPU) == "1") == on_gpu, name
        assert any(each.key == GPU for each in pod.tolerations or []) == on_gpu, name


def test_on_a_cluster_without_gpus_no_step_asks_for_one(step_jobs):
    for name, (_, job) in step_jobs(ESM_SAE_STEPS_GPUS="0").items():
        pod = job.spec.template.spec
        assert GPU not in pod.containers[0].resources.limits, name
        assert not pod.tolerations, name


def test_every_step_gets_what_the_values_and_settings_say(step_jobs, code_location):
    for name, (_, job) in step_jobs(ESM_SAE_STEPS_MEMORY_GB="24").items():
        pod = job.spec.template.spec
        [container] = pod.containers
        assert container.resources.requests == {"cpu": "4", "memory": "24G"}, name
        assert container.resources.limits["memory"] == "24G", name
        assert pod.security_context.run_as_non_root
        assert container.security_context.allow_privilege_escalation is False
        assert job.spec.backoff_limit == 0
        given = {each.name: each.value for each in container.env if each.value is not None}
        assert {each["name"]: each["value"] for each in code_location["env"]}.items() <= (
            given.items()
        )
        mounts = {each.mount_path: each.name for each in container.volume_mounts}
        [cache] = [each for each in pod.volumes if each.name == mounts["/cache"]]
        assert cache.empty_dir.size_limit == "200Gi"
        # Secrets come by reference.
        assert [each.secret_ref.name for each in container.env_from if each.secret_ref] == [
            "esm-sae-s3"
        ]
        [password] = [each for each in container.env if each.name == "DAGSTER_PG_PASSWORD"]
        assert password.value_from.secret_key_ref.name == "esm-sae-postgres"


def test_the_run_itself_asks_for_little_and_no_gpu(launcher):
    from dagster_k8s.job import construct_dagster_k8s_job

    run = dg.DagsterRun(job_name="job", run_id="1")
    context = launcher.get_container_context_for_run(run)
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config("image:1", launcher),
        args=["dagster", "api", "execute_run"],
        job_name="run",
        user_defined_k8s_config=context.run_k8s_config,
    )
    resources = job.spec.template.spec.containers[0].resources
    assert resources.requests == {"cpu": "250m", "memory": "1Gi"}
    assert not resources.limits


def test_jobs_run_their_steps_in_pods(build_defs):
    defs = build_defs()
    assert {defs.resolve_job_def(job.name).executor_def.name for job in defs.jobs} == {"k8s"}
    assert defs.resolve_implicit_global_asset_job_def().executor_def.name == "k8s"


def test_pools_of_the_values_are_those_of_an_instance(values, tmp_path):
    chosen = values["concurrency"]
    assert chosen["enabled"]
    assert chosen["pools"].keys() == {"granularity", "defaultLimit"}
    pools = {
        "granularity": chosen["pools"]["granularity"],
        "default_limit": chosen["pools"]["defaultLimit"],
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"concurrency": {"pools": pools}}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        found = instance.get_concurrency_config().pool_config
    assert found.pool_granularity.value == "op"
    assert found.default_pool_limit == 4


def test_values_name_secrets_and_hold_none(values):
    assert values["generatePostgresqlPasswordSecret"] is False
    assert "postgresqlPassword" not in values["postgresql"]
    for path, leaf in _leaves(values):
        secret = any(word in path.lower() for word in ("password", "secret", "token", "aws_"))
        if secret and isinstance(leaf, str):
            assert path.endswith(("SecretName", "envSecrets.0.name")), path
    assert values["ingress"]["enabled"] is False
    assert values["telemetry"]["enabled"] is False


def test_the_image_is_not_root_and_has_the_code_location(code_location):
    instructions = _dockerfile()
    assert [rest for name, *rest in instructions if name == "USER"] == [["10001"]]
    started = code_location["dagsterApiGrpcArgs"][1]
    assert ["COPY", "deploy/k8s/definitions.py", started] in instructions


def test_the_package_can_be_built_of_what_the_image_copies(tmp_path):
    for name, *rest in _dockerfile():
        if name == "COPY" and rest[-1] in {"./", "esm_sae", "esm_sae_assets"}:
            for source in rest[:-1]:
                _copy(REPOSITORY / source, tmp_path / source)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    [wheel] = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        assert "esm_sae_assets/instance/dagster.yaml" in archive.namelist()
        assert "esm_sae/data/proteins.fasta.gz" in archive.namelist()


def test_the_image_ignores_all_but_what_it_copies():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for name, *rest in _dockerfile()
        if name == "COPY" and not rest[0].startswith("--from")
        for source in rest[:-1]
    }
    assert "*" in ignored
    assert kept == copied


def _dockerfile():
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [line.split() for line in joined if line]


def _copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _container_context(deployment):
    """What the chart passes on to runs and steps of a code location."""
    return {
        "k8s": {
            "image_pull_policy": deployment["image"]["pullPolicy"],
            "env": deployment["env"],
            "env_secrets": [each["name"] for each in deployment["envSecrets"]],
            "volumes": deployment["volumes"],
            "volume_mounts": deployment["volumeMounts"],
            "namespace": "operations",
            "service_account_name": "dagster-user-deployments",
        }
    }


def _leaves(node, path=""):
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{path}.{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{path}.{number}")
    else:
        yield path, node


class _NoKeyTwice(yaml.SafeLoader):
    """YAML of which a stricter reader than PyYAML would say the same."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{keys} at {node.start_mark}"
        return super().construct_mapping(node, deep)
