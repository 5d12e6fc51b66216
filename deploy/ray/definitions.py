"""The code location on Ray: each step is a job of the cluster, with the GPUs that it asks for.

``dagster dev -w deploy/ray/workspace.yaml``; docs/deployment.md says how it is set up.
"""

import os
from pathlib import Path

import dagster as dg
from dagster_ray import ray_executor

from esm_sae.errors import InputError
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import Settings, load_settings


def build_ray_defs(settings: Settings) -> dg.Definitions:
    """Build the code location with Ray as the executor of every job.

    Raises:
        InputError: a path in the settings is relative; steps start where Ray was started.
    """
    _require_absolute(settings)
    asked = settings.steps
    of_every_step = {
        # No GPUs: a number here would override the assets' own tags. Without any number of
        # cores Ray would put every step on the head node.
        "num_cpus": asked.cpus,
        **({"memory": round(asked.memory_gb * 1e9)} if asked.memory_gb else {}),
        # No other variables: whoever opens Ray's dashboard sees what a job is given.
        "env_vars": sorted(name for name in os.environ if name.startswith("ESM_SAE_")),
    }
    executor = ray_executor.configured({"ray": of_every_step}, name="ray")
    return dg.Definitions.merge(build_defs(settings), dg.Definitions(executor=executor))


def _require_absolute(settings: Settings) -> None:
    paths = {
        "data_root": settings.data_root,
        "source": "" if settings.source == "bundled" else settings.source,
        "source_metalink": settings.source_metalink,
        "similarity_clusters": (
            "" if settings.similarity_clusters == "bundled" else settings.similarity_clusters
        ),
        "embedding.weights": settings.embedding.weights,
        "clusters.taxonomy": settings.clusters.taxonomy,
        "clusters.species_list": settings.clusters.species_list,
        "analysis.annotations": settings.analysis.annotations,
    }
    for name, path in paths.items():
        if path and "://" not in path and not Path(path).is_absolute():
            raise InputError(
                f"settings: {name} = '{path}' is relative; on Ray every machine must find it: "
                "give an absolute path that all share, or a URL"
            )


defs = build_ray_defs(load_settings())
