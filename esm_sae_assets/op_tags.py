"""Pools and op tags: what a step needs of the machine it runs on.

Op tags reach the executor, asset tags do not. The local executors ignore those of Kubernetes
and Ray. What every step asks for alike is said to the executors, in deploy/.
"""

from typing import Any

from esm_sae_assets.settings import Settings

GPU_POOL = "gpu"
MEMORY_POOL = "memory"

_GPU = "nvidia.com/gpu"


def gpu_op_tags(settings: Settings) -> dict[str, Any]:
    """Return what a step of the pool ``gpu`` asks of Kubernetes and of Ray."""
    gpus = settings.steps.gpus
    if not gpus:
        return {}
    return {
        "dagster-k8s/config": {
            "container_config": {"resources": {"limits": {_GPU: gpus}}},
            # Nodes with GPUs are commonly tainted, so that nothing else runs there.
            "pod_spec_config": {"tolerations": [{"key": _GPU, "operator": "Exists"}]},
        },
        "dagster-ray/config": {"num_gpus": gpus},
    }
