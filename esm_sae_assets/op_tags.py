"""Pools and op tags: what a step needs of the machine it runs on.

Op tags reach the executor, asset tags do not. The local executors ignore those of Kubernetes
and Ray.
"""

from typing import Any

GPU_POOL = "gpu"
MEMORY_POOL = "memory"

GPU_OP_TAGS: dict[str, Any] = {
    "dagster-k8s/config": {
        "container_config": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
    },
    "dagster-ray/config": {"num_cpus": 1, "num_gpus": 1},
}
