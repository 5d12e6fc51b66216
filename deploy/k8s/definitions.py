"""The code location on Kubernetes: each step is a job with a pod of its own.

docs/deployment.md says how it is set up.
"""

from typing import Any

import dagster as dg
from dagster_k8s import k8s_job_executor

from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import Settings, load_settings


def build_k8s_defs(settings: Settings) -> dg.Definitions:
    """Build the code location with Kubernetes as the executor of every job.

    With another executor steps share the run's pod, and no op tag gives that one a GPU.
    """
    executor = k8s_job_executor.configured(
        {"step_k8s_config": {"container_config": {"resources": _resources(settings)}}}, name="k8s"
    )
    return dg.Definitions.merge(build_defs(settings), dg.Definitions(executor=executor))


def _resources(settings: Settings) -> dict[str, Any]:
    asked = settings.steps
    requests = {"cpu": str(asked.cpus)}
    if asked.memory_gb is None:
        return {"requests": requests}
    memory = f"{asked.memory_gb:g}G"
    return {"requests": requests | {"memory": memory}, "limits": {"memory": memory}}


defs = build_k8s_defs(load_settings())
